"""Writing a store: blocks of rows at their place, checksums beside, everything made valid in one step at the end."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.progress import Progress, silent
from engine.store import commit, journal, npy, publish
from engine.store.durable import disk_errors, part_of
from engine.store.hold import sweep
from engine.store.lock import NAME as LOCK
from engine.store.lock import take_lock
from engine.store.manifest import (
    Layer,
    Manifest,
    QuerySet,
    digest,
    document_bytes,
    read_manifest,
    row_state,
)
from engine.store.order import sorted_copy
from engine.store.publish import IDS
from engine.store.rows_file import RowsFile
from engine.version import VERSION
from kernels.device import cpu_threads


@dataclass(frozen=True, kw_only=True)
class Written:
    """A block that is on the disk: where, a checksum for each file, and what was refused beside it."""

    start: int
    rows: int
    sums: dict[str, str]
    refused: Sequence[Any] = ()


@dataclass(frozen=True)
class Place:
    """Room for a block: its number and its first row."""

    block: int
    start: int


class StoreWriter:
    """A store in the making, or one that grows.

    Blocks are reserved in order (`reserve`) and may then be written from any thread (`write`): their bytes, and so
    the whole store, do not depend on who wrote when. Nothing that can be opened changes before `finish`. Leaving the
    `with` without it keeps the blocks that have a key, and the next writer of the same store has them in `found`;
    without any, nothing is left.

    append: a store that is there gets new rows at its end; else it is an error that there is one.
    """

    def __init__(
        self, path: Path, layers: Mapping[str, int], *, append: bool = False, progress: Progress = silent
    ) -> None:
        self.path = path
        self.dims = dict(layers)
        self.append = append
        self.base: Manifest | None = None
        self.rows = self.resumed = 0
        self.found: dict[str, Written] = {}
        self.marks: dict[str, dict[str, Any]] = {}
        self._progress = progress
        self._blocks: list[Written | None] = []
        self._starts: list[int] = []
        self._quarantine: list[bytes] = []
        self._query_sets: dict[str, QuerySet] = {}
        self._files: dict[str, RowsFile] = {}
        self._sorted: tuple[str, ...] = ()
        self._done = self._discarded = self._keyed = False

    def __enter__(self) -> Self:
        """Take the folder for this process alone, open the files, and see what an interrupted run left."""
        with disk_errors(self.path):
            self._new_folder = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            first = not (self.path / LOCK).exists()
            self._lock = take_lock(self.path)
            try:
                commit.finish_pending(self.path)
                sweep(self.path)
                try:
                    self._look()
                except StoreError:
                    if first:
                        (self.path / LOCK).unlink()
                    raise
                self._journal = journal.Journal(self.path, self._job())
                try:
                    self._open()
                    self._find()
                except BaseException:
                    self._close()
                    raise
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def _job(self) -> dict[str, Any]:
        """What a journal is of: only a run that means the same may go on with it."""
        return {"layers": self.dims, "base": self.base.state if self.base else ""}

    def _look(self) -> None:
        """Accept the folder or refuse it: a store to append to, an interrupted run, or nothing of ours."""
        problem = ""
        if (self.path / "manifest.json").exists():
            if self.append:
                self.base = read_manifest(self.path)
                publish.check_quarantine(self.path, self.base)
                dims = {name: layer.dim for name, layer in self.base.layers.items()}
                if dims != self.dims:
                    problem = f"holds layers {_named(dims)}, expected {_named(self.dims)}. Name another folder"
            else:
                problem = "already holds a store. Name another folder with --store, or remove this one first"
        elif (begun := journal.job_of(self.path)) is not None and begun.get("layers") != self.dims:
            problem = "holds an interrupted ingest or import of something else. Finish that one, or remove the folder"
        elif not (self.path / journal.NAME).exists():
            names = [*(f"{name}.npy" for name in (*self.dims, IDS)), publish.QUARANTINE]
            taken = [name for name in names if (self.path / name).exists()]
            if taken:
                problem = f"holds {taken[0]}, which no ingest began. Name another folder with --store"
        if problem:
            raise StoreError(f"{self.path}: {problem}.")
        self.rows = self.base.rows if self.base else 0

    @property
    def header_bytes(self) -> int:
        """Length of the header of every row file."""
        return self.base.header_bytes if self.base else npy.PAGE

    def _row_bytes(self, name: str) -> int:
        return 8 if name == IDS else self.dims[name] * 4

    def _open(self) -> None:
        for name in self.dims:
            file = self.path / f"{name}.npy"
            self._files[name] = RowsFile(file if self.base else part_of(file), create=self.base is None)
        ids = self._files[IDS] = RowsFile(part_of(self.path / f"{IDS}.npy"), create=True)
        if self.base:
            ids.write(memoryview((self.path / f"{IDS}.npy").read_bytes()), 0)

    def _find(self) -> None:
        """Read every block of the journal against its checksums: what matches need not be written again."""
        blocks = {line["key"]: line for line in self._journal.entries if isinstance(line.get("key"), str)}
        self.marks = {line["mark"]: line for line in self._journal.entries if isinstance(line.get("mark"), str)}
        with ThreadPoolExecutor(cpu_threads()) as pool:
            for done, (key, line) in enumerate(zip(blocks, pool.map(self._intact, blocks.values()), strict=True), 1):
                self._progress("look at what is there", done, len(blocks), unit="blocks")
                if line:
                    self.found[key] = line

    def _intact(self, line: Mapping[str, Any]) -> Written | None:
        try:
            found = Written(start=line["start"], rows=line["rows"], sums=dict(line["sums"]), refused=line["refused"])
            good = found.sums.keys() == self._files.keys() and found.start >= 0 and found.rows >= 0
            return found if good and all(self._is_there(found, name) for name in found.sums) else None
        except (KeyError, TypeError, ValueError):  # a line of another program, its checksum right
            return None

    def _is_there(self, block: Written, name: str) -> bool:
        size = self._row_bytes(name)
        offset, length = self.header_bytes + block.start * size, block.rows * size
        if offset + length > self._files[name].path.stat().st_size:  # before memory is taken
            return False
        return digest(self._files[name].read(length, offset)) == block.sums[name]

    def reserve(self, rows: int) -> Place:
        """Take the next `rows` rows. Call in the order of the rows."""
        place = Place(len(self._blocks), self.rows)
        self._blocks.append(None)
        self._starts.append(self.rows)
        self.rows += rows
        return place

    @property
    def written(self) -> int:
        """How many new rows are on the disk."""
        return sum(block.rows for block in self._blocks if block)

    def keep(self, written: Written) -> None:
        """Take over the next block as an interrupted run left it, which `found` says. Call in the order of the rows."""
        if written.start != self.rows:
            raise AssertionError(f"block at row {written.start}, expected {self.rows}")
        self._blocks.append(written)
        self._starts.append(self.rows)
        self.rows += written.rows
        self.resumed += written.rows

    def rewind(self, rows: int) -> None:
        """Take back the blocks from row `rows` on, where one of them began. Call when no other is being written."""
        while self.rows > rows:
            self.rows = self._starts.pop()
            self._blocks.pop()

    def write(
        self,
        place: Place,
        photo_ids: npt.NDArray[np.int64],
        layers: Mapping[str, npt.NDArray[np.float32]],
        *,
        key: str = "",
        refused: Sequence[Any] = (),
    ) -> None:
        """Write one reserved block: ids (r,) int64 and each layer (r, dim) float32, C order.

        key: the name under which `found` has the block when the job is interrupted, with what was refused beside it.
        """
        sums: dict[str, str] = {}
        for name, rows in [*layers.items(), (IDS, np.asarray(photo_ids, "<i8"))]:
            data = np.ascontiguousarray(rows).data.cast("B")
            sums[name] = digest(data)
            self._files[name].write(data, self.header_bytes + place.start * self._row_bytes(name))
        self._blocks[place.block] = Written(start=place.start, rows=len(photo_ids), sums=sums)
        if key:
            line = {"key": key, "start": place.start, "rows": len(photo_ids), "sums": sums, "refused": list(refused)}
            self._journal.add(line)
            self._keyed = True

    def mark(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note that a part of the job is done, for `marks` of the next run should this one be interrupted."""
        self._journal.add({"mark": name, **facts})

    def ids(self) -> npt.NDArray[np.int64]:
        """The ids (rows,) of all rows so far, written ones and those that were there before."""
        return np.frombuffer(self._files[IDS].read(self.rows * 8, self.header_bytes), "<i8").astype(np.int64)

    def row(self, layer: str, number: int) -> npt.NDArray[np.float32]:
        """One row (dim,) that was written or was there before."""
        size = self._row_bytes(layer)
        return np.frombuffer(self._files[layer].read(size, self.header_bytes + number * size), "<f4")

    def quarantine(self, line: bytes) -> None:
        """Add one JSON line to `quarantine.jsonl`."""
        self._quarantine.append(line)

    def discard(self) -> None:
        """Leave nothing behind when the `with` ends without `finish`."""
        self._discarded = True

    def query_set(
        self,
        layer: str,
        queries: npt.NDArray[np.float32],
        neighbors: npt.NDArray[np.int64],
        distances: npt.NDArray[np.float32] | None,
        metric: str,
    ) -> None:
        """Keep queries (q, dim) of a layer with the photo ids (q, k) of their true neighbours, nearest first.

        distances: (q, k) as they were given, or None. metric: cosine, ip or l2.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"queries": np.asarray(queries, "<f4")}
        arrays["neighbors"] = np.asarray(neighbors, "<i8")
        if distances is not None:
            arrays["distances"] = np.asarray(distances, "<f4")
        with disk_errors(self.path):
            self._query_sets[layer] = publish.query_set(self.path, layer, arrays, metric, self.header_bytes)

    def sort(self) -> None:
        """Put the rows of a new store in ascending order of photo id, if they are not: one more copy of them all."""
        ids = self.ids()
        if self.base or (np.diff(ids) > 0).all():
            return
        with disk_errors(self.path):
            files = {name: (self._files[name], self._row_bytes(name)) for name in (*self.dims, IDS)}
            blocks = sorted_copy(self.path, files, ids, self.header_bytes, self._progress)
        self._blocks = [Written(start=start, rows=rows, sums=sums) for start, rows, sums in blocks]
        for name in self._files:
            self._files[name].close()
            self._files[name] = RowsFile(self.path / f"{name}.sorted.part", create=False)
        self._sorted = tuple(self._files)

    def finish(self, sources: Sequence[str]) -> Manifest:
        """Flush everything and make it valid in one step. With nothing new, a store that was there stays as it is."""
        blocks = [block for block in self._blocks if block is not None]
        if len(blocks) != len(self._blocks):
            raise AssertionError("a block was reserved and never written")
        with disk_errors(self.path):
            lines = publish.quarantine_lines(self.path, self.base, self._quarantine)
            if self.base and not blocks and not self._query_sets and len(lines) == self.base.quarantined:
                self._discarded = True
                return self.base
            manifest = self._manifest(blocks, lines, sources)
            for name, file in self._files.items():
                if name == IDS or not self.base:
                    shape = (self.rows,) if name == IDS else (self.rows, self.dims[name])
                    file.write(memoryview(npy.header(shape, "<i8" if name == IDS else "<f4", self.header_bytes)), 0)
                    file.cut(self.header_bytes + self.rows * self._row_bytes(name))
                file.sync()
            publish.write_part(self.path / publish.QUARANTINE, b"".join(lines))
            publish.write_part(self.path / "manifest.json", document_bytes(manifest.model_dump(mode="json")))
            steps = publish.steps(manifest, self._query_sets, grown=self.base is not None, in_order=not self._sorted)
            commit.commit(self.path, [*steps, commit.Delete(file=journal.NAME)])
            self._done = True
        return read_manifest(self.path)

    def _manifest(self, blocks: Sequence[Written], lines: Sequence[bytes], sources: Sequence[str]) -> Manifest:
        base, ids_sum = self.base, digest(self.ids())
        block_rows = [*(base.block_rows if base else ()), *(block.rows for block in blocks)]
        layers = {}
        for name, dim in self.dims.items():
            before = base.layers[name].xxh3 if base else []
            layers[name] = Layer(file=f"{name}.npy", dim=dim, xxh3=[*before, *(block.sums[name] for block in blocks)])
        state = row_state(ids_sum, block_rows, layers) if blocks or not base else base.state
        sets = {name: known.model_copy(update={"state": state}) for name, known in self._query_sets.items()}
        return Manifest(
            engine_version=VERSION,
            rows=self.rows,
            layers=layers,
            block_rows=block_rows,
            photo_ids_xxh3=ids_sum,
            sources=list(dict.fromkeys([*(base.sources if base else ()), *sources])),
            quarantined=len(lines),
            quarantine_xxh3=digest(b"".join(lines)),
            header_bytes=4096 if self.header_bytes == npy.PAGE else 128,
            state=state,
            removed=base.removed if base else None,
            query_sets={**(base.query_sets if base else {}), **sets},
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder. Not finished: what was written stays for the next run, unless there is nothing."""
        given_up = not self._done and (self._discarded or not (self._keyed or self.found))
        if given_up and not (self.path / commit.NAME).exists():
            self._clean()
            if not self.base:
                (self.path / LOCK).unlink(missing_ok=True)
            if self._new_folder:
                with suppress(OSError):
                    self.path.rmdir()
        self._close()
        os.close(self._lock)

    def _clean(self) -> None:
        """Remove what was begun, and leave the store that was there as it was."""
        for name, dim in self.dims.items():
            if self.base:
                self._files[name].cut(self.header_bytes + self.base.rows * dim * 4)
        for part in publish.leftovers(self.path, self.dims):
            part.unlink(missing_ok=True)
        (self.path / journal.NAME).unlink(missing_ok=True)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._journal.close()


def _named(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({dim})" for name, dim in dims.items())
