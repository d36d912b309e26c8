"""The files of a graph in the making: blocks of lines at their place, checksums beside, one rename at the end."""

import contextlib
import fcntl
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.index.parts import sum_file
from engine.index.result import SearchResult
from engine.jobs.graph_record import (
    ANOTHER,
    DOCUMENT,
    FILES,
    FORMAT_VERSION,
    NEIGHBORS,
    check_files,
    how_it_differs,
    product_of,
    read_record,
    record_of,
)
from engine.progress import Progress
from engine.store import npy
from engine.store.durable import flush_folder, part_of, publish, write_at
from engine.store.formats.room import check_room, full_disk
from engine.store.journal import Journal, job_of
from engine.store.manifest import digest, write_document

SCORES, PHOTO_IDS = "scores.npy", "photo_ids.npy"
JOURNAL = "graph.journal"


class GraphFiles:
    """`OUT.part`, a folder: taken for this process alone, with what an interrupted run of the same job left in it.

    whole: it only lacks its name. absent: neighbours that are absent in all blocks written or found so far.
    """

    def __init__(self, out: Path, job: Mapping[str, Any], shape: tuple[int, int], block: int) -> None:
        """Open the folder; InputError when another job was begun there, DiskFullError when it cannot fit."""
        self.out, self.job, self.shape, self.block = out, dict(job), shape, block
        self.part = part_of(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _alone(self.part)
        self._handles: dict[str, int] = {}
        try:
            self._refuse_other()
            self.absent = 0
            self.whole = self._is_whole()
            if self.whole:
                self.absent = int(read_record(self.part / DOCUMENT)["absent"])
            else:
                self._open()
        except BaseException:
            with contextlib.suppress(OSError):  # what an interrupted run left stays; an empty folder is of no use
                self.part.rmdir()
            self.close()
            raise

    @property
    def _product(self) -> Path:
        """What gets the name of the graph, where it is a file."""
        return self.part / product_of(self.out)

    def _is_whole(self) -> bool:
        document = self.part / DOCUMENT
        named = self.out.suffix.lower() in FILES and not self._product.exists()
        if document.exists() and named and not self.out.exists():
            document.unlink()  # it was finished, and the file taken away since
        if document.exists() and not named:
            known = read_record(document)
            check_files(known, {name: self.part / name for name in known["files"]}, self.part)
        return document.exists()

    def _refuse_other(self) -> None:
        document = read_record(self.part / DOCUMENT) if (self.part / DOCUMENT).exists() else None
        begun = document["job"] if document else job_of(self.part, JOURNAL)
        if begun is not None and begun != self.job:
            raise InputError(
                f"{self.part}: holds {how_it_differs(begun, self.job)} that was interrupted. Run that one again, "
                "choose another place with --out, or remove this folder."
            )
        if begun is None and any(file.name != JOURNAL for file in self.part.iterdir()):
            raise InputError(f"{self.part}: is there already, and no graph that was begun. {ANOTHER}")

    def _open(self) -> None:
        lines, k = self.shape
        there = sum(file.stat().st_blocks * 512 for file in self.part.iterdir())
        check_room(self.out, lines * k * 12 - there)
        self._journal = Journal(self.part, self.job, JOURNAL)
        for name, dtype in ((NEIGHBORS, "<i8"), (SCORES, "<f4")):
            self._handles[name] = handle = os.open(self.part / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            write_at(handle, memoryview(npy.header(self.shape, dtype)), 0)
            os.ftruncate(handle, npy.HEADER_BYTES + lines * k * np.dtype(dtype).itemsize)

    @property
    def blocks(self) -> int:
        """How many blocks there are in all."""
        return -(-self.shape[0] // self.block)

    def lines(self, block: int) -> slice:
        """The lines of a block."""
        return slice(block * self.block, min((block + 1) * self.block, self.shape[0]))

    def found(self, progress: Progress) -> set[int]:
        """The blocks that an interrupted run wrote and that are whole, each read against its checksums."""
        lines = {line["block"]: line for line in self._journal.entries if line.get("block") in range(self.blocks)}
        found = set()
        for done, (block, line) in enumerate(lines.items(), 1):
            if line["sums"] == self._sums(block):
                found.add(block)
                self.absent += line["absent"]
            progress("look at what is there", done, len(lines), unit="blocks")
        return found

    def _sums(self, block: int) -> list[str]:
        part = self.lines(block)
        count, sums = (part.stop - part.start) * self.shape[1], []
        for handle, size in zip(self._handles.values(), (8, 4), strict=True):
            sums.append(digest(os.pread(handle, count * size, npy.HEADER_BYTES + part.start * self.shape[1] * size)))
        return sums

    def write(self, block: int, result: SearchResult) -> None:
        """Write the lines of a block."""
        start, sums = self.lines(block).start, []
        for handle, array in zip(self._handles.values(), (result.photo_ids, result.scores), strict=True):
            data = np.ascontiguousarray(array).reshape(-1)
            at = npy.HEADER_BYTES + start * self.shape[1] * data.itemsize
            write_at(handle, data.data.cast("B"), at)
            sums.append(digest(data))
        absent = int(np.count_nonzero(result.photo_ids < 0))
        self._journal.add({"block": block, "sums": sums, "absent": absent})
        self.absent += absent

    def read(self, block: int) -> SearchResult:
        """The lines of a block that is there."""
        part = self.lines(block)
        arrays = []
        for handle, dtype in zip(self._handles.values(), (np.int64, np.float32), strict=True):
            size = self.shape[1] * np.dtype(dtype).itemsize
            data = os.pread(handle, (part.stop - part.start) * size, npy.HEADER_BYTES + part.start * size)
            arrays.append(np.frombuffer(data, dtype).reshape(-1, self.shape[1]))
        return SearchResult(photo_ids=arrays[0], scores=arrays[1])

    def finish(self, photo_ids: npt.NDArray[np.int64]) -> None:
        """Flush all, say in `graph.json` that it is whole, and give it its name."""
        if not self.whole:
            for handle in self._handles.values():
                os.fsync(handle)
            kind, names = self.out.suffix.lower(), [product_of(self.out)]
            if kind == ".parquet":
                self._write_parquet(photo_ids)
            elif kind not in FILES:
                ids = np.ascontiguousarray(photo_ids, "<i8")
                data = npy.header(ids.shape, "<i8") + ids.tobytes()
                part_of(self.part / PHOTO_IDS).write_bytes(data)
                publish(self.part / PHOTO_IDS)
                names = [NEIGHBORS, SCORES, PHOTO_IDS]
            files = {name: sum_file(self.part / name).model_dump() for name in names}
            document = {"version": FORMAT_VERSION, "job": self.job, "absent": self.absent, "files": files}
            write_document(self.part / DOCUMENT, document)
            self.whole = True
        self._rename()

    def _rename(self) -> None:
        """From here on nothing is computed again: a run that is killed is finished by the next."""
        if self.out.suffix.lower() in FILES:
            if self._product.exists():
                if os.path.lexists(self.out):
                    raise InputError(f"{self.out}: is there now, and was not when this graph was begun. Move it away "
                                     "and run the same command again.")  # fmt: skip
                self._product.replace(self.out)
                flush_folder(self.out.parent)
            for file in self.part.iterdir():
                if file.name != DOCUMENT:
                    file.unlink()
            (self.part / DOCUMENT).replace(record_of(self.out))  # the record last
            flush_folder(self.out.parent)
            self.part.rmdir()
            return
        for file in self.part.iterdir():
            if file.name not in (DOCUMENT, NEIGHBORS, SCORES, PHOTO_IDS):
                file.unlink()
        flush_folder(self.part)
        self.part.replace(self.out)
        flush_folder(self.out.parent)

    def _write_parquet(self, photo_ids: npt.NDArray[np.int64]) -> None:
        """A row for each neighbour that there is: photo_id, rank from 1, neighbor, score; a row group a block."""
        import pyarrow as pa
        from pyarrow import parquet

        kinds = {"photo_id": pa.int64(), "rank": pa.int32(), "neighbor": pa.int64(), "score": pa.float32()}
        fields: list[Any] = [pa.field(name, kind, nullable=False) for name, kind in kinds.items()]
        schema = pa.schema(fields).with_metadata({"layer": self.job["layer"], "metric": self.job["metric"]})
        with full_disk(self.out), parquet.ParquetWriter(self._product, schema) as writer:
            for block in range(self.blocks):
                found, ids = self.read(block), photo_ids[self.lines(block)]
                line, rank = np.nonzero(found.photo_ids >= 0)
                columns: Any = [ids[line], (rank + 1).astype(np.int32), found.photo_ids[line, rank],
                                found.scores[line, rank]]  # fmt: skip
                writer.write_table(pa.Table.from_arrays([pa.array(column) for column in columns], schema=schema))
        with self._product.open("rb") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Let go of the files; what is there stays for the next run of the same job."""
        if hasattr(self, "_journal"):
            self._journal.close()
        for handle in (*self._handles.values(), self._lock):
            os.close(handle)


def _alone(folder: Path) -> int:
    """The handle of the folder, made if it is not there and locked; EngineError when another process has it."""
    while True:
        folder.mkdir(exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # another process has just finished and renamed it
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise EngineError(f"{folder}: another mirsearch is writing this graph. Wait for it to end.") from None
        os.close(handle)
