"""Every pair of rows above a cosine, by comparing all rows with all: no index takes part."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.progress import Progress, silent
from kernels import Codes, Kernels
from kernels.device import array_module

BLOCK_ROWS, BLOCK_PAIRS = 8192, 4096
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


def every_pair(
    data: Any, rows: I64, threshold: float, kernels: Kernels, *, most: int, progress: Progress = silent
) -> tuple[I64, F32]:
    """All pairs (p, 2) of some rows of data (n, dim) with a cosine of at least the threshold, and those cosines (p,).

    rows: (r,) int64, ascending. Lower row first, in ascending order. Products in tiles find what may reach the
    threshold (`Kernels.join`), and each such pair is compared exactly. On a GPU the rows lie there as a whole, if they
    fit. TooManyPairsError for more than `most` before the exact comparison.
    """
    if len(rows) < 2:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    data = kernels.resident(Codes(data)).values

    def blocks() -> Iterator[tuple[I64, Any]]:
        for start in range(0, len(rows), BLOCK_ROWS):
            at = rows[start : start + BLOCK_ROWS]
            yield at, _rows_at(data, at)
            progress("compare all pairs", min(start + BLOCK_ROWS, len(rows)), len(rows), unit="photos")

    pairs, _ = kernels.join(blocks, threshold, "cosine", most)
    scores = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), BLOCK_PAIRS):
        part = np.s_[start : start + BLOCK_PAIRS]
        first, second = pairs[part, 0], np.ascontiguousarray(pairs[part, 1:])
        found = kernels.rerank(_rows_at(data, first), second, Codes(data), "cosine", 1)[1]
        scores[part] = kernels.to_host(found)[:, 0]
        progress("compare exactly", min(start + BLOCK_PAIRS, len(pairs)), len(pairs), unit="pairs")
    # Wider than float32, so that no score that is given is below the threshold as the user wrote it.
    near = scores.astype(np.float64) >= threshold
    return pairs[near], scores[near]


def _rows_at(data: Any, at: I64) -> Any:
    """Rows by their numbers, where they lie."""
    if len(at) and at[-1] - at[0] + 1 == len(at) and (np.diff(at) == 1).all():
        return data[at[0] : at[-1] + 1]
    return data[array_module(data).asarray(at)]
