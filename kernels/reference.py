"""Every kernel in a few lines of NumPy: what it means, and the oracle of all tests."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import contract
from kernels.contract import F32, F64, I64, U8, Blocks, CodeKind, Codes, Decoded, Metric, Nearest, Step

xp = np


def to_device(array: Any) -> Any:
    """The array as a C-ordered one of NumPy: the device is the host."""
    return np.ascontiguousarray(array)


def to_host(array: Any) -> npt.NDArray[Any]:
    """The array as one of NumPy."""
    return np.asarray(array)


def host_buffer(shape: tuple[int, ...]) -> U8:
    """Plain host memory, uint8: the device is the host."""
    return np.empty(shape, np.uint8)


def decode(records: U8, fc7: F32, fc8: F32) -> U8:
    """Split raw `.dat` records into their layers; the flags of each record.

    records: (n, 20400) uint8. fc7: (n, 4096), fc8: (n, 1000) float32, written in place, bit for bit.
    Returns (n,) uint8: 0, or the sum of BAD_FC8_HEADER, BAD_FC7_HEADER, FC8_NOT_FINITE, FC7_NOT_FINITE.
    """
    fc8[:] = records[:, contract.FC8_AT : contract.FC7_AT - 8].copy().view("<f4")
    fc7[:] = records[:, contract.FC7_AT :].copy().view("<f4")
    header8 = records[:, :8].copy().view("<i8")[:, 0]
    header7 = records[:, contract.FC7_AT - 8 : contract.FC7_AT].copy().view("<i8")[:, 0]
    flags = (
        contract.BAD_FC8_HEADER * (header8 != contract.FC8_DIM)
        | contract.BAD_FC7_HEADER * (header7 != contract.FC7_DIM)
        | contract.FC8_NOT_FINITE * non_finite(fc8)
        | contract.FC7_NOT_FINITE * non_finite(fc7)
    )
    return np.asarray(flags, np.uint8)


def decode_resident(records: U8) -> Decoded:
    """Split raw records (n, 20400) into their layers, on the device, with the L2 norms of their rows.

    Norms of finite rows are correct to float32's rounding, infinite where float32 does not hold them.
    """
    return decoded_by(decode, records)


def decoded_by(split: Callable[[U8, F32, F32], U8], records: U8) -> Decoded:
    """What `decode_resident` gives, in host memory, by a function that decodes."""
    fc7, fc8 = (np.empty((len(records), dim), np.float32) for dim in (contract.FC7_DIM, contract.FC8_DIM))
    flags = split(records, fc7, fc8)
    with np.errstate(all="ignore"):
        squares = (np.einsum("ij,ij->i", rows, rows, dtype=np.float64) for rows in (fc7, fc8))
        norms7, norms8 = (np.sqrt(part).astype(np.float32) for part in squares)
    return Decoded(fc7, fc8, flags, norms7, norms8, contract.Done())


def non_finite(rows: F32) -> npt.NDArray[np.bool_]:
    """Whether each row holds a NaN or an infinity. rows: (n, d) float32; returns (n,) bool."""
    return np.asarray(~np.isfinite(rows).all(axis=1))


def quantize(rows: F32, kind: CodeKind) -> Codes:
    """Codes of rows (n, d) float32, each row over its own range: no training, and no value falls outside.

    uint8: low is the row's least value, step a 255th of its range. float16: low is 0, step the row's largest
    magnitude, so that values past float16's 65,504 fit too. A constant row has step 0 (uint8) and zero codes.
    uint4: as uint8 with a 15th of the range, and two codes in a byte, see `Codes`; low and step are then both
    multiplied by what makes the inner product of the row with its own codes its squared length (the correction of
    RaBitQ, arXiv:2405.12497, section 3.2). Of rows near a query, which point nearly where it points, this takes
    most of the error away.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    norm2 = np.einsum("ij,ij->i", rows, rows, dtype=np.float64).astype(np.float32)
    if kind == "float16":
        step = np.abs(rows).max(axis=1)
        values = (rows / np.where(step > 0, step, np.float32(1))[:, None]).astype(np.float16)
        return Codes(values, np.zeros_like(step), step, norm2)
    low = rows.min(axis=1)
    levels = 15 if kind == "uint4" else 255
    # Halved before the subtraction, here always and below where it must be: the range of finite values may overflow.
    step = ((rows.max(axis=1) / 2 - low / 2) / np.float32(levels)) * np.float32(2)
    scale = np.where(step > np.finfo(np.float32).max / (levels + 1), np.float32(0.5), np.float32(1))[:, None]
    scaled = (rows * scale - low[:, None] * scale) / (np.where(step > 0, step, np.float32(1))[:, None] * scale)
    values = np.clip(np.rint(scaled), 0, levels).astype(np.uint8)
    if kind == "uint8":
        return Codes(values, low, step, norm2)
    factor = _correction(rows, restore(Codes(values, low, step)), norm2)
    packed = np.zeros((len(rows), -(-rows.shape[1] // 2)), np.uint8)
    packed |= values[:, : packed.shape[1]]
    packed[:, : rows.shape[1] // 2] |= values[:, packed.shape[1] :] << 4
    return Codes(packed, (low * factor).astype(np.float32), (step * factor).astype(np.float32), norm2, rows.shape[1])


def _correction(rows: F32, restored: F64, norm2: F32) -> F64:
    """What a restored row (n, d) is multiplied by, (n,): within ½ and 2, and 1 where squares leave float32."""
    squares, dots = ((rows.astype(np.float64) * other).sum(axis=1) for other in (rows, restored))
    good = (norm2 > 0) & (norm2 < np.inf) & (squares > dots / 2) & (squares < dots * 2)
    return np.asarray(np.where(good, squares / np.where(good, dots, 1), 1))


def restore(codes: Codes) -> npt.NDArray[np.float64]:
    """The rows (n, d) that the codes stand for, in float64."""
    values = codes.values
    if codes.packed is not None:
        values = np.concatenate([values & 15, values >> 4], axis=1)[:, : codes.packed]
    values = values.astype(np.float64)
    if codes.low is None:
        return np.asarray(values)
    return np.asarray(codes.low[:, None].astype(np.float64) + codes.step[:, None].astype(np.float64) * values)


def rerank(queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
    """The best `keep` of each query's candidates by their score against the codes, best first.

    queries: (q, d) float32. candidates: (q, r) int64 row numbers, distinct, −1 for absent. Returns rows
    (q, keep) int64 and scores (q, keep) float32; equal scores in ascending order of row; absent = −1 and −inf.
    Cosine of a zero vector with anything is 0. For float32 rows the score is exact; for codes, `norm2` (of the
    uncompressed row) stands for the row's length, and the inner product is that of the restored row.
    """
    out_rows = np.full((len(queries), keep), -1, np.int64)
    out_scores = np.full((len(queries), keep), -np.inf, np.float32)
    for i, query in enumerate(queries.astype(np.float64)):
        rows = candidates[i][candidates[i] >= 0]
        scores = _scores(query, _take(codes, rows), metric).astype(np.float32)
        best = np.lexsort((rows, -scores))[:keep]
        out_rows[i, : len(best)], out_scores[i, : len(best)] = rows[best], scores[best]
    return out_rows, out_scores


def cascade(candidates: I64, steps: Sequence[Step], metric: Metric) -> tuple[I64, F32]:
    """Each step re-ranks what the one before it kept: rows (q, keep) and scores (q, keep) of the last one."""
    for step in steps[:-1]:
        candidates, _ = rerank(step.queries, candidates, step.codes, metric, step.keep)
    return rerank(steps[-1].queries, candidates, steps[-1].codes, metric, steps[-1].keep)


def compare(queries: F32, pairs: I64, codes: Codes, metric: Metric) -> F32:
    """The score (m,) float32 of each pair (m, 2) int64: the place of a query and the number of a row of the codes.

    queries: (q, d) float32, which may be a map of a file: those that are in no pair are not read. Scores are those of
    `rerank`. Quickest where the pairs of a query follow each other.
    """
    out = np.empty(len(pairs), np.float32)
    for i, (query, row) in enumerate(pairs):
        out[i] = _scores(queries[query].astype(np.float64), _take(codes, np.array([row])), metric)[0]
    return out


def _take(codes: Codes, rows: I64) -> Codes:
    return codes.each(lambda part: part[rows])


def _scores(query: npt.NDArray[np.float64], codes: Codes, metric: Metric) -> npt.NDArray[np.float64]:
    rows = restore(codes)
    norm2 = (rows * rows).sum(axis=1) if codes.norm2 is None else codes.norm2.astype(np.float64)
    dots = rows @ query
    if metric == "ip":
        return np.asarray(dots)
    if metric == "l2":
        if codes.norm2 is None:
            return np.asarray(-((rows - query) ** 2).sum(axis=1))
        return np.asarray(2 * dots - norm2 - query @ query)
    lengths = np.sqrt(norm2) * np.sqrt(query @ query)
    return np.asarray(np.clip(np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0), -1, 1))


def resident(codes: Codes) -> Codes:
    """The codes as they are."""
    return codes


def _unit(rows: F64) -> F64:
    lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def normalize(rows: F32) -> F32:
    """Rows (n, d) of unit length; zero rows stay zero."""
    return _unit(rows.astype(np.float64)).astype(np.float32)


def project(rows: F32, axes: F32, *, unit: bool) -> F32:
    """Rows (n, D) onto axes (D, d); with `unit`, of unit length before and after. Zero rows stay zero."""
    wide = rows.astype(np.float64)
    if unit:
        return _unit(_unit(wide) @ axes.astype(np.float64)).astype(np.float32)
    return np.asarray(wide @ axes.astype(np.float64)).astype(np.float32)


def principal_axes(blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
    """The `count` leading axes of rows in blocks (n, D), of their directions with `unit`.

    Orthonormal axes (D, count) of the centred covariance, the variances along them (count,), largest first, and the
    sum of all variances. Where the spectrum falls slowly, any axes that keep nearly as much variance are as good:
    implementations may keep up to 0.1 % less.
    """
    rows = np.concatenate(list(blocks)).astype(np.float64)
    wide = _unit(rows) if unit else rows
    wide -= wide.mean(axis=0)
    covariance = wide.T @ wide / len(wide)
    return *top_axes(covariance, count), float(np.trace(covariance))


def top_axes(covariance: F64 | F32, count: int) -> tuple[F32, F32]:
    """The `count` leading eigenvectors (D, count), largest eigenvalue first, and the eigenvalues (count,)."""
    values, vectors = np.linalg.eigh(covariance)
    return fix_signs(vectors[:, ::-1][:, :count]).astype(np.float32), values[::-1][:count].astype(np.float32)


def fix_signs(axes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Axes (D, d) with the entry of largest magnitude positive: an eigenvector's sign is arbitrary."""
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0))


def nearest(queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
    """The best k rows of a block for each query, here in order: positions (q, k) and scores (q, k)."""
    everything = np.broadcast_to(np.arange(len(rows)), (len(queries), len(rows)))
    return rerank(queries, everything, Codes(rows), metric, k)


def _whole(blocks: Blocks) -> tuple[I64, F32]:
    """Row numbers (n,) and rows (n, d) of all blocks."""
    numbers, rows = zip(*blocks(), strict=True)
    return np.concatenate(numbers), np.concatenate([to_host(part) for part in rows])


def nearest_of(queries: F32, blocks: Blocks, metric: Metric, k: int) -> Nearest:
    """The k rows of all blocks that may be nearest to each query, and a bound for the others: here exact scores.

    queries: (q, d) float32. Implementations rank by ceilings of float32 or half-precision products, see
    `kernels.tiles`: ask for more rows than are needed, settle them with `rerank`, and where the last that is needed
    scores less than `bound`, ask for more of them.
    """
    numbers, rows = _whole(blocks)
    found, scores = nearest(queries, rows, metric, min(k + 1, len(rows)))
    wide = ((0, 0), (0, max(k + 1 - len(rows), 0)))
    scores = np.pad(scores, wide, constant_values=-np.inf)
    return Nearest(np.pad(numbers[found], wide, constant_values=-1)[:, :k], scores[:, :k], scores[:, k])


def join(
    blocks: Blocks, threshold: float, metric: Metric, most: int = 1 << 28, lines: tuple[int, int] = contract.ALL_LINES
) -> tuple[I64, F32]:
    """All pairs of rows of all blocks whose score reaches a threshold: here those, by exact scores.

    lines: the first and last + 1 of the places, in order of the blocks, that the lower row of a pair may have.

    Returns pairs (p, 2) int64, each the lower row first, in ascending order, and scores (p,) float32. Implementations
    give ceilings of scores as `nearest_of` does, and all pairs whose ceiling reaches the threshold: settle them with
    `rerank`. Host arrays, 20 bytes for each pair. TooManyPairsError for more than `most`.
    """
    numbers, rows = _whole(blocks)
    at, scores = nearest(rows, rows, metric, len(rows))
    mine = (np.arange(len(rows)) >= lines[0]) & (np.arange(len(rows)) < lines[1])
    i, j = np.nonzero((scores >= threshold) & (at > np.arange(len(rows))[:, None]) & mine[:, None])
    pairs, scores = np.column_stack([numbers[i], numbers[at[i, j]]]), scores[i, j]
    if len(pairs) > most:
        raise contract.TooManyPairsError(f"more than {most:,} pairs of rows reach the threshold")
    order = np.lexsort(pairs.T[::-1])
    return pairs[order], scores[order]
