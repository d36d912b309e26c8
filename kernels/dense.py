"""The kernels that are matrix products: the same lines run on NumPy and CuPy, so they are tested without a GPU.

`xp` is the array module, numpy or cupy; arrays go in and come out as that module's.
"""

from types import ModuleType
from typing import Any

from kernels.contract import Metric


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


def moments(xp: ModuleType, rows: Any, *, unit: bool) -> tuple[Any, Any]:
    """Sum (D,) and second moment (D, D) of rows (n, D), of their directions with `unit`; float32 products."""
    if unit:
        rows = normalize(xp, rows)
    return rows.sum(axis=0, dtype=xp.float64), rows.T @ rows


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
