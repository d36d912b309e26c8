"""Re-ranking in Numba: a score for each candidate, and a heap of the best."""

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from kernels.contract import F32, I64, Codes, Metric, Step
from kernels.cpu_scores import METRICS, dot_and_square, dot_code, kind_of, padded, scale, score_code, score_row
from kernels.paging import ask_for, disk_was_read
from kernels.prefetch import prefetch_row
from kernels.threads import in_blocks

# Candidates lie anywhere in memory: the row that comes so many candidates later is asked for in time, and of a long
# row its beginning, since the processor itself sees where a sequence goes on. Queries for one task of a thread.
_AHEAD, _BEGINNING = 8, 256
_QUERIES = 32
_TOGETHER = 64  # queries whose rows are asked for together where they must come from a disk


@numba.njit(nogil=True, cache=True)
def _worse(score: Any, row: Any, than_score: Any, than_row: Any) -> Any:
    return score < than_score or (score == than_score and row > than_row)


@numba.njit(nogil=True, cache=True)
def _offer(rows: Any, scores: Any, held: int, row: Any, score: Any) -> int:
    """Offer one candidate to a heap of the best, worst on top; how many it then holds."""
    keep = rows.shape[0]
    if held < keep:
        at, held = held, held + 1
        while at > 0:
            up = (at - 1) // 2
            if not _worse(score, row, scores[up], rows[up]):
                break
            rows[at], scores[at], at = rows[up], scores[up], up
        rows[at], scores[at] = row, score
        return held
    if _worse(scores[0], rows[0], score, row):
        _sift(rows, scores, held, row, score)
    return held


@numba.njit(nogil=True, cache=True)
def _sift(rows: Any, scores: Any, held: int, row: Any, score: Any) -> None:
    """Put an entry in place of the top of the heap and let it sink."""
    at = 0
    while True:
        down = 2 * at + 1
        if down >= held:
            break
        if down + 1 < held and _worse(scores[down + 1], rows[down + 1], scores[down], rows[down]):
            down += 1
        if not _worse(scores[down], rows[down], score, row):
            break
        rows[at], scores[at], at = rows[down], scores[down], down
    rows[at], scores[at] = row, score


@numba.njit(nogil=True, cache=True)
def _best_first(rows: Any, scores: Any, held: int) -> None:
    """Turn the heap into a list, best first; what it does not hold is −1 and −inf."""
    for last in range(held - 1, 0, -1):
        row, score = rows[last], scores[last]
        rows[last], scores[last] = rows[0], scores[0]
        _sift(rows, scores, last, row, score)
    rows[held:] = -1
    scores[held:] = -np.inf


@numba.njit(nogil=True, cache=True)
def _rerank_rows(queries: Any, candidates: Any, values: Any, metric: int, rows: Any, scores: Any) -> None:
    for i in range(len(queries)):
        query, held = queries[i], 0
        query_norm2 = dot_and_square(query, query)[1]
        for j, row in enumerate(candidates[i]):
            if j + 1 < candidates.shape[1] and candidates[i, j + 1] >= 0:
                prefetch_row(values, candidates[i, j + 1], _BEGINNING)
            if row < 0:
                continue
            score = score_row(metric, query, values[row], query_norm2)
            held = _offer(rows[i], scores[i], held, row, np.float32(score))
        _best_first(rows[i], scores[i], held)


@numba.njit(nogil=True, cache=True)
def _rerank_codes(
    kind: int,
    queries: Any,
    candidates: Any,
    values: Any,
    low: Any,
    step: Any,
    norm2: Any,
    metric: int,
    rows: Any,
    scores: Any,
) -> None:
    scaled = padded(queries.shape[1])
    for i in range(len(queries)):
        held = 0
        total, query_norm2, size = scale(queries[i], scaled)
        for j in range(min(_AHEAD, candidates.shape[1])):
            if candidates[i, j] >= 0:
                prefetch_row(values, candidates[i, j], _BEGINNING)
        for j, row in enumerate(candidates[i]):
            if j + _AHEAD < candidates.shape[1] and candidates[i, j + _AHEAD] >= 0:
                prefetch_row(values, candidates[i, j + _AHEAD], _BEGINNING)
            if row < 0:
                continue
            dot = size * dot_code(kind, scaled, values[row])
            score = score_code(metric, dot, total, query_norm2, low[row], step[row], norm2[row])
            held = _offer(rows[i], scores[i], held, row, np.float32(score))
        _best_first(rows[i], scores[i], held)


def rerank(queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
    """The best `keep` of each query's candidates, best first; see `kernels.reference.rerank`."""
    return cascade(candidates, [Step(queries, codes, keep)], metric)


def cascade(candidates: I64, steps: Sequence[Step], metric: Metric) -> tuple[I64, F32]:
    """Candidates compared step by step; see `kernels.reference.cascade`.

    A thread takes a few queries through all steps: nobody waits for the slowest between two of them.
    """
    candidates = np.ascontiguousarray(candidates, np.int64)
    steps = [
        step if _plain(step.queries) else step._replace(queries=np.array(step.queries, np.float32)) for step in steps
    ]
    n, keep = len(candidates), steps[-1].keep
    rows, scores = np.empty((n, keep), np.int64), np.empty((n, keep), np.float32)

    def work(a: int, b: int) -> None:
        for start in range(a, b, _TOGETHER):
            some = slice(start, min(start + _TOGETHER, b))
            missing = disk_was_read()  # by the last ones: then these, too, want what is not in memory
            left = candidates[some]
            for step in steps[:-1]:
                kept = np.empty((len(left), step.keep), np.int64), np.empty((len(left), step.keep), np.float32)
                if missing:
                    ask_for(step.codes.values, left)
                _compare(step.queries[some], left, step.codes, metric, *kept)
                left = kept[0]
            if missing:
                ask_for(steps[-1].codes.values, left)
            _compare(steps[-1].queries[some], left, steps[-1].codes, metric, rows[some], scores[some])

    in_blocks(n, _QUERIES, work)
    return rows, scores


def _plain(queries: Any) -> bool:
    return bool(queries.dtype == np.float32 and queries.flags.c_contiguous)


def _compare(queries: F32, candidates: I64, codes: Codes, metric: Metric, rows: I64, scores: F32) -> None:
    m = METRICS[metric]
    if codes.low is None:
        _rerank_rows(queries, candidates, codes.values, m, rows, scores)
        return
    kind, values = kind_of(codes)
    _rerank_codes(kind, queries, candidates, values, codes.low, codes.step, codes.norm2, m, rows, scores)
