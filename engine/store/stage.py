"""Rows that will take the place of others, collected beside the store until one commit writes them over."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import xxhash

from engine.errors import StoreError
from engine.store import commit
from engine.store.blocks import PIECE, Block, DiskFile, layer_blocks, read_threads
from engine.store.hold import CHANGE_PART, change_part
from engine.store.manifest import Layer, Manifest
from engine.store.publish import write_part
from engine.store.rows_file import RowsFile

# No layer's name has a dot, so none can be taken for this.
_AT = "at.rows"


class Stage:
    """Collects rows; the caller holds the store. count: how many there are."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest, self.count = path, manifest, 0
        self._lock = threading.Lock()
        self._at: list[tuple[int, npt.NDArray[np.int64]]] = []
        self._dims = {name: layer.dim for name, layer in manifest.layers.items()}
        self._files = {
            name: RowsFile(path / change_part(layer.file), create=True) for name, layer in manifest.layers.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def add(self, rows: npt.NDArray[np.int64], layers: dict[str, npt.NDArray[np.float32]]) -> int:
        """Keep layers (m, dim) for row numbers (m,); gives where the first of them stands here. From any thread."""
        with self._lock:
            start = self.count
            self.count += len(rows)
            self._at.append((start, rows))
        for name, data in layers.items():
            self._files[name].write(
                np.ascontiguousarray(data, "<f4").reshape(-1).data.cast("B"), start * self._size(name)
            )
        return start

    def rewind(self, count: int) -> None:
        """Forget all but the first `count`. Call when no other thread adds."""
        self._at = [(start, rows) for start, rows in self._at if start < count]
        self.count = count

    def row(self, name: str, position: int) -> bytes:
        """The bytes of one row of a layer, by where it stands here."""
        return self._files[name].read(self._size(name), position * self._size(name))

    def _size(self, name: str) -> int:
        return self._dims[name] * 4

    def rows(self) -> npt.NDArray[np.int64]:
        """The row number (count,) of each."""
        return np.concatenate([np.empty(0, np.int64), *(rows for _, rows in self._at)])

    def steps(self) -> tuple[list[commit.Step], list[commit.Step]]:
        """Flush everything; what then writes the rows into the store, and what cleans up after the manifest."""
        write_part(self.path / f"{_AT}.change", self.rows().astype("<i8").tobytes())
        writes: list[commit.Step] = []
        at_part = _AT + CHANGE_PART
        for name, file in self._files.items():
            file.cut(self.count * self._size(name))
            file.sync()
            layer, header = self.manifest.layers[name], self.manifest.header_bytes
            part = change_part(layer.file)
            writes.append(
                commit.Rows(file=layer.file, rows_part=part, at_part=at_part, dim=layer.dim, header_bytes=header)
            )
        parts = [at_part, *(change_part(layer.file) for layer in self.manifest.layers.values())]
        return writes, [commit.Delete(file=part) for part in parts]

    def layers(self) -> dict[str, Layer]:
        """The layers as they will be: the old bytes, read against their checksums, with the new rows laid over them."""
        rows = self.rows()
        order = np.argsort(rows)
        found = {}
        with ThreadPoolExecutor(read_threads()) as pool:
            for name, layer in self.manifest.layers.items():
                sums, blocks = list(layer.xxh3), list(layer_blocks(self.manifest, name))
                stops = np.array([block.stop for block in blocks])
                touched = np.unique(np.searchsorted(stops, rows, side="right")).tolist()
                with DiskFile(self.path / layer.file) as file:

                    def renewed(number: int, file: DiskFile = file, blocks: list[Block] = blocks) -> str:
                        return self._renewed(file, blocks[number], rows[order], order)

                    for number, xxh3 in zip(touched, pool.map(renewed, touched), strict=True):
                        sums[number] = xxh3
                found[name] = Layer(file=layer.file, dim=layer.dim, xxh3=sums)
        return found

    def _renewed(
        self, file: DiskFile, block: Block, rows: npt.NDArray[np.int64], position: npt.NDArray[np.int64]
    ) -> str:
        """The checksum of a block with its new rows; rows (count,) ascending, position (count,): where each stands."""
        size = self._size(block.layer)
        old, new = xxhash.xxh3_64(), xxhash.xxh3_64()
        step = max(PIECE // size, 1)
        for start in range(block.start, block.stop, step):
            stop = min(start + step, block.stop)
            data = file.read((stop - start) * size, block.offset + (start - block.start) * size)
            old.update(data.data)
            if len(data) == (stop - start) * size:
                for i in range(*np.searchsorted(rows, [start, stop]).tolist()):
                    at = (int(rows[i]) - start) * size
                    data[at : at + size] = np.frombuffer(self.row(block.layer, int(position[i])), np.uint8)
            new.update(data.data)
        if old.hexdigest() != block.xxh3:
            raise StoreError(
                f"{self.path / self.manifest.layers[block.layer].file}: rows {block.start:,} to {block.stop - 1:,}: do "
                "not match their checksum. Nothing was replaced. Mend them with `mirsearch verify --repair` first."
            )
        return new.hexdigest()
