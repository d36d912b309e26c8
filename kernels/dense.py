"""The kernels that are matrix products: the same lines run on NumPy and CuPy, so they are tested without a GPU.

`xp` is the array module, numpy or cupy; arrays go in and come out as that module's.
"""

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from kernels import principal
from kernels.contract import CodeKind, Codes, Metric


def normalize(xp: ModuleType, rows: Any) -> Any:
    """Rows (n, d) float32 scaled to unit length; a zero row stays zero.

    Divided by the largest magnitude first, so that the squares of any finite values stay finite.
    """
    largest = xp.abs(rows).max(axis=1, keepdims=True)
    rows = rows / xp.where(largest > 0, largest, xp.float32(1))
    lengths = xp.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return rows / xp.where(lengths > 0, lengths, xp.float32(1))


def project(xp: ModuleType, rows: Any, axes: Any, *, unit: bool) -> Any:
    """Rows (n, D) onto axes (D, d): (n, d) float32; with `unit`, unit length before and after.

    Unit length after the projection is what makes a cosine in the reduced space a good stand-in for the cosine of
    the rows: of the true ten nearest it keeps the most in every set tried (benchmarks/results/reduction.md).
    """
    if not unit:
        return rows @ axes
    return normalize(xp, normalize(xp, rows) @ axes)


def principal_axes(xp: ModuleType, blocks: Iterable[Any], count: int, *, unit: bool) -> tuple[Any, Any, float]:
    """Axes (D, count), variances (count,) and the sum of all variances of rows in blocks; of directions with `unit`."""

    def add(square: Any, rows: Any) -> Any:
        square += rows.T @ rows
        return square

    matrix, _ = principal.covariance(xp, (normalize(xp, rows) if unit else rows for rows in blocks), add)
    found, variances = top_axes(xp, matrix, count)
    return found, variances, float(matrix.diagonal().sum(dtype=xp.float64))


def nearest(xp: ModuleType, queries: Any, rows: Any, metric: Metric, k: int) -> tuple[Any, Any]:
    """The best k of a block of rows for each query by one matrix product: (q, k) positions and scores, unordered.

    queries: (q, d), rows: (n, d) float32, n ≥ k. Scores carry the rounding of float32 products (for l2 that of
    squared lengths too): take a few more than needed and settle them with `rerank`.
    """
    if metric == "cosine":
        queries, rows = normalize(xp, queries), normalize(xp, rows)
    scores = queries @ rows.T
    if metric == "l2":
        scores *= 2
        scores -= (rows * rows).sum(axis=1)
        scores -= (queries * queries).sum(axis=1)[:, None]
    best = best_of(xp, scores, k)
    return best, xp.take_along_axis(scores, best, axis=1)


def best_of(xp: ModuleType, scores: Any, k: int) -> Any:
    """Positions (q, k) of the k largest of scores (q, n), unordered."""
    n = scores.shape[1]
    if k >= n:
        return xp.broadcast_to(xp.arange(n), scores.shape)
    return xp.argpartition(scores, n - k, axis=1)[:, n - k :]


def quantize(xp: ModuleType, rows: Any, kind: CodeKind) -> Codes:
    """Codes of rows (n, d) float32, bit for bit those of `kernels.reference.quantize`, but for float64's rounding in
    norm2 and, of uint4, in low and step.
    """
    one = xp.float32(1)
    squares = _squares(xp, rows)
    norm2 = squares.astype(xp.float32)
    if kind == "float16":
        step = xp.abs(rows).max(axis=1)
        values = (rows / xp.where(step > 0, step, one)[:, None]).astype(xp.float16)
        return Codes(values, xp.zeros_like(step), step, norm2)
    levels = 15 if kind == "uint4" else 255
    low = rows.min(axis=1)
    step = ((rows.max(axis=1) / 2 - low / 2) / xp.float32(levels)) * xp.float32(2)
    scale = xp.where(step > xp.finfo(xp.float32).max / (levels + 1), xp.float32(0.5), one)[:, None]
    scaled = (rows * scale - low[:, None] * scale) / (xp.where(step > 0, step, one)[:, None] * scale)
    values = xp.clip(xp.rint(scaled), 0, levels).astype(xp.uint8)
    if kind == "uint8":
        return Codes(values, low, step, norm2)
    dots = low * rows.sum(axis=1, dtype=xp.float64) + step * xp.multiply(rows, values, dtype=xp.float64).sum(axis=1)
    good = (norm2 > 0) & (norm2 < xp.inf) & (squares > dots / 2) & (squares < dots * 2)
    factor = xp.where(good, squares / xp.where(good, dots, 1.0), 1.0)
    low, step = ((part * factor).astype(xp.float32) for part in (low, step))
    return Codes(pack(values), low, step, norm2, rows.shape[1])


def pack(values: Any) -> Any:
    """Codes up to 15, (n, d) uint8, two in a byte: (n, ⌈d/2⌉) uint8; see `kernels.contract.Codes`."""
    half = -(-values.shape[1] // 2)
    packed = values[:, :half].copy()
    packed[:, : values.shape[1] - half] |= values[:, half:] << 4
    return packed


def top_axes(xp: ModuleType, matrix: Any, count: int) -> tuple[Any, Any]:
    """The `count` leading eigenvectors (D, count) and eigenvalues (count,) of a symmetric (D, D) matrix.

    float32, largest first; the entry of largest magnitude of each axis is positive.
    """
    size = xp.abs(matrix).max()  # keeps the squares of extreme features inside float32
    size = xp.where(size > 0, size, 1).astype(xp.float64)
    some = principal.leading(xp, (matrix / size).astype(xp.float32), count)
    if some is None:
        values, vectors = xp.linalg.eigh((matrix / size).astype(xp.float64))
        some = vectors[:, ::-1][:, :count], values[::-1][:count]
    vectors, values = some
    largest = xp.take_along_axis(vectors, xp.abs(vectors).argmax(axis=0)[None], axis=0)
    return (vectors * xp.where(largest < 0, -1.0, 1.0)).astype(xp.float32), (values * size).astype(xp.float32)


def _squares(xp: ModuleType, rows: Any) -> Any:
    return xp.multiply(rows, rows, dtype=xp.float64).sum(axis=1)


def best_first(xp: ModuleType, rows: Any, scores: Any, keep: int) -> tuple[Any, Any]:
    """The best `keep` of each line of candidates: rows (q, keep) int64 and scores (q, keep) float32, best first.

    rows: (q, r) int64, each line in ascending order with the largest int64 for absent, so that a stable sort by
    score leaves equal scores in order of row and the absent behind every score. Absent = −1 and −inf.
    """
    absent = rows == xp.iinfo(xp.int64).max
    scores = xp.where(absent, -xp.inf, scores).astype(xp.float32)
    best = xp.argsort(-scores, axis=1, kind="stable")[:, :keep]
    rows = xp.take_along_axis(xp.where(absent, -1, rows), best, axis=1)
    scores = xp.take_along_axis(scores, best, axis=1)
    missing = ((0, 0), (0, keep - rows.shape[1]))
    return xp.pad(rows, missing, constant_values=-1), xp.pad(scores, missing, constant_values=-xp.inf)
