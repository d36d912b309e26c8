"""The kernels that are matrix products, or need no more than CuPy: those of `kernels.dense` on the GPU."""

from collections.abc import Iterable

import cupy
import numpy as np
import numpy.typing as npt

from kernels import dense
from kernels.contract import F32, F64, I64, CodeKind, Codes, Metric
from kernels.cuda_arrays import here, on_gpu, returned, rows_there, there


@on_gpu
def non_finite(rows: F32) -> npt.NDArray[np.bool_]:
    """Whether each row holds a NaN or an infinity; see `kernels.reference.non_finite`."""
    found: npt.NDArray[np.bool_] = returned(rows, ~cupy.isfinite(rows_there(rows)).all(axis=1))
    return found


@on_gpu
def quantize(rows: F32, kind: CodeKind) -> Codes:
    """Codes of rows, each over its own range; see `kernels.reference.quantize`."""
    codes = dense.quantize(cupy, rows_there(rows), kind)
    parts = iter(returned(rows, codes.values, codes.low, codes.step, codes.norm2))
    return codes.each(lambda _: next(parts))


@on_gpu
def normalize(rows: F32) -> F32:
    """Rows of unit length; see `kernels.reference.normalize`."""
    found: F32 = returned(rows, dense.normalize(cupy, rows_there(rows)))
    return found


@on_gpu
def project(rows: F32, axes: F32, *, unit: bool) -> F32:
    """Rows onto axes; see `kernels.dense.project`."""
    found: F32 = returned(rows, dense.project(cupy, rows_there(rows), rows_there(axes), unit=unit))
    return found


@on_gpu
def principal_axes(blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
    """The leading principal axes of rows in blocks, each uploaded once; see `kernels.reference.principal_axes`.

    Always on the host: axes are written to files.
    """
    axes, variances, trace = dense.principal_axes(cupy, map(rows_there, blocks), count, unit=unit)
    return here(axes), here(variances), trace


@on_gpu
def top_axes(covariance: F64 | F32, count: int) -> tuple[F32, F32]:
    """The leading eigenvectors and eigenvalues; see `kernels.reference.top_axes`."""
    axes, values = dense.top_axes(cupy, there(covariance).astype(cupy.float64, copy=False), count)
    found: tuple[F32, F32] = returned(covariance, axes, values)
    return found


@on_gpu
def nearest(queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
    """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""
    best, scores = dense.nearest(cupy, rows_there(queries), rows_there(rows), metric, k)
    found: tuple[I64, F32] = returned(queries, cupy.ascontiguousarray(best), scores)
    return found
