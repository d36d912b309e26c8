"""Rows that came in any order, copied into ascending order of photo id."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.progress import Progress
from engine.store.manifest import digest
from engine.store.rows_file import RowsFile
from kernels.device import cpu_threads

BLOCK_ROWS = 256
Block = tuple[int, int, dict[str, str]]


def sorted_copy(
    folder: Path,
    files: Mapping[str, tuple[RowsFile, int]],
    ids: npt.NDArray[np.int64],
    header_bytes: int,
    progress: Progress,
) -> list[Block]:
    """Copy every file, given with the bytes of its rows, to `NAME.sorted.part` with its rows in order of `ids` (n,).

    Gives (first row, rows, checksum by file) of each block of 256 rows. Reads and writes each row once; memory is
    bounded by a block for each thread.
    """
    order = np.argsort(ids, kind="stable")
    out = {name: folder / f"{name}.sorted.part" for name in files}
    for path in out.values():
        path.unlink(missing_ok=True)
    targets = {name: RowsFile(path, create=True) for name, path in out.items()}

    def copy(start: int) -> Block:
        at = order[start : start + BLOCK_ROWS]
        sums = {}
        for name, (source, size) in files.items():
            data = _gather(source, at, size, header_bytes)
            sums[name] = digest(data)
            targets[name].write(memoryview(data), header_bytes + start * size)
        return start, len(at), sums

    blocks: list[Block] = []
    try:
        with ThreadPoolExecutor(cpu_threads()) as pool:
            for block in pool.map(copy, range(0, len(order), BLOCK_ROWS)):
                blocks.append(block)
                progress("put in order", block[0] + block[1], len(order), unit="photos")
    finally:
        for target in targets.values():
            target.close()
    return blocks


def _gather(source: RowsFile, rows: npt.NDArray[np.int64], size: int, header_bytes: int) -> bytes:
    """These rows of a file, one behind the other; neighbours are read in one piece."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    pieces: Sequence[npt.NDArray[np.int64]] = np.split(rows, breaks)
    return b"".join(source.read(len(piece) * size, header_bytes + int(piece[0]) * size) for piece in pieces)
