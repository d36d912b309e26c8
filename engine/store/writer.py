"""Writing a store: blocks of rows at their place, checksums beside, everything renamed at the end."""

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.store import npy
from engine.store.durable import (
    PART,
    disk_errors,
    flush_folder,
    part_of,
    publish,
    start_writeback,
    write_at,
    write_whole,
)
from engine.store.manifest import Layer, Manifest, digest, write_manifest
from engine.version import VERSION


class StoreWriter:
    """A store in the making. Until `finish`, nothing that can be opened exists.

    Blocks are reserved in order (`reserve`) and may then be written from any thread (`write`): their bytes, and so
    the whole store, do not depend on who wrote when. Leaving the `with` without `finish` removes what was begun.
    """

    def __init__(self, path: Path, layers: Mapping[str, int]) -> None:
        self.path = path
        self.dims = dict(layers)
        self.rows = 0
        self._blocks: list[int] = []
        self._sums: dict[str, dict[int, str]] = {name: {} for name in layers}
        self._ids: dict[int, npt.NDArray[np.int64]] = {}
        self._quarantine: list[bytes] = []
        self._handles: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Take the folder for this process alone and open the parts."""
        with disk_errors(self.path):
            self._new_folder = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            try:
                for name in self.dims:
                    part = part_of(self.path / f"{name}.npy")
                    self._handles[name] = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            except BaseException:
                self._let_go()
                raise
        return self

    def _take_lock(self) -> int:
        """The handle of `.lock`, locked; StoreError when somebody has it, or the folder is not ours to write."""
        file = self.path / ".lock"
        begun_before = file.exists()
        handle = -1
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who ends without a store removes the file, and a folder it made: what was locked may be gone by now.
            if not os.path.samestat(os.fstat(handle), file.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            if handle >= 0:
                os.close(handle)
            raise StoreError(f"{self.path}: another mirsearch is writing here. Wait for it to end.") from None
        taken = [name for name in self._names() if (self.path / name).exists()]
        problem = ""
        if (self.path / "manifest.json").exists():  # looked at under the lock: it may have been finished just now
            problem = "already holds a store. Name another folder with --store, or remove this one first"
        elif taken and not begun_before:
            problem = f"holds {taken[0]}, which no ingest began. Name another folder with --store"
        if problem:
            if not begun_before:
                file.unlink()
            os.close(handle)
            raise StoreError(f"{self.path}: {problem}.")
        return handle

    def _names(self) -> list[str]:
        """The files of a store, the manifest last."""
        return [*(f"{name}.npy" for name in self.dims), "photo_ids.npy", "quarantine.jsonl", "manifest.json"]

    def reserve(self, rows: int) -> tuple[int, int]:
        """Take the next `rows` rows: (number of the block, first row). Call in the order of the rows."""
        block, start = len(self._blocks), self.rows
        self._blocks.append(rows)
        self.rows += rows
        return block, start

    def write(
        self,
        place: tuple[int, int],
        photo_ids: npt.NDArray[np.int64],
        layers: Mapping[str, npt.NDArray[np.float32]],
    ) -> None:
        """Write one reserved block: ids (r,) int64 and each layer (r, dim) float32, C order."""
        block, start = place
        self._ids[block] = photo_ids
        for name, rows in layers.items():
            data = np.ascontiguousarray(rows).data.cast("B")
            self._sums[name][block] = digest(data)
            offset = npy.HEADER_BYTES + start * rows.shape[1] * 4
            write_at(self._handles[name], data, offset)
            start_writeback(self._handles[name], offset, len(data))

    def quarantine(self, line: bytes) -> None:
        """Add one JSON line to `quarantine.jsonl`."""
        self._quarantine.append(line)

    def finish(self, sources: Sequence[str]) -> Manifest:
        """Flush and rename everything, the manifest last."""
        with disk_errors(self.path):
            blocks = range(len(self._blocks))
            ids = np.concatenate([self._ids[i] for i in blocks]) if self._blocks else np.empty(0, np.int64)
            for name, dim in self.dims.items():
                write_at(self._handles[name], memoryview(npy.header((self.rows, dim), "<f4")), 0)
                os.close(self._handles.pop(name))
                publish(self.path / f"{name}.npy")
            write_whole(self.path / "photo_ids.npy", npy.header((self.rows,), "<i8") + ids.astype("<i8").tobytes())
            lines = b"".join(self._quarantine)
            write_whole(self.path / "quarantine.jsonl", lines)
            flush_folder(self.path)
            manifest = Manifest(
                engine_version=VERSION,
                rows=self.rows,
                layers={
                    name: Layer(file=f"{name}.npy", dim=dim, xxh3=[self._sums[name][i] for i in blocks])
                    for name, dim in self.dims.items()
                },
                block_rows=list(self._blocks),
                photo_ids_xxh3=digest(ids),
                sources=list(sources),
                quarantined=len(self._quarantine),
                quarantine_xxh3=digest(lines),
            )
            write_manifest(self.path, manifest)
        return manifest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder; without a manifest, what was begun is removed."""
        self._let_go()

    def _let_go(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()
        if not (self.path / "manifest.json").exists():
            for name in self._names():
                (self.path / name).unlink(missing_ok=True)
                (self.path / (name + PART)).unlink(missing_ok=True)
            (self.path / ".lock").unlink(missing_ok=True)
            if self._new_folder:
                with suppress(OSError):
                    self.path.rmdir()
        os.close(self._lock)
