"""Exact search: every query against every row, block by block."""

from collections.abc import Iterator
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
from kernels.contract import Blocks, Nearest
from kernels.device import array_module

BLOCK_ROWS, BLOCK_BYTES, BLOCK_QUERIES = 8192, 128 << 20, 1024
# On a GPU a block of queries takes the way of all rows to it; this many candidates bound its size.
QUERIES_ON_GPU, CANDIDATES_ON_GPU = 16_384, 1 << 22
BRING_ROWS = 1000  # queries for which it pays to bring the raw rows to a GPU as a whole
WIDER = 8  # times as many candidates, for queries of which rounding may have hidden a row
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
    rows: Any = None,
) -> SearchResult:
    """The k nearest rows of the whole layer for each query (q, dim), with exact scores; never a removed photo.

    within: the rows that may be in an answer; all that are not removed, unless given. rows: the layer's, (n, dim)
    float32, where they lie on the device already; for many queries they are brought there if they fit.

    exclude: (q,) photo ids, one for each query, that must not be in its answer (−1 for none). Matrix products (in half
    precision on CUDA) find somewhat more than k rows; their scores are then computed one by one, as those of an index
    are. Where the two disagree so much that a row may have been missed, the product is taken again in float64.
    """
    data, block = store.layer(layer) if rows is None else rows, BLOCK_QUERIES
    removed = store.removed if within is None else ~within.mask
    banned = excluded_rows(store, exclude, len(queries))
    if kernels.xp is not np:
        block = max(min(QUERIES_ON_GPU, CANDIDATES_ON_GPU // (WIDER * k + 1)), 1)
        data = kernels.resident(Codes(data)).values if len(queries) >= BRING_ROWS else data
    found = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), block):
        part = np.s_[start : start + block]
        progress("exact search", start, len(queries), unit="queries")
        found[part], scores[part] = compare(data, queries[part], banned[part], k, metric, kernels, removed=removed)
    progress("exact search", len(queries), len(queries), unit="queries")
    return SearchResult.of_rows(store, found, scores)


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
    """The best k rows of data (n, dim), on the host or the device, and their exact scores, (q, k), on the host.

    banned: (q,) the row that each query must not be answered with. removed: (n,) rows that are in no answer.
    """
    if removed is not None and removed.all():
        return np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    blocks = partial(_blocks, data, removed)
    rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    again = np.arange(len(queries))
    for wanted in (k, WIDER * k):
        found = closest(blocks, queries[again], banned[again], wanted, metric, kernels)
        every = kernels.rerank(queries[again], found.rows, Codes(data), metric, max(k, found.rows.shape[1]))
        rows[again], scores[again] = (part[:, :k] for part in every)
        again = again[doubtful(found, *every, k)]
        if not len(again):
            return rows, scores
    on_host: Blocks = lambda: ((numbers, kernels.to_host(block)) for numbers, block in blocks())  # noqa: E731
    candidates = _closest_in_float64(on_host, queries[again].astype(np.float64), banned[again], k, metric)
    rows[again], scores[again] = kernels.rerank(queries[again], candidates, Codes(data), metric, k)
    return rows, scores


def closest(
    blocks: Blocks,
    queries: npt.NDArray[np.float32],
    banned: npt.NDArray[np.int64],
    k: int,
    metric: Metric,
    kernels: Kernels,
) -> Nearest:
    """Rows that hold the k nearest of each query as far as products of low precision can tell; −1 = banned.

    More than k, for the banned row and what the rounding of the products may have put before others; see `doubtful`.
    """
    found = kernels.nearest_of(queries, blocks, metric, k + 8 + k // 4)
    return found._replace(rows=np.where(found.rows == banned[:, None], -1, found.rows))


def doubtful(
    found: Nearest, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], k: int
) -> npt.NDArray[np.bool_]:
    """Whether rounding may have hidden one of the k best rows of each query (q,); rows, scores: `found` re-ranked.

    Certainly not where the k-th score reaches what no other row can exceed. That bound allows for the worst case; the
    usual error is seen on the candidates. A row that was left out is off by about as much as they are; four times the
    spread of their errors is allowed for, and what float32 scores cannot tell apart is a tie.
    """
    width, last = found.rows.shape[1], scores[:, k - 1]
    ceilings = np.take_along_axis(found.ceilings, np.argsort(found.rows, axis=1), axis=1).astype(np.float64)
    exact = np.take_along_axis(scores[:, :width], np.argsort(rows[:, :width], axis=1), axis=1).astype(np.float64)
    present = np.sort(found.rows, axis=1) >= 0
    with np.errstate(invalid="ignore"):
        above = ceilings - exact
        least = above.min(axis=1, where=present, initial=np.inf)
        spread = above.max(axis=1, where=present, initial=-np.inf) - least
        near = (last < found.bound - least + 3 * spread) & (spread > 2e-6 * np.abs(last))
    return np.asarray((last < found.bound) & (near | ~np.isfinite(spread)))


def _blocks(data: Any, removed: Mask) -> Iterator[tuple[npt.NDArray[np.int64], Any]]:
    """The rows that are not removed, in order, as (row numbers (b,), rows (b, dim)), b ≥ 1."""
    size = max(min(BLOCK_ROWS, BLOCK_BYTES // (4 * data.shape[1])), 1)
    for start in range(0, len(data), size):
        block = data[start : start + size]
        if removed is None or not removed[start : start + size].any():
            yield np.arange(start, start + len(block)), block
        elif len(here := np.flatnonzero(~removed[start : start + size])):
            yield start + here, block[array_module(block).asarray(here)]


def _closest_in_float64(
    blocks: Blocks, queries: npt.NDArray[np.float64], banned: npt.NDArray[np.int64], k: int, metric: Metric
) -> npt.NDArray[np.int64]:
    """Rows (q, ≤ k and a margin) that hold the k nearest of each query; −1 = banned."""
    wanted = k + 8 + k // 4
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0))
    for numbers, data in blocks():
        block = np.asarray(data, np.float64)
        at, closeness = dense.nearest(np, queries, block, metric, min(wanted, len(block)))
        rows, scores = np.hstack([rows, numbers[at]]), np.hstack([scores, closeness])
        if rows.shape[1] > wanted:
            best = np.argpartition(scores, -wanted, axis=1)[:, -wanted:]
            rows, scores = np.take_along_axis(rows, best, axis=1), np.take_along_axis(scores, best, axis=1)
    return np.where(rows == banned[:, None], -1, rows)
