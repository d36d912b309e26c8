"""Candidates compared on the GPU: products by `rerank.cu`, scores by `scores.cu`, the best by `select.cu`."""

from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from kernels import dense
from kernels.contract import F32, I64, Codes, Metric, Step
from kernels.cuda_arrays import THREADS, here, is_on_gpu, launch, on_gpu, returned, rows_there, there

RERANK_BYTES = 256 << 20  # what one block of queries may need for its candidates
_PAIRS_PER_BLOCK = THREADS // 32
_SELECT_SIZES = 256, 1024, 2048, 4096  # as the kernels of select.cu are named
_SELECT_THREADS = 512
_METRICS = "cosine", "ip", "l2"  # as in scores.cu
_DOTS = {"float32": "dot_float32", "float16": "dot_float16", "uint8": "dot_uint8"}  # 4-bit codes: dot_uint4


@on_gpu
def rerank(queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
    """The best `keep` of each query's candidates, best first; see `kernels.reference.rerank`.

    Codes on the GPU are used where they are. Of codes on the host only the candidates' rows are gathered and sent,
    for so many queries at a time that they fit a fixed share of the GPU's memory: candidates on the GPU are
    copied to the host for that.
    """
    count, r = candidates.shape
    if not (count and r and keep and len(codes.values)):
        none = cupy.full((count, keep), -1, cupy.int64), cupy.full((count, keep), -cupy.inf, cupy.float32)
        nothing: tuple[I64, F32] = returned(queries, *none)
        return nothing
    on_host = not is_on_gpu(codes.values)
    # Per candidate: its row, if it is sent, and about ten float64 or int64 intermediates.
    per_query = r * (80 + (codes.values[:1].nbytes if on_host else 0))
    block = max(RERANK_BYTES // per_query, 1)
    parts = [np.s_[start : start + block] for start in range(0, count, block)]
    found = [_rerank(queries[part], candidates[part], codes, metric, keep) for part in parts]
    rows, scores = found[0] if len(found) == 1 else map(cupy.concatenate, zip(*found, strict=True))
    result: tuple[I64, F32] = returned(queries, rows, scores)
    return result


@on_gpu
def compare(queries: F32, pairs: I64, codes: Codes, metric: Metric) -> F32:
    """The score of each pair; see `kernels.reference.compare`.

    The queries that a block of pairs has are gathered on the host, where they lie there, and sent once.
    """
    pairs = np.asarray(here(pairs), np.int64)
    block = max(RERANK_BYTES // (80 + 4 * queries.shape[1] + codes.values[:1].nbytes), 1)
    parts = [pairs[start : start + block] for start in range(0, len(pairs), block)]
    found = [cupy.empty(0, cupy.float32), *(_compared(queries, part, codes, metric) for part in parts)]
    scores: F32 = returned(queries, cupy.concatenate(found))
    return scores


def _compared(queries: Any, pairs: I64, codes: Codes, metric: Metric) -> Any:
    used, at = np.unique(pairs[:, 0], return_inverse=True)
    lines = rows_there(queries[there(used) if is_on_gpu(queries) else used])[there(at.reshape(-1))]
    rows = pairs[:, 1:]
    if not is_on_gpu(codes.values):
        codes, rows = _gather(codes, rows)
    scores = _scores(lines, there(np.ascontiguousarray(rows)), codes, metric)
    return scores[:, 0].astype(cupy.float32, copy=False)


def _rerank(queries: Any, candidates: Any, codes: Codes, metric: Metric, keep: int) -> tuple[Any, Any]:
    """One block of queries and candidates, its results on the GPU."""
    if is_on_gpu(codes.values):
        rows = at = there(candidates).astype(cupy.int64, copy=False)
    else:
        on_host = np.asarray(here(candidates), np.int64)
        codes, places = _gather(codes, on_host)
        rows, at = there(on_host), there(places)
    return best_first(rows, _scores(rows_there(queries), at, codes, metric), keep)


def _gather(codes: Codes, at: I64) -> tuple[Codes, I64]:
    """The rows that occur in `at` (q, r; below 0 = none) sent to the GPU, and their places there (q, r; −1 = none)."""
    present = np.unique(at[at >= 0]) if (at >= 0).any() else np.zeros(1, np.int64)
    sent = codes.each(lambda part: there(here(part)[present]))
    return sent, np.where(at < 0, -1, np.searchsorted(present, at))


def _scores(queries: Any, at: Any, codes: Codes, metric: Metric) -> Any:
    """Scores (q, r) of the rows `at` (q, r), below 0 = none, whose score means nothing.

    In as few launches as may be: they are what takes the time of a single query.
    """
    if codes.low is None and metric == "l2":
        (distances,) = _pairs("distance_float32", queries, codes.values, at, outputs=1)
        return -distances
    (count, r), d = at.shape, queries.shape[1]
    scaled, facts = cupy.empty((count, d), cupy.float32), cupy.empty((count, 3), cupy.float64)
    launch(
        "scores.cu", "facts_of_queries", count, (queries, scaled, facts, np.int32(d)), min(-(-d // 32) * 32, THREADS)
    )
    scores, blocks = cupy.empty((count, r), cupy.float32), -(-count * r // THREADS)
    sizes = np.int64(count * r), np.int32(r), np.int32(_METRICS.index(metric))
    if codes.low is None:
        dots, squares = _pairs("dot_float32", queries, codes.values, at, outputs=2)
        launch("scores.cu", "scores_of_rows", blocks, (dots, squares, facts, scores, *sizes))
    else:
        name = _DOTS[str(codes.values.dtype)] if codes.packed is None else "dot_uint4"
        (dots,) = _pairs(name, scaled, codes.values, at, outputs=1)
        sides = (there(part) for part in (codes.low, codes.step, codes.norm2))
        launch("scores.cu", "scores_of_codes", blocks, (dots, at, *sides, facts, scores, *sizes))
    return scores


def _pairs(name: str, queries: Any, values: Any, at: Any, *, outputs: int) -> list[Any]:
    """What a kernel of `rerank.cu` computes for every query and candidate: arrays (q, r) float64."""
    (count, r), d = at.shape, queries.shape[1]
    results = [cupy.empty((count, r), cupy.float64) for _ in range(outputs)]
    sizes = np.int64(count * r), np.int32(r), np.int32(d)
    launch("rerank.cu", name, -(-count * r // _PAIRS_PER_BLOCK), (queries, there(values), at, *results, *sizes))
    return results


def best_first(rows: Any, scores: Any, keep: int) -> tuple[Any, Any]:
    """The best `keep` of each line of candidates on the GPU: rows (q, keep) int64, scores (q, keep) float32.

    rows: (q, r) int64 in any order, below 0 = absent. scores: (q, r), compared as float32. Best first, equal scores
    by ascending row, −0 equal to 0, a NaN as −inf; absent = −1 and −inf, behind all others.
    """
    count, r = rows.shape
    scores = cupy.ascontiguousarray(scores.astype(cupy.float32, copy=False))
    if r > _SELECT_SIZES[-1]:
        order = cupy.argsort(cupy.where(rows < 0, cupy.iinfo(cupy.int64).max, rows), axis=1)
        rows, scores = (cupy.take_along_axis(part, order, axis=1) for part in (rows, scores))
        rows = cupy.where(rows < 0, cupy.iinfo(cupy.int64).max, rows)
        return dense.best_first(cupy, rows, cupy.where(cupy.isnan(scores), -cupy.inf, scores), keep)
    best, kept = cupy.empty((count, keep), cupy.int64), cupy.empty((count, keep), cupy.float32)
    if count and keep:
        size = next(size for size in _SELECT_SIZES if size >= r)
        threads = min(max(1 << max(r - 1, 1).bit_length() - 1, 32), _SELECT_THREADS)
        arrays = scores, cupy.ascontiguousarray(rows), best, kept
        launch("select.cu", f"select_{size}", count, (*arrays, np.int32(r), np.int32(keep)), threads)
    return best, kept


@on_gpu
def cascade(candidates: I64, steps: Sequence[Step], metric: Metric) -> tuple[I64, F32]:
    """Candidates compared step by step, all on the GPU; see `kernels.reference.cascade`."""
    some: Any = candidates
    for step in steps:
        some, scores = rerank(rows_there(step.queries), some, step.codes, metric, step.keep)
    found: tuple[I64, F32] = returned(candidates, some, scores)
    return found
