"""A store written anew without the rows of removed photos."""

import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, StoreError
from engine.progress import Progress, silent
from engine.store import commit, npy
from engine.store.annotations.compact import compacted
from engine.store.blocks import PIECE, Block, DiskFile, grouped, in_order, layer_blocks, read_threads
from engine.store.change import REMOVED
from engine.store.hold import change_part, held, refuse_unfinished_ingest, write_change, write_manifest
from engine.store.manifest import FORMAT_VERSION, Layer, digest, row_state
from engine.store.order import BLOCK_ROWS
from engine.store.rows_file import RowsFile
from engine.store.store import Store
from engine.store.verify import Expected, check_array, expected_files
from engine.version import VERSION
from engine.words import counted, sized

Rows = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CompactReport:
    """dropped: rows that are gone for good. freed: bytes of them."""

    store: Path
    photos: int
    dropped: int
    freed: int


def compact_store(path: Path, *, progress: Progress = silent) -> CompactReport:
    """Write the store anew without removed rows, in their order, in blocks of 256; the old files go in one step.

    Query sets stay, though their neighbours may be gone; indices are stale afterwards. Blocks of which anything stays
    are read against their checksums: StoreError for a damaged one, EngineError where the disk has no room for the
    second copy; then the store stays as it was. Killed at any moment, it is the old store or the new one.
    """
    with held(path) as manifest:
        store = Store.open(path)
        if store.removed is None:
            return CompactReport(store=path, photos=len(store), dropped=0, freed=0)
        refuse_unfinished_ingest(path)
        row_bytes = 8 + sum(layer.dim for layer in manifest.layers.values()) * 4
        _check_room(path, store.photos, store.photos * row_bytes)
        work = _Compact(store, progress)
        with ThreadPoolExecutor(read_threads(), thread_name_prefix="compact") as pool:
            layers = {name: work.layer(name, pool) for name in manifest.layers}
        work.publish(layers)
        dropped = len(store) - store.photos
        return CompactReport(store=path, photos=store.photos, dropped=dropped, freed=dropped * row_bytes)


def _check_room(path: Path, photos: int, needed: int) -> None:
    free = shutil.disk_usage(path).free
    if free < needed:
        raise EngineError(
            f"{path}: what stays, {counted(photos, 'photo')}, is written anew beside the old files and needs "
            f"{sized(needed)}; {sized(free)} are free. Nothing was changed. Make room and run it again."
        )


class _Compact:
    def __init__(self, store: Store, progress: Progress) -> None:
        assert store.removed is not None
        self.store, self.path, self.manifest, self.progress = store, store.path, store.manifest, progress
        self.stays = ~store.removed
        self.steps: list[commit.Step] = []

    def layer(self, name: str, pool: ThreadPoolExecutor) -> Layer:
        """Write the part of one layer."""
        old = self.manifest.layers[name]
        out = RowsFile(self.path / change_part(old.file), create=True)
        row_bytes, total = old.dim * 4, self.store.photos
        try:
            with DiskFile(self.path / old.file) as file:

                def take(blocks: list[Block]) -> Rows:
                    return self._take(file, blocks, row_bytes)

                def write(block: tuple[int, Rows]) -> str:
                    start, rows = block
                    out.write(rows.reshape(-1).data, npy.PAGE + start * row_bytes)
                    return digest(rows)

                parts = in_order(pool, take, self._pieces(file, name))
                sums = list[str]()
                for xxh3 in in_order(pool, write, _in_blocks(parts)):
                    sums.append(xxh3)
                    self.progress(f"compact {name}", min(len(sums) * BLOCK_ROWS, total), total, unit="photos")
            out.write(memoryview(npy.header((total, old.dim), "<f4", npy.PAGE)), 0)
            out.sync()
        finally:
            out.close()
        self.steps.append(commit.Rename(file=old.file, part=change_part(old.file)))
        return Layer(file=old.file, dim=old.dim, xxh3=sums)

    def _pieces(self, file: DiskFile, name: str) -> Iterator[list[Block]]:
        """The blocks of a layer, some at a time; one that is too long to be held is read first, then in pieces.

        Those of which nothing stays are not read at all: damage in them goes with them.
        """
        row_bytes = self.manifest.layers[name].dim * 4
        for blocks in self._needed(name):
            block, rows = blocks[0], max(PIECE // row_bytes, 1)
            if block.size <= 4 * PIECE:
                yield blocks
                continue
            self._stop_at(block, file.damage(block.offset, block.size, block.xxh3))
            edges = [*range(block.start, block.stop, rows), block.stop]
            for start, stop in pairwise(edges):
                offset = block.offset + (start - block.start) * row_bytes
                size = (stop - start) * row_bytes
                yield [replace(block, start=start, stop=stop, offset=offset, size=size, xxh3="")]

    def _needed(self, name: str) -> Iterator[list[Block]]:
        """The blocks of which something stays, neighbours together."""
        for stays, blocks in groupby(
            layer_blocks(self.manifest, name), lambda block: bool(self.stays[block.start : block.stop].any())
        ):
            if stays:
                yield from grouped(blocks)

    def _take(self, file: DiskFile, blocks: list[Block], row_bytes: int) -> Rows:
        """The rows that stay, of blocks that lie side by side."""
        begin = blocks[0].offset
        size = sum(block.size for block in blocks)
        data = file.read(size, begin)
        for block in blocks:
            part = data[block.offset - begin : block.offset - begin + block.size]
            if block.xxh3 and digest(part) != block.xxh3:
                self._stop_at(block, "does not match its checksum")
        if len(data) != size:
            self._stop_at(blocks[-1], "is cut short")
        rows: Rows = data.reshape(-1, row_bytes)[self.stays[blocks[0].start : blocks[-1].stop]]
        return rows

    def _stop_at(self, block: Block, reason: str) -> None:
        if reason:
            raise StoreError(
                f"{self.path / self.manifest.layers[block.layer].file}: rows {block.start:,} to {block.stop - 1:,}: "
                f"{reason}. Nothing was changed. Mend it with `mirsearch verify --repair`, then run this again."
            )

    def publish(self, layers: dict[str, Layer]) -> None:
        """Put the new files in place of the old ones, in one step."""
        ids = self.store.photo_ids[self.stays].astype("<i8")
        file = "photo_ids.npy"
        self.steps.append(write_change(self.path, file, npy.header(ids.shape, "<i8", npy.PAGE) + ids.tobytes()))
        if self.manifest.header_bytes != npy.PAGE:
            self.steps += [self._copied(known) for known in expected_files(self.manifest) if known.file not in _WRITTEN]
        rows = len(ids)
        block_rows = [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]
        changed: dict[str, Any] = {
            "version": FORMAT_VERSION, "engine_version": VERSION, "rows": rows, "layers": layers,
            "block_rows": block_rows, "photo_ids_xxh3": digest(ids), "header_bytes": npy.PAGE, "removed": None,
            "state": row_state(digest(ids), block_rows, layers),
        }  # fmt: skip
        self.steps.append(write_manifest(self.path, self.manifest.model_copy(update=changed)))
        self.steps += compacted(self.store, digest(ids))
        commit.commit(self.path, [*self.steps, commit.Delete(file=REMOVED)])

    def _copied(self, known: Expected) -> commit.Rename:
        """A file of a query set with the long header, which all files of a store share."""
        if damage := check_array(self.path, known, self.manifest):
            raise StoreError(f"{self.path / known.file}: {damage.reason}. Restore it, or import again.")
        data = (self.path / known.file).read_bytes()[self.manifest.header_bytes :]
        return write_change(self.path, known.file, npy.header(known.shape, known.dtype, npy.PAGE) + data)


_WRITTEN = ("photo_ids.npy", REMOVED)


def _in_blocks(parts: Iterable[Rows]) -> Iterator[tuple[int, Rows]]:
    """Rows that come in parts of any length, in blocks of 256, with the number of their first."""
    waiting: list[Rows] = []
    start = have = 0
    for part in parts:
        waiting.append(part)
        have += len(part)
        if have >= BLOCK_ROWS:
            rows = np.concatenate(waiting)
            whole = have // BLOCK_ROWS * BLOCK_ROWS
            yield from ((start + at, rows[at : at + BLOCK_ROWS]) for at in range(0, whole, BLOCK_ROWS))
            start, have, waiting = start + whole, have - whole, [rows[whole:]]
    if have:
        yield start, np.concatenate(waiting)
