"""Re-ranking in Numba: a score for each candidate, and a heap of the best."""

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from kernels.contract import F32, I64, Codes, Metric, Step
from kernels.paging import ask_for, disk_was_read
from kernels.prefetch import prefetch_row
from kernels.threads import in_blocks

# Reassociation and fused multiply-add let LLVM vectorise the sums; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_METRICS: dict[Metric, int] = {"cosine": 0, "ip": 1, "l2": 2}

# Candidates lie anywhere in memory: the row that comes so many candidates later is asked for in time, and of a long
# row its beginning, since the processor itself sees where a sequence goes on. Queries for one task of a thread.
_AHEAD, _BEGINNING = 8, 256
_QUERIES = 32
_TOGETHER = 64  # queries whose rows are asked for together where they must come from a disk
_UINT8, _UINT4, _FLOAT16 = range(3)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_uint8(query: Any, row: Any) -> Any:
    total = np.float32(0)
    for j in range(row.shape[0]):
        total += query[j] * np.float32(row[j])
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_uint4(query: Any, row: Any) -> Any:
    total, other = np.float32(0), np.float32(0)
    second = query[row.shape[0] :]  # an index that is a sum might be negative, and would not be vectorised
    for j in range(row.shape[0]):
        both = np.int32(row[j])
        total += query[j] * np.float32(np.int32(both & np.int32(15)))
        other += second[j] * np.float32(np.int32(both >> np.int32(4)))
    return total + other


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_float16(query: Any, row: Any) -> Any:
    """Dot with float16 values given as uint16 bits: Numba has no float16 on the CPU.

    Shifted into place as float32 the exponent is short by 112; multiplying by 2**112 mends it, subnormals too.
    """
    total = np.float32(0)
    for j in range(row.shape[0]):
        bits = np.uint32(row[j])
        magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13))
        sign = np.uint32((bits & np.uint32(0x8000)) << np.uint32(16))
        total += query[j] * (np.uint32(magnitude | sign).view(np.float32) * np.float32(2.0**112))
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_and_square(query: Any, row: Any) -> Any:
    dot, square = 0.0, 0.0  # in float64: right to the last bit of the result, and no finite value overflows
    for j in range(query.shape[0]):
        dot += np.float64(query[j]) * np.float64(row[j])
        square += np.float64(row[j]) * np.float64(row[j])
    return dot, square


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _squared_distance(query: Any, row: Any) -> Any:
    total = 0.0
    for j in range(query.shape[0]):
        difference = np.float64(query[j]) - np.float64(row[j])
        total += difference * difference
    return total


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
def _cosine(dot: Any, norm2: Any, query_norm2: Any) -> Any:
    length = np.sqrt(np.float64(norm2)) * np.sqrt(np.float64(query_norm2))
    return min(max(np.float64(dot) / length, -1.0), 1.0) if length > 0 else 0.0


@numba.njit(nogil=True, cache=True)
def _rerank_rows(queries: Any, candidates: Any, values: Any, metric: int, rows: Any, scores: Any) -> None:
    for i in range(len(queries)):
        query, held = queries[i], 0
        query_norm2 = _dot_and_square(query, query)[1]
        for j, row in enumerate(candidates[i]):
            if j + 1 < candidates.shape[1] and candidates[i, j + 1] >= 0:
                prefetch_row(values, candidates[i, j + 1], _BEGINNING)
            if row < 0:
                continue
            if metric == 2:
                score = -_squared_distance(query, values[row])
            else:
                score, norm2 = _dot_and_square(query, values[row])
                if metric == 0:
                    score = _cosine(score, norm2, query_norm2)
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
    """kind: which of the dot products. (A loop compiled around each of them would be compiled in every process anew:
    Numba's cache does not know a closure again.)
    """
    # One more than an odd number of dimensions: what the last half of a byte of 4-bit codes is multiplied with.
    scaled = np.zeros(queries.shape[1] + queries.shape[1] % 2, np.float32)
    for i in range(len(queries)):
        query, held = queries[i], 0
        total, query_norm2, largest = 0.0, 0.0, 2.0**-100
        for value in query:
            total += np.float64(value)
            query_norm2 += np.float64(value) * np.float64(value)
            largest = max(largest, abs(np.float64(value)))
        # By a power of two to magnitudes up to 1, which changes no digit: the float32 products cannot overflow.
        size = math.ldexp(1.0, math.frexp(largest)[1])
        for j in range(len(query)):
            scaled[j] = query[j] * np.float32(1 / size)
        for j in range(min(_AHEAD, candidates.shape[1])):
            if candidates[i, j] >= 0:
                prefetch_row(values, candidates[i, j], _BEGINNING)
        for j, row in enumerate(candidates[i]):
            if j + _AHEAD < candidates.shape[1] and candidates[i, j + _AHEAD] >= 0:
                prefetch_row(values, candidates[i, j + _AHEAD], _BEGINNING)
            if row < 0:
                continue
            if kind == _UINT4:
                dot = _dot_uint4(scaled, values[row])
            elif kind == _UINT8:
                dot = _dot_uint8(scaled, values[row])
            else:
                dot = _dot_float16(scaled, values[row])
            score = np.float64(low[row]) * total + np.float64(step[row]) * size * dot
            if metric == 0:
                score = _cosine(score, norm2[row], query_norm2)
            elif metric == 2:
                score = 2.0 * score - norm2[row] - query_norm2
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
    m, values = _METRICS[metric], codes.values
    if codes.low is None:
        _rerank_rows(queries, candidates, values, m, rows, scores)
        return
    kind = _UINT4 if codes.packed is not None else _UINT8 if values.dtype == np.uint8 else _FLOAT16
    values = values.view(np.uint16) if kind == _FLOAT16 else values
    _rerank_codes(kind, queries, candidates, values, codes.low, codes.step, codes.norm2, m, rows, scores)
