"""A store's layer as vectors to write: read once, block by block against its checksums, in bounded memory."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.store import blocks
from engine.store.blocks import Block, DiskFile, grouped, layer_blocks
from engine.store.formats.vectors import Vectors
from engine.store.manifest import digest
from engine.store.store import Store


def stored_vectors(store: Store, layer: str, rows: npt.NDArray[np.int64]) -> Vectors:
    """The given rows (n,) of a layer, ascending; StoreError where a block of it does not match its checksum."""
    dim = store.manifest.layers[layer].dim

    def read() -> Iterator[npt.NDArray[Any]]:
        done = 0
        with closing(checked_rows(store, layer)) as pieces:
            for start, piece in pieces:
                taken = int(np.searchsorted(rows[done:], start + len(piece)))
                wanted = rows[done : done + taken] - start
                done += taken
                yield piece if taken == len(piece) else piece[wanted]

    return Vectors(
        path=store.path / store.manifest.layers[layer].file, rows=len(rows), dim=dim, dtype=np.dtype("<f4"), read=read
    )


def checked_rows(store: Store, layer: str, at_most: int = 1 << 40) -> Generator[tuple[int, npt.NDArray[np.float32]]]:
    """All rows of a layer in order, as (first row, (r, dim) float32), at most `at_most` rows and 8 MiB together.

    Each piece is valid until the next one. Layers of one store are cut alike where `at_most` is what cuts them.
    """
    known = store.manifest.layers[layer]
    path, row_bytes = store.path / known.file, known.dim * 4
    step = max(min(blocks.PIECE // row_bytes, at_most), 1)
    with DiskFile(path) as file:
        for group in grouped(layer_blocks(store.manifest, layer)):
            for block, data in _checked(file, path, group):
                for start in range(block.start, block.stop, step):
                    rows = range(start, min(start + step, block.stop))
                    if data is None:  # too large to be checked and used in one piece
                        part = _read(file, path, block, rows)
                    else:
                        part = data[(start - block.start) * row_bytes :][: len(rows) * row_bytes]
                    yield start, part.view("<f4").reshape(-1, known.dim)


def _checked(
    file: DiskFile, path: Path, group: Sequence[Block]
) -> Iterator[tuple[Block, npt.NDArray[np.uint8] | None]]:
    """Neighbouring blocks and their bytes, read at once; None for the bytes of one that is larger than a read."""
    first, last = group[0], group[-1]
    if first.size > blocks.PIECE:
        reason = file.damage(first.offset, first.size, first.xxh3)
        if reason:
            raise _damaged(path, first, reason)
        yield first, None
        return
    try:
        data = file.read(last.offset + last.size - first.offset, first.offset)
    except OSError:  # one after the other then, to see which
        data = np.empty(0, np.uint8)
    for block in group:
        part = data[block.offset - first.offset :][: block.size]
        if len(part) < block.size or digest(part) != block.xxh3:
            raise _damaged(
                path, block, file.damage(block.offset, block.size, block.xxh3) or "changed while it was read"
            )
        yield block, part


def _read(file: DiskFile, path: Path, block: Block, rows: range) -> npt.NDArray[np.uint8]:
    """The bytes of some rows of a block."""
    row_bytes = block.size // (block.stop - block.start)
    try:
        data = file.read(len(rows) * row_bytes, block.offset + (rows.start - block.start) * row_bytes)
    except OSError as error:
        raise _damaged(path, block, f"cannot be read ({error.strerror})") from error
    if len(data) < len(rows) * row_bytes:
        raise _damaged(path, block, "is cut short")
    return data


def _damaged(path: Path, block: Block, reason: str) -> StoreError:
    return StoreError(
        f"{path}: rows {block.start:,} to {block.stop - 1:,}: {reason}. `mirsearch verify` lists all that is damaged."
    )
