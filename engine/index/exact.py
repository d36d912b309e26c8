"""Exact search: every query against every row, block by block."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.filter import Filter
from engine.index.result import SearchResult
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Codes, Kernels, Metric, dense

BLOCK_ROWS, BLOCK_BYTES, BLOCK_QUERIES = 8192, 128 << 20, 1024
Mask = npt.NDArray[np.bool_] | None


def exact_search(
    store: Store,
    layer: str,
    queries: npt.NDArray[np.float32],
    k: int,
    *,
    metric: Metric,
    kernels: Kernels,
    exclude: npt.NDArray[np.int64] | None = None,
    within: Filter | None = None,
    progress: Progress = silent,
) -> SearchResult:
    """The k nearest rows of the whole layer for each query (q, dim), with exact scores; never a removed photo.

    within: the rows that may be in an answer; all that are not removed, unless given.

    exclude: (q,) photo ids, one for each query, that must not be in its answer (−1 for none). A matrix product
    finds somewhat more than k rows; their scores are then computed one by one, as those of an index are. Where
    the two disagree so much that a row may have been missed, the product is taken again in float64.
    """
    data = store.layer(layer)
    removed = store.removed if within is None else ~within.mask
    banned = excluded_rows(store, exclude, len(queries))
    rows = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), BLOCK_QUERIES):
        part = np.s_[start : start + BLOCK_QUERIES]
        progress("exact search", start, len(queries), unit="queries")
        rows[part], scores[part] = compare(data, queries[part], banned[part], k, metric, kernels, removed=removed)
    progress("exact search", len(queries), len(queries), unit="queries")
    return SearchResult.of_rows(store, rows, scores)


def excluded_rows(store: Store, exclude: npt.NDArray[np.int64] | None, queries: int) -> npt.NDArray[np.int64]:
    """The row (q,) that each query must not be answered with; −1 for none."""
    rows = np.full(queries, -1, np.int64)
    if exclude is not None:
        ids = np.atleast_1d(np.asarray(exclude, np.int64))
        if ids.shape != (queries,):
            raise InputError(f"exclude of shape {ids.shape}: expected one photo id for each of {queries:,} queries")
        if (ids >= 0).any():
            rows[ids >= 0] = store.rows_of(ids[ids >= 0])
    return rows


def compare(
    data: Any,
    queries: npt.NDArray[np.float32],
    banned: npt.NDArray[np.int64],
    k: int,
    metric: Metric,
    kernels: Kernels,
    *,
    removed: Mask = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The best k rows of data (n, dim) and their exact scores, (q, k), for one block of queries.

    banned: (q,) the row that each query must not be answered with. removed: (n,) rows that are in no answer.
    """
    if removed is not None and removed.all():
        return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    present = len(data) - (0 if removed is None else int(np.count_nonzero(removed)))
    blocks = partial(_blocks, data, removed)
    candidates, closeness = closest(blocks, queries, banned, k, metric, kernels.nearest)
    rows, scores = kernels.rerank(queries, candidates, Codes(data), metric, max(k, candidates.shape[1]))
    if candidates.shape[1] < present:
        again = np.flatnonzero(doubtful(candidates, closeness, rows, scores, k))
        if len(again):
            wide = partial(dense.nearest, np)
            candidates, _ = closest(blocks, queries[again].astype(np.float64), banned[again], k, metric, wide)
            rows[again, :k], scores[again, :k] = kernels.rerank(queries[again], candidates, Codes(data), metric, k)
    return rows[:, :k], scores[:, :k]


def doubtful(
    candidates: npt.NDArray[np.int64],
    closeness: npt.NDArray[np.floating[Any]],
    rows: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    k: int,
) -> npt.NDArray[np.bool_]:
    """Whether the rounding of the matrix product may have hidden one of the k best rows of each query (q,).

    The error is seen on the candidates. A row that was left out is at most as close as the least close candidate,
    and that error; four times as much is allowed for, and what float32 scores cannot tell apart is a tie.
    """
    width = candidates.shape[1]
    approximate = np.take_along_axis(closeness, np.argsort(candidates, axis=1), axis=1).astype(np.float64)
    exact = np.take_along_axis(scores[:, :width], np.argsort(rows[:, :width], axis=1), axis=1).astype(np.float64)
    present = np.sort(candidates, axis=1) >= 0
    with np.errstate(invalid="ignore"):
        error = 4 * np.abs(approximate - exact).max(axis=1, where=present, initial=0)
        border = approximate.min(axis=1, where=present, initial=np.inf)
        near = (scores[:, k - 1] < border + error) & (error > 2e-6 * np.abs(scores[:, k - 1]))
    return np.asarray(near | ~np.isfinite(error))


def _blocks(data: Any, removed: Mask) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
    """The rows that are not removed, in order, as (row numbers (b,), rows (b, dim)), b ≥ 1."""
    size = max(min(BLOCK_ROWS, BLOCK_BYTES // (4 * data.shape[1])), 1)
    for start in range(0, len(data), size):
        block = data[start : start + size]
        if removed is None or not removed[start : start + size].any():
            yield np.arange(start, start + len(block)), block
        elif len(here := np.flatnonzero(~removed[start : start + size])):
            yield start + here, block[here]


def closest(
    blocks: Callable[[], Iterator[tuple[npt.NDArray[np.int64], Any]]],
    queries: npt.NDArray[np.floating[Any]],
    banned: npt.NDArray[np.int64],
    k: int,
    metric: Metric,
    nearest: Callable[..., Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.floating[Any]]]:
    """Rows (q, ≤ k and a margin) that hold the k nearest of each query, and their closeness by it; −1 = banned.

    blocks: gives (row numbers (b,), rows (b, dim)), b ≥ 1, at least once. nearest: as `kernels.reference.nearest`.
    """
    # The margin covers the banned row and the rounding of float32 products at the border.
    wanted = k + 8 + k // 4
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), queries.dtype)
    for numbers, data in blocks():
        block = np.asarray(data, queries.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # seen afterwards, and compared again in float64
            at, closeness = nearest(queries, block, metric, min(wanted, len(block)))
        found = numbers[at]
        closeness = np.where(found == banned[:, None], -np.inf, closeness)
        rows, scores = np.hstack([rows, found]), np.hstack([scores, closeness])
        if rows.shape[1] > wanted:
            best = np.argpartition(scores, -wanted, axis=1)[:, -wanted:]
            rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return np.where(rows == banned[:, None], -1, rows), scores
