"""The arrays of a store in the making: a row file for each layer and one for the photo ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.progress import Progress
from engine.store import npy
from engine.store.durable import part_of
from engine.store.manifest import Manifest, digest
from engine.store.order import sorted_copy
from engine.store.publish import IDS
from engine.store.rows_file import RowsFile


@dataclass(frozen=True, kw_only=True)
class Written:
    """A block that is on the disk: where, a checksum for each file, and what was refused beside it."""

    start: int
    rows: int
    sums: dict[str, str]
    refused: Sequence[Any] = ()


class Arrays:
    """Row files that are written aside; those of a store that grows take new rows behind the ones they count.

    Nothing here says which rows are valid: the header that counts them comes at the end (`complete`), and in a
    store that grows the layers get theirs with the commit.
    """

    def __init__(self, path: Path, layers: Mapping[str, int], base: Manifest | None) -> None:
        self.path, self.dims, self.base = path, dict(layers), base
        self._files: dict[str, RowsFile] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for name in self.dims:
            file = self.path / f"{name}.npy"
            self._files[name] = RowsFile(file if self.base else part_of(file), create=self.base is None)
        ids = self._files[IDS] = RowsFile(part_of(self.path / f"{IDS}.npy"), create=True)
        if self.base:
            ids.write(memoryview((self.path / f"{IDS}.npy").read_bytes()), 0)

    @property
    def header_bytes(self) -> int:
        """Length of the header of every row file."""
        return self.base.header_bytes if self.base else npy.PAGE

    def _row_bytes(self, name: str) -> int:
        return 8 if name == IDS else self.dims[name] * 4

    def write(
        self, start: int, photo_ids: npt.NDArray[np.int64], layers: Mapping[str, npt.NDArray[np.float32]]
    ) -> dict[str, str]:
        """Write ids (r,) int64 and each layer (r, dim) float32 from row `start` on; gives a checksum for each file.

        Safe from several threads for rows that do not overlap.
        """
        sums: dict[str, str] = {}
        for name, rows in [*layers.items(), (IDS, np.asarray(photo_ids, "<i8"))]:
            data = np.ascontiguousarray(rows).data.cast("B")
            sums[name] = digest(data)
            self._files[name].write(data, self.header_bytes + start * self._row_bytes(name))
        return sums

    def has(self, block: Written) -> bool:
        """Whether every file has the block, by its checksum."""
        good = block.sums.keys() == self._files.keys() and block.start >= 0 and block.rows >= 0
        return good and all(self._is_there(block, name) for name in block.sums)

    def _is_there(self, block: Written, name: str) -> bool:
        size = self._row_bytes(name)
        offset, length = self.header_bytes + block.start * size, block.rows * size
        if offset + length > self._files[name].path.stat().st_size:  # before memory is taken
            return False
        return digest(self._files[name].read(length, offset)) == block.sums[name]

    def ids(self, rows: int) -> npt.NDArray[np.int64]:
        """The photo ids (rows,) of the first `rows` rows."""
        return np.frombuffer(self._files[IDS].read(rows * 8, self.header_bytes), "<i8").astype(np.int64)

    def row(self, layer: str, number: int) -> npt.NDArray[np.float32]:
        """One row (dim,) of a layer."""
        size = self._row_bytes(layer)
        return np.frombuffer(self._files[layer].read(size, self.header_bytes + number * size), "<f4")

    def sort(self, ids: npt.NDArray[np.int64], progress: Progress) -> list[Written]:
        """Go on with copies whose rows are in ascending order of `ids` (n,); gives their blocks."""
        files = {name: (self._files[name], self._row_bytes(name)) for name in (*self.dims, IDS)}
        blocks = sorted_copy(self.path, files, ids, self.header_bytes, progress)
        for name in self._files:
            self._files[name].close()
            self._files[name] = RowsFile(self.path / f"{name}.sorted.part", create=False)
        return [Written(start=start, rows=rows, sums=sums) for start, rows, sums in blocks]

    def complete(self, rows: int) -> None:
        """Give every file that is new its header and the length of `rows` rows, and flush all."""
        for name, file in self._files.items():
            if name == IDS or not self.base:
                shape = (rows,) if name == IDS else (rows, self.dims[name])
                file.write(memoryview(npy.header(shape, "<i8" if name == IDS else "<f4", self.header_bytes)), 0)
                file.cut(self.header_bytes + rows * self._row_bytes(name))
            file.sync()

    def cut_back(self) -> None:
        """Take new rows off the layers of a store that was there."""
        if self.base:
            for name in self.dims:
                self._files[name].cut(self.header_bytes + self.base.rows * self._row_bytes(name))

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
