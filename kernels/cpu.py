"""The kernels in Numba: no Python object per row, the GIL released, all cores through threads."""

from collections.abc import Iterable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from kernels import contract, dense, principal
from kernels.contract import F32, F64, I64, U8, CodeKind, Codes, Decoded, Metric
from kernels.cpu_compare import compare
from kernels.cpu_exact import join, nearest_of
from kernels.cpu_rerank import cascade, rerank
from kernels.reference import decoded_by, fix_signs, host_buffer, resident, to_device, to_host, xp
from kernels.threads import in_blocks, in_spans

_FAST = {"reassoc", "contract", "nsz"}  # as in kernels/cpu_rerank.py
_EXPONENT = np.uint32(0x7F800000)
_MOST = np.finfo(np.float32).max


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
    in_blocks(len(records), 256, lambda a, b: _decode(headers[a:b], words[a:b], out7[a:b], out8[a:b], flags[a:b]))
    return flags


def decode_resident(records: U8) -> Decoded:
    """Split raw records into their layers, with the norms of rows; see `kernels.reference.decode_resident`."""
    return decoded_by(decode, records)


@numba.njit(nogil=True, cache=True)
def _non_finite(rows: Any, out: Any) -> None:
    for i in range(len(rows)):
        out[i] = row_not_finite(rows[i])


def non_finite(rows: F32) -> npt.NDArray[np.bool_]:
    """Whether each row holds a NaN or an infinity; see `kernels.reference.non_finite`."""
    out = np.empty(len(rows), np.bool_)
    words = np.ascontiguousarray(rows).view("<u4")
    in_blocks(len(rows), 1024, lambda a, b: _non_finite(words[a:b], out[a:b]))
    return out


@numba.njit(nogil=True, cache=True)
def _nearest_code(scaled: Any, levels: Any) -> Any:
    return np.uint8(min(max(np.rint(scaled), np.float32(0)), levels))


@numba.njit(nogil=True, cache=True)
def _quantize(rows: Any, levels: Any, values: Any, low: Any, step: Any, norm2: Any) -> None:
    """levels: the largest code, float32."""
    wide = _MOST / (levels + np.float32(1))  # steps of rows whose range itself may overflow
    for i in range(len(rows)):
        row = rows[i]
        least, most, square = row[0], row[0], 0.0
        for value in row:
            least, most = min(least, value), max(most, value)
            square += np.float64(value) * np.float64(value)
        width = ((most / np.float32(2) - least / np.float32(2)) / levels) * np.float32(2)
        divisor = width if width > 0 else np.float32(1)
        if width > wide:
            half = np.float32(0.5)
            for j in range(row.shape[0]):
                values[i, j] = _nearest_code((row[j] * half - least * half) / (divisor * half), levels)
        else:
            for j in range(row.shape[0]):
                values[i, j] = _nearest_code((row[j] - least) / divisor, levels)
        low[i], step[i], norm2[i] = least, width, square


@numba.njit(nogil=True, cache=True)
def _pack(rows: Any, values: Any, packed: Any, low: Any, step: Any, norm2: Any) -> None:
    """The second half of uint4 codes: correct low and step, put two codes in a byte."""
    half, rest = packed.shape[1], rows.shape[1] - packed.shape[1]
    for i in range(len(rows)):
        square, total, dot = 0.0, 0.0, 0.0
        for j in range(rows.shape[1]):
            value = np.float64(rows[i, j])
            square += value * value
            total += value
            dot += value * np.float64(values[i, j])
        dot = np.float64(low[i]) * total + np.float64(step[i]) * dot
        if 0 < norm2[i] < np.inf and dot / 2 < square < dot * 2:
            low[i], step[i] = low[i] * (square / dot), step[i] * (square / dot)
        for j in range(rest):
            packed[i, j] = values[i, j] | (values[i, half + j] << 4)
        packed[i, rest:] = values[i, rest:half]


def quantize(rows: F32, kind: CodeKind) -> Codes:
    """Codes of rows, each over its own range; see `kernels.reference.quantize`."""
    rows = np.ascontiguousarray(rows, np.float32)
    n, d = rows.shape
    if kind == "float16":  # NumPy's conversion is vectorised already
        return dense.quantize(np, rows, "float16")
    values = np.empty((n, -(-d // 2) if kind == "uint4" else d), np.uint8)
    low, step, norm2 = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)

    def work(a: int, b: int) -> None:
        scale = low[a:b], step[a:b], norm2[a:b]
        if kind == "uint8":
            _quantize(rows[a:b], np.float32(255), values[a:b], *scale)
            return
        wide = np.empty((b - a, d), np.uint8)
        _quantize(rows[a:b], np.float32(15), wide, *scale)
        _pack(rows[a:b], wide, values[a:b], *scale)

    in_blocks(n, 512, work)
    return Codes(values, low, step, norm2, d if kind == "uint4" else None)


# Up to here a loop beats the matrix product: it skips the zeros, three quarters of a row of fc7, and does not wait for
# the threads of the BLAS, which on a busy machine take milliseconds to gather for a microsecond's work.
_FEW_ROWS = 4
_SPAN = 64  # rows of one product, at least: each brings all axes from memory into the caches
_BLOCK = 256
# Rows of sizes in here need no scaling before they are multiplied or squared in float32: sums of thousands of squares
# neither overflow nor vanish.
_LEAST_SIZE, _MOST_SIZE = np.float32(2.0**-50), np.float32(2.0**50)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _largest(row: Any) -> Any:
    """The largest magnitude, or 1 when all are zero."""
    largest = np.float32(0)
    for value in row:
        largest = max(largest, abs(value))
    return largest if largest > 0 else np.float32(1)


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _normalize(rows: Any, out: Any) -> None:
    """Rows to unit length; out may be the same array."""
    for i in range(rows.shape[0]):
        row, unit = rows[i], out[i]
        size, square = _largest(row), np.float32(0)
        for j in range(row.shape[0]):
            unit[j] = row[j] / size
            square += unit[j] * unit[j]
        if square > 0:
            length = np.sqrt(square)
            for j in range(row.shape[0]):
                unit[j] /= length


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _lengths(rows: Any, out: Any) -> Any:
    """Lengths of rows (n,), 1 for one of zeros; whether all sizes are such that float32 holds their squares."""
    plain = True
    for i in range(rows.shape[0]):
        row, square, largest = rows[i], np.float32(0), np.float32(0)
        for j in range(row.shape[0]):
            square += row[j] * row[j]
            largest = max(largest, abs(row[j]))
        plain &= (largest == 0) | ((largest >= _LEAST_SIZE) & (largest <= _MOST_SIZE))
        out[i] = np.sqrt(square) if largest > 0 else np.float32(1)
    return plain


def normalize(rows: F32) -> F32:
    """Rows (n, d) to unit length, a zero row stays zero; see `kernels.reference.normalize`."""
    rows = np.ascontiguousarray(rows, np.float32)
    out = np.empty_like(rows)
    in_blocks(len(rows), _BLOCK, lambda a, b: _normalize(rows[a:b], out[a:b]))
    return out


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def _project_few(rows: Any, axes: Any, unit: Any, out: Any) -> None:
    """As `kernels.dense.project`; the length of a row before it is projected changes nothing that its end does not."""
    for i in range(rows.shape[0]):
        out[i] = 0
        size = _largest(rows[i]) if unit else np.float32(1)
        for j in range(rows.shape[1]):
            value = rows[i, j]
            if value != 0:
                value /= size
                for k in range(axes.shape[1]):
                    out[i, k] += value * axes[j, k]
    if unit:
        _normalize(out, out)


def project(rows: F32, axes: F32, *, unit: bool) -> F32:
    """Rows onto axes; see `kernels.dense.project`."""
    rows, axes = np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(axes, np.float32)
    out = np.empty((len(rows), axes.shape[1]), np.float32)
    if len(rows) <= _FEW_ROWS:
        _project_few(rows, axes, unit, out)
        return out

    def work(a: int, b: int) -> None:
        plain = not unit or _lengths(rows[a:b], np.empty(b - a, np.float32))
        np.matmul(rows[a:b] if plain else normalize(rows[a:b]), axes, out=out[a:b])
        if unit:
            _normalize(out[a:b], out[a:b])

    in_spans(len(rows), _SPAN, work)
    return out


def principal_axes(blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
    """The leading principal axes of rows in blocks; see `kernels.reference.principal_axes`."""
    from scipy.linalg.blas import ssyrk  # a quarter of a second to import, and only builds need it

    def add(square: F32, rows: F32) -> F32:  # half the products, those above the diagonal
        total: F32 = ssyrk(1.0, rows.T, beta=1.0, c=square, overwrite_c=True)
        return total

    matrix, _ = principal.covariance(np, (normalize(rows) if unit else np.asarray(rows) for rows in blocks), add)
    above = np.triu(matrix)
    matrix = above + np.triu(above, 1).T
    return *top_axes(matrix, count), float(matrix.diagonal().sum(dtype=np.float64))


def top_axes(covariance: F64 | F32, count: int) -> tuple[F32, F32]:
    """The leading eigenvectors and eigenvalues; see `kernels.reference.principal_axes`.

    In float32, and only the ones asked for: for 256 of 4,096 that is many times faster than all in float64, and
    the axes need only span the right space.
    """
    from scipy.linalg import eigh  # half a second to import, and only builds need it

    d = len(covariance)
    scale = np.abs(covariance).max() or 1.0  # keeps the squares of extreme features inside float32
    matrix = np.ascontiguousarray(covariance / scale, np.float32)
    found = principal.leading(np, matrix, count)
    if found is None:
        values, vectors = eigh(matrix, subset_by_index=[d - count, d - 1], overwrite_a=True, check_finite=False)
        found = vectors[:, ::-1], values[::-1]
    return fix_signs(found[0]).astype(np.float32), (found[1] * scale).astype(np.float32)


def nearest(queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
    """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""
    rows = np.ascontiguousarray(rows, np.float32)
    lengths, plain = np.empty(len(rows), np.float32), np.ones(-(-len(rows) // _BLOCK), np.bool_)

    def measure(a: int, b: int) -> None:
        plain[a // _BLOCK : -(-b // _BLOCK)] = _lengths(rows[a:b], lengths[a:b])

    if metric == "cosine":  # products by lengths, which spares a copy of all rows
        in_blocks(len(rows), _BLOCK, measure)
        rows, queries = rows if plain.all() else normalize(rows), normalize(queries)
    at, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)

    def work(a: int, b: int) -> None:
        if metric != "cosine":
            at[a:b], scores[a:b] = dense.nearest(np, queries[a:b], rows, metric, k)
            return
        products = queries[a:b] @ rows.T
        if plain.all():
            products /= lengths
        at[a:b] = dense.best_of(np, products, k)
        scores[a:b] = np.take_along_axis(products, at[a:b], axis=1)

    in_spans(len(queries), _BLOCK, work)
    return at, scores


__all__ = [
    "cascade",
    "compare",
    "decode",
    "decode_resident",
    "host_buffer",
    "join",
    "nearest",
    "nearest_of",
    "non_finite",
    "normalize",
    "principal_axes",
    "project",
    "quantize",
    "rerank",
    "resident",
    "to_device",
    "to_host",
    "top_axes",
    "xp",
]
