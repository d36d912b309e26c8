"""The kernels in Numba: no Python object per row, the GIL released, all cores through threads.

Blocks of rows go to a thread pool instead of Numba's own parallel loops: those depend on which threading layer
happens to be installed, may not be entered from two threads at once, and take far longer to compile.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt

from kernels import contract, dense
from kernels.contract import F32, F64, I64, U8, Codes, Metric
from kernels.device import cpu_threads
from kernels.reference import fix_signs, host_buffer, resident

# Reassociation and fused multiply-add let LLVM vectorise the sums; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
_EXPONENT = np.uint32(0x7F800000)
_WIDE = np.finfo(np.float32).max / np.float32(256)  # steps of rows whose range itself may overflow
_METRICS: dict[Metric, int] = {"cosine": 0, "ip": 1, "l2": 2}


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="kernels")


# A forked child has the pool's object but none of its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _in_blocks(n: int, block: int, work: Callable[[int, int], object]) -> None:
    """Run `work(start, stop)` over blocks of n on all cores; one block runs here."""
    if n <= block or cpu_threads() == 1:
        work(0, n)
        return
    for done in [_pool().submit(work, start, min(start + block, n)) for start in range(0, n, block)]:
        done.result()


@numba.njit(nogil=True, cache=True)
def row_not_finite(row: Any) -> Any:
    """Whether a (d,) uint32 view of float32 values holds a NaN or an infinity: an exponent of all ones."""
    found = np.int32(0)
    for j in range(row.shape[0]):  # counted by index: LLVM vectorises this form and no other that was tried
        found += np.int32((row[j] & _EXPONENT) == _EXPONENT)
    return found > 0


@numba.njit(nogil=True, cache=True)
def _decode(headers: Any, floats: Any, fc7: Any, fc8: Any, flags: Any) -> None:
    for i in range(len(floats)):
        fc8[i] = floats[i, 2:1002]
        fc7[i] = floats[i, 1004:5100]
        flags[i] = (
            contract.BAD_FC8_HEADER * (headers[i, 0] != contract.FC8_DIM)
            + contract.BAD_FC7_HEADER * (headers[i, 501] != contract.FC7_DIM)
            + contract.FC8_NOT_FINITE * row_not_finite(fc8[i])
            + contract.FC7_NOT_FINITE * row_not_finite(fc7[i])
        )


def decode(records: U8, fc7: F32, fc8: F32) -> U8:
    """Split raw records into their layers; see `kernels.reference.decode`."""
    records = np.ascontiguousarray(records)
    flags = np.empty(len(records), np.uint8)
    # Copied as integers: a signalling NaN moved as a float may change its bits.
    words, headers = records.view("<u4"), records.view("<i8")
    out7, out8 = fc7.view("<u4"), fc8.view("<u4")
    _in_blocks(len(records), 256, lambda a, b: _decode(headers[a:b], words[a:b], out7[a:b], out8[a:b], flags[a:b]))
    return flags


@numba.njit(nogil=True, cache=True)
def _non_finite(rows: Any, out: Any) -> None:
    for i in range(len(rows)):
        out[i] = row_not_finite(rows[i])


def non_finite(rows: F32) -> npt.NDArray[np.bool_]:
    """Whether each row holds a NaN or an infinity; see `kernels.reference.non_finite`."""
    out = np.empty(len(rows), np.bool_)
    words = np.ascontiguousarray(rows).view("<u4")
    _in_blocks(len(rows), 1024, lambda a, b: _non_finite(words[a:b], out[a:b]))
    return out


@numba.njit(nogil=True, cache=True)
def _nearest_code(scaled: Any) -> Any:
    return np.uint8(min(max(np.rint(scaled), np.float32(0)), np.float32(255)))


@numba.njit(nogil=True, cache=True)
def _quantize_uint8(rows: Any, values: Any, low: Any, step: Any, norm2: Any) -> None:
    for i in range(len(rows)):
        row = rows[i]
        least, most, square = row[0], row[0], 0.0
        for value in row:
            least, most = min(least, value), max(most, value)
            square += np.float64(value) * np.float64(value)
        width = ((most / np.float32(2) - least / np.float32(2)) / np.float32(255)) * np.float32(2)
        divisor = width if width > 0 else np.float32(1)
        if width > _WIDE:
            half = np.float32(0.5)
            for j in range(row.shape[0]):
                values[i, j] = _nearest_code((row[j] * half - least * half) / (divisor * half))
        else:
            for j in range(row.shape[0]):
                values[i, j] = _nearest_code((row[j] - least) / divisor)
        low[i], step[i], norm2[i] = least, width, square


def quantize(rows: F32, kind: Literal["uint8", "float16"]) -> Codes:
    """Codes of rows, each over its own range; see `kernels.reference.quantize`."""
    rows = np.ascontiguousarray(rows, np.float32)
    n, d = rows.shape
    if kind == "float16":  # NumPy's conversion is vectorised already
        step = np.abs(rows).max(axis=1)
        values = (rows / np.where(step > 0, step, np.float32(1))[:, None]).astype(np.float16)
        norm2 = np.einsum("ij,ij->i", rows, rows, dtype=np.float64).astype(np.float32)
        return Codes(values, np.zeros_like(step), step, norm2)
    codes, low, step, norm2 = (
        np.empty((n, d), np.uint8),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
    )
    _in_blocks(n, 512, lambda a, b: _quantize_uint8(rows[a:b], codes[a:b], low[a:b], step[a:b], norm2[a:b]))
    return Codes(codes, low, step, norm2)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_uint8(query: Any, row: Any) -> Any:
    total = np.float32(0)
    for j in range(query.shape[0]):
        total += query[j] * np.float32(row[j])
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _dot_float16(query: Any, row: Any) -> Any:
    """Dot with float16 values given as uint16 bits: Numba has no float16 on the CPU.

    Shifted into place as float32 the exponent is short by 112; multiplying by 2**112 mends it, subnormals too.
    """
    total = np.float32(0)
    for j in range(query.shape[0]):
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
        for row in candidates[i]:
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


def _rerank_codes(dot: Any) -> Any:
    """The re-ranking loop over codes, compiled around one kind of dot product."""

    @numba.njit(nogil=True, cache=True)
    def loop(
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
        scaled = np.empty(queries.shape[1], np.float32)
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
            for row in candidates[i]:
                if row < 0:
                    continue
                score = np.float64(low[row]) * total + np.float64(step[row]) * size * dot(scaled, values[row])
                if metric == 0:
                    score = _cosine(score, norm2[row], query_norm2)
                elif metric == 2:
                    score = 2.0 * score - norm2[row] - query_norm2
                held = _offer(rows[i], scores[i], held, row, np.float32(score))
            _best_first(rows[i], scores[i], held)

    return loop


_rerank_uint8 = _rerank_codes(_dot_uint8)
_rerank_float16 = _rerank_codes(_dot_float16)


def rerank(queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
    """The best `keep` of each query's candidates, best first; see `kernels.reference.rerank`."""
    queries = np.ascontiguousarray(queries, np.float32)
    candidates = np.ascontiguousarray(candidates, np.int64)
    rows = np.empty((len(queries), keep), np.int64)
    scores = np.empty((len(queries), keep), np.float32)
    m, values = _METRICS[metric], codes.values

    def work(a: int, b: int) -> None:
        ours = queries[a:b], candidates[a:b]
        if codes.low is None:
            _rerank_rows(*ours, values, m, rows[a:b], scores[a:b])
        elif values.dtype == np.uint8:
            _rerank_uint8(*ours, values, codes.low, codes.step, codes.norm2, m, rows[a:b], scores[a:b])
        else:
            bits = values.view(np.uint16)
            _rerank_float16(*ours, bits, codes.low, codes.step, codes.norm2, m, rows[a:b], scores[a:b])

    _in_blocks(len(queries), 16, work)
    return rows, scores


# Up to here a loop beats the matrix product: it skips the zeros, three quarters of a row of fc7, and does not wait for
# the threads of the BLAS, which on a busy machine take milliseconds to gather for a microsecond's work.
_FEW_ROWS = 4


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _project_few(rows: Any, axes: Any, out: Any) -> None:
    for i in range(rows.shape[0]):
        out[i] = 0
        for j in range(rows.shape[1]):
            value = rows[i, j]
            if value != 0:
                for k in range(axes.shape[1]):
                    out[i, k] += value * axes[j, k]


def project(rows: F32, axes: F32, *, unit: bool) -> F32:
    """Rows onto axes; see `kernels.dense.project`."""
    rows = np.asarray(rows)
    if len(rows) > _FEW_ROWS:
        projected: F32 = dense.project(np, rows, axes, unit=unit)
        return projected
    rows = np.ascontiguousarray(dense.normalize(np, rows) if unit else rows, np.float32)
    out = np.empty((len(rows), axes.shape[1]), np.float32)
    _project_few(rows, np.ascontiguousarray(axes, np.float32), out)
    return np.asarray(dense.normalize(np, out)) if unit else out


def moments(rows: F32, *, unit: bool) -> tuple[F64, F32]:
    """Sum and second moment of rows; see `kernels.dense.moments`."""
    return dense.moments(np, np.asarray(rows), unit=unit)


def top_axes(covariance: F64, count: int) -> tuple[F32, F32]:
    """The leading eigenvectors and eigenvalues; see `kernels.reference.top_axes`.

    In float32, and only the ones asked for: for 256 of 4,096 that is many times faster than all in float64, and
    the axes need only span the right space.
    """
    from scipy.linalg import eigh  # half a second to import, and only builds need it

    d = len(covariance)
    scale = np.abs(covariance).max() or 1.0  # keeps the squares of extreme features inside float32
    matrix = np.ascontiguousarray(covariance / scale, np.float32)
    values, vectors = eigh(matrix, subset_by_index=[d - count, d - 1], overwrite_a=True, check_finite=False)
    return fix_signs(vectors[:, ::-1]).astype(np.float32), (values[::-1] * scale).astype(np.float32)


def nearest(queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
    """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""
    return dense.nearest(np, queries, np.asarray(rows), metric, k)


__all__ = [
    "decode",
    "host_buffer",
    "moments",
    "nearest",
    "non_finite",
    "project",
    "quantize",
    "rerank",
    "resident",
    "top_axes",
]
