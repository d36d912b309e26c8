"""The reduction in front of the quantizers: PCA, learned from a sample, read block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.progress import Progress, silent
from kernels import Kernels

BLOCK_ROWS = 2048


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """Principal axes of a layer.

    axes: (dim, reduced) float32, orthonormal columns, largest variance first. unit: rows and queries are made unit
    length before and after (cosine). explained: share of the sample's variance that the axes keep.
    """

    axes: npt.NDArray[np.float32]
    unit: bool
    explained: float

    def apply(self, rows: npt.NDArray[np.float32], kernels: Kernels) -> npt.NDArray[np.float32]:
        """Reduced rows (n, reduced) float32."""
        return kernels.project(np.ascontiguousarray(rows, np.float32), self.axes, unit=self.unit)


def sample_rows(rows: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` distinct row numbers in ascending order, the same for the same seed."""
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def gather(data: Any, at: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
    """The rows at these numbers, in blocks of bounded size."""
    for start in range(0, len(at), BLOCK_ROWS):
        yield np.asarray(data[at[start : start + BLOCK_ROWS]], np.float32)


def learn(
    data: Any,
    at: npt.NDArray[np.int64],
    reduced: int,
    *,
    unit: bool,
    kernels: Kernels,
    progress: Progress = silent,
) -> Reduction:
    """PCA of the rows `at` of data (n, dim) float32: their covariance over blocks, then its leading axes.

    Axes of the centred covariance, applied to rows that are not centred: distances do not change by a shift, and
    the cosine is taken about the origin. Measured against second moments and centring in benchmarks/reduction.py.
    """
    dim = data.shape[1]
    total, square, seen = np.zeros(dim), np.zeros((dim, dim)), 0
    for block in gather(data, at):
        block_sum, block_square = kernels.moments(block, unit=unit)
        total += block_sum
        square += block_square
        seen += len(block)
        progress("covariance", seen, len(at))
    mean = total / seen
    covariance = square / seen - np.outer(mean, mean)
    progress("axes", 0, 0)
    axes, variances = kernels.top_axes(covariance, reduced)
    trace = float(np.trace(covariance))
    explained = float(np.clip(variances, 0, None).sum()) / trace if trace > 0 else 1.0
    return Reduction(axes=axes, unit=unit, explained=min(explained, 1.0))
