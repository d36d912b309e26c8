"""The reduction in front of the quantizers: PCA, learned from a sample, read block by block."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.progress import Progress, silent
from engine.store import npy
from kernels import Kernels
from kernels.device import array_module

BLOCK_ROWS = 2048
# Past so many dimensions their covariance takes gigabytes and its axes minutes: the axes are found by iteration.
WIDE = 8192
PASSES, SPARE = 5, 64
# Features of typical sizes outside of these are scaled to about 1, so that float32 holds the sums of their squares.
_NORMAL = (1e-12, 1e12)
_FAR = 1e15  # the size that far larger rows are brought down to
_OUTLIER = 1e4  # how many times the typical size a row may count for in the covariance


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """Principal axes of a layer.

    axes: (dim, reduced) float32, orthonormal columns, largest variance first. unit: rows and queries are made unit
    length before and after (cosine). explained: share of the sample's variance that the axes keep. scale: a power of
    two that brings features of extreme size to where float32 can hold their squares; 1 for all others.
    """

    axes: npt.NDArray[np.float32]
    unit: bool
    explained: float
    scale: float = 1.0

    def scaled(self, rows: Any, xp: ModuleType = np) -> Any:
        """Rows (n, dim) as codes take them: of sizes whose squares float32 can hold, in the same order of closeness.

        For the cosine a row's size means nothing. Otherwise a row far larger than the others is as good as infinitely
        far, and stays far. xp: the module of the rows' array.
        """
        sizes = self.scale * _sizes(rows, xp)
        if self.unit:
            odd, wanted = (sizes > 0) & ((sizes < _NORMAL[0]) | (sizes > _NORMAL[1])), 1.0
        else:
            odd, wanted = sizes > _FAR, _FAR
        if self.scale == 1 and xp is np and not odd.any():  # elsewhere a look would have to wait
            return rows
        factors = self.scale * xp.where(odd, wanted / xp.where(odd, sizes, 1.0), 1.0)
        return (rows * factors[:, None]).astype(xp.float32)

    def apply(self, rows: Any, kernels: Kernels) -> Any:
        """Reduced rows (n, reduced) float32, where the rows lie."""
        xp = array_module(rows)
        if rows.dtype != np.float32 or not rows.flags.c_contiguous:
            rows = xp.ascontiguousarray(rows, xp.float32)
        return kernels.project(rows if self.unit else self.scaled(rows, xp), self.axes, unit=self.unit)


def _sizes(rows: Any, xp: ModuleType = np) -> Any:
    """The largest magnitude of each row (n,) float64."""
    return xp.maximum(rows.max(axis=1), -rows.min(axis=1)).astype(xp.float64)


def sample_rows(rows: int, count: int, seed: int) -> npt.NDArray[np.int64]:
    """`count` distinct row numbers in ascending order, the same for the same seed."""
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def gather(data: Any, at: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
    """The rows at these numbers, in blocks of bounded size."""
    for start in range(0, len(at), BLOCK_ROWS):
        yield np.asarray(data[at[start : start + BLOCK_ROWS]], np.float32)
        npy.forget(data)


def rows_wanted(dim: int) -> int:
    """How many rows the axes of so many dimensions are learned from."""
    return max(20_000, 4 * dim) if dim <= WIDE else 20_000


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The rows that axes are learned from, by the scale, and none so large that the axes are its own alone."""

    data: Any
    at: npt.NDArray[np.int64]
    unit: bool
    scale: float = 1.0
    limit: float = np.inf

    def __len__(self) -> int:
        return len(self.at)

    @property
    def dim(self) -> int:
        return int(self.data.shape[1])

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        for rows in gather(self.data, self.at):
            if self.scale != 1:
                rows = (rows * np.float64(self.scale)).clip(-self.limit, self.limit).astype(np.float32)
            yield rows if self.limit == np.inf else np.clip(rows, -np.float32(self.limit), np.float32(self.limit))


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

    Past WIDE dimensions, the axes alone, by passes over the rows: memory grows with the dimensions, not their square.
    Axes of the centred covariance, applied to rows that are not centred: distances do not change by a shift, and
    the cosine is taken about the origin. Measured against second moments and centring in benchmarks/reduction.py.
    """
    sample = _Sample(data=data, at=at, unit=unit)
    if not unit:
        sizes = np.concatenate([_sizes(block) for block in gather(data, at)])
        typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
        scale = 1.0 if _NORMAL[0] <= typical <= _NORMAL[1] else float(2.0 ** -np.frexp(typical)[1])
        sample = replace(sample, scale=scale, limit=_OUTLIER * typical * scale)
    find = _by_covariance if sample.dim <= WIDE else _by_iteration
    axes, variances, trace = find(sample, reduced, kernels, progress)
    explained = float(np.clip(variances, 0, None).sum()) / trace if trace > 0 else 1.0
    return Reduction(axes=axes, unit=unit, explained=min(explained, 1.0), scale=sample.scale)


_Axes = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]


def _by_covariance(sample: _Sample, reduced: int, kernels: Kernels, progress: Progress) -> _Axes:
    """Leading axes (dim, reduced), their variances (reduced,), and the sum of all variances."""

    def read() -> Iterator[npt.NDArray[np.float32]]:
        seen = 0
        for block in sample.blocks():
            yield block
            seen += len(block)
            progress("covariance", seen, len(sample))
        progress("axes", 0, 0)

    return kernels.principal_axes(read(), reduced, unit=sample.unit)


def _by_iteration(sample: _Sample, reduced: int, kernels: Kernels, progress: Progress) -> _Axes:
    """The same by randomized subspace iteration (Halko, Martinsson and Tropp 2011, doi:10.1137/090771806, § 4.5).

    The covariance times a basis, made orthonormal, is the next basis; the last one is turned into the axes.
    """
    dim, rows = sample.dim, len(sample)
    width = min(reduced + SPARE, dim)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, width)))[0]
    for number in range(PASSES):
        total, product, squares, seen = np.zeros(dim), np.zeros((dim, width)), 0.0, 0
        narrow = basis.astype(np.float32)
        for block in sample.blocks():
            wide = kernels.normalize(block) if sample.unit else block
            total += wide.sum(axis=0, dtype=np.float64)
            squares += float(np.einsum("ij,ij->", wide, wide, dtype=np.float64))
            product += wide.T @ (wide @ narrow)
            seen += len(block)
            progress("covariance", number * rows + seen, PASSES * rows)
        mean = total / rows
        product = product / rows - np.outer(mean, mean @ basis)
        if number < PASSES - 1:
            basis = np.linalg.qr(product)[0]
    progress("axes", 0, 0)
    turned, variances = kernels.top_axes(basis.T @ product, reduced)
    return (basis @ turned).astype(np.float32), variances, squares / rows - float(mean @ mean)
