"""Scores of a query with one row in Numba, exact or by its codes: what all loops over candidates are made of."""

import math
from typing import Any

import numba
import numpy as np

from kernels.contract import Codes, Metric

# Reassociation and fused multiply-add let LLVM vectorise the sums; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}
METRICS: dict[Metric, int] = {"cosine": 0, "ip": 1, "l2": 2}
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
def dot_and_square(query: Any, row: Any) -> Any:
    """The inner product, and the squared length of the row, right to float32's last bit; finite values overflow not."""
    dot, square = 0.0, 0.0  # in float64
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
def _cosine(dot: Any, norm2: Any, query_norm2: Any) -> Any:
    length = np.sqrt(np.float64(norm2)) * np.sqrt(np.float64(query_norm2))
    return min(max(np.float64(dot) / length, -1.0), 1.0) if length > 0 else 0.0


@numba.njit(nogil=True, cache=True)
def padded(dim: int) -> Any:
    """Room for a query that is compared with codes: of an odd number of dimensions one more, for half a byte."""
    return np.zeros(dim + dim % 2, np.float32)


@numba.njit(nogil=True, cache=True)
def scale(query: Any, scaled: Any) -> Any:
    """Write a query (d,) to `scaled`, divided by a power of two; its sum, its squared length and that power.

    To magnitudes up to 1, which changes no digit: the float32 products with codes cannot overflow.
    """
    total, norm2, largest = 0.0, 0.0, 2.0**-100
    for value in query:
        total += np.float64(value)
        norm2 += np.float64(value) * np.float64(value)
        largest = max(largest, abs(np.float64(value)))
    size = math.ldexp(1.0, math.frexp(largest)[1])
    for j in range(len(query)):
        scaled[j] = query[j] * np.float32(1 / size)
    return total, norm2, size


@numba.njit(nogil=True, cache=True)
def dot_code(kind: int, scaled: Any, row: Any) -> Any:
    """The inner product of a scaled query with the codes of a row; kind: which of them. (A loop compiled around each
    kind would be compiled in every process anew: Numba's cache does not know a closure again.)
    """
    if kind == _UINT4:
        return np.float64(_dot_uint4(scaled, row))
    if kind == _UINT8:
        return np.float64(_dot_uint8(scaled, row))
    return np.float64(_dot_float16(scaled, row))


@numba.njit(nogil=True, cache=True)
def score_code(metric: int, dot: Any, total: Any, query_norm2: Any, low: Any, step: Any, norm2: Any) -> Any:
    """The score by the inner product with the codes of a row, whose own scale and squared length come last."""
    score = np.float64(low) * total + np.float64(step) * dot
    if metric == 0:
        return _cosine(score, norm2, query_norm2)
    return 2.0 * score - norm2 - query_norm2 if metric == 2 else score


@numba.njit(nogil=True, cache=True)
def score_row(metric: int, query: Any, row: Any, query_norm2: Any) -> Any:
    """The exact score of a row (d,) float32."""
    if metric == 2:
        return -_squared_distance(query, row)
    score, norm2 = dot_and_square(query, row)
    return _cosine(score, norm2, query_norm2) if metric == 0 else score


def kind_of(codes: Codes) -> tuple[int, Any]:
    """Which codes they are, and their values as Numba knows them."""
    if codes.packed is not None:
        return _UINT4, codes.values
    return (_UINT8, codes.values) if codes.values.dtype == np.uint8 else (_FLOAT16, codes.values.view(np.uint16))
