"""Exact search: every query against every row, block by block."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index.result import SearchResult
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Codes, Kernels, Metric

BLOCK_ROWS, BLOCK_QUERIES = 8192, 1024


def exact_search(
    store: Store,
    layer: str,
    queries: npt.NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    kernels: Kernels,
    exclude: npt.NDArray[np.int64] | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """The k nearest rows of the whole layer for each query (q, dim), with exact scores.

    exclude: (q,) photo ids, one for each query, that must not be in its answer (−1 for none). A matrix product
    finds somewhat more than k rows; their scores are then computed one by one, as those of an index are.
    """
    data = store.layer(layer)
    banned = excluded_rows(store, exclude, len(queries))
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), BLOCK_QUERIES):
        part = np.s_[start : start + BLOCK_QUERIES]
        progress("exact search", start, len(queries), unit="queries")
        found = _candidates(data, queries[part], banned[part], k, metric, kernels)
        rows[part], scores[part] = kernels.rerank(queries[part], found, Codes(data), metric, k)
    progress("exact search", len(queries), len(queries), unit="queries")
    return SearchResult.of_rows(store, rows, scores)


def excluded_rows(store: Store, exclude: npt.NDArray[np.int64] | None, queries: int) -> npt.NDArray[np.int64]:
    """The row (q,) that each query must not be answered with; −1 for none."""
    rows = np.full(queries, -1, np.int64)
    if exclude is not None:
        named = np.asarray(exclude, np.int64) >= 0
        rows[named] = store.rows_of(np.asarray(exclude)[named]) if named.any() else rows[named]
    return rows


def _candidates(
    data: Any,
    queries: npt.NDArray[np.float32],
    banned: npt.NDArray[np.int64],
    k: int,
    metric: Metric,
    kernels: Kernels,
) -> npt.NDArray[np.int64]:
    """Rows (q, ≤ k and a margin) that hold the k nearest of each query."""
    # The margin covers the banned row and the rounding of float32 products at the border.
    wanted = k + 8 + k // 4
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(data), BLOCK_ROWS):
        block = np.asarray(data[start : start + BLOCK_ROWS])
        at, closeness = kernels.nearest(queries, block, metric, min(wanted, len(block)))
        closeness = np.where(at + start == banned[:, None], -np.inf, closeness)
        rows, scores = np.hstack([rows, at + start]), np.hstack([scores, closeness])
        if rows.shape[1] > wanted:
            best = np.argpartition(scores, -wanted, axis=1)[:, -wanted:]
            rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return np.where(rows == banned[:, None], -1, rows)
