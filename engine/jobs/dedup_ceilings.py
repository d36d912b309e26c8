"""What no score of two photos can exceed, from short vectors: the one pass over all rows that a search needs.

A row x of unit length is p + r, p on the axes of an index's PCA and r at right angles to them. So x·y = p·p′ + r·r′
≤ p·p′ + |r| |r′|, by Cauchy and Schwarz: the inner product of the vectors (p, |r|), which are of unit length
themselves and here called ceilings. 257 numbers bound a product of 4,096, and |(p, |r|) − (p′, |r′|)| ≤ |x − y|.
The same with the leading 128 of these numbers and the length of the others gives short ceilings, which are never lower.
The same pass sums the bytes of each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from engine.index.search import Index
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_photos import Photos
from engine.jobs.finite import check_finite
from engine.progress import Progress, silent
from kernels import threads

F32 = npt.NDArray[np.float32]

BLOCK_ROWS = 4096
# Rounding: the squared length of what the axes leave is a difference of numbers near 1, in float32 right to about
# 10⁻⁶. So much is added to it, and taken from every threshold that a ceiling is held against.
SLACK = 1e-5
LEADING, FIRST = 128, 64
_MINUS_ZERO = np.iinfo(np.int32).min  # the bits of −0.0


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """vectors: (n, width) float32, those of all layers side by side, each times the root of its weight; width 0: none.

    short: (n, c + 1) float32, the columns of `vectors` that hold most of the distances, and the length of all others.
    sums: (n, 2) uint64, XXH3 with 128 bits of each photo's rows, in which −0.0 is 0.0. points: (n, c′) float32, those
    columns of `short` that hold most of them again.
    """

    vectors: Any
    short: Any
    sums: Any
    points: Any


def ceilings_of(
    photos: Photos, indices: Sequence[Index] | None, unfinished: Unfinished, progress: Progress = silent
) -> Ceilings:
    """One pass over the rows of all layers; without indices for their checksums alone.

    StoreError for a row of a present photo that is not finite.
    """
    axes = [index.reduction.axes for index in indices or () if index.reduction is not None]
    if len(axes) < len(photos.layers):
        axes = []
    widths = [part.shape[1] + 1 for part in axes]
    first = _columns(widths, 0, FIRST)
    leading = np.concatenate([first, _columns(widths, FIRST, LEADING)])
    n = len(photos)
    vectors = unfinished.array("ceilings.f32", (n, sum(widths)), "<f4")
    short = unfinished.array("short.f32", (n, len(leading) + 1 if axes else 0), "<f4")
    sums = unfinished.array("sums.u64", (n, 2), "<u8")
    for block, (start, rows) in enumerate(photos.blocks(BLOCK_ROWS)):
        part = np.s_[start : start + len(rows[0])]
        written = vectors[part], short[part], sums[part]
        if not unfinished.has("rows", block, *written):
            _refuse_damaged(photos, start, rows)
            _fill(photos, axes, leading, rows, *written)
            unfinished.done("rows", block, *written)
        progress("read the rows", part.stop, n)
    return Ceilings(vectors=vectors, short=short, sums=sums, points=short[:, : len(first)])


def _columns(widths: Sequence[int], start: int, stop: int) -> npt.NDArray[np.int64]:
    """Of the columns of vectors of these widths side by side those from `start` to `stop`, shared among the layers.

    The axes of each layer come in the order of their variance.
    """
    begins = np.cumsum([0, *widths])[:-1].tolist()
    spans = ((min(at // len(widths), width) for at in (start, stop)) for width in widths)
    each = [begin + np.arange(*span) for begin, span in zip(begins, spans, strict=True)]
    return np.concatenate([np.empty(0, np.int64), *each])


def _refuse_damaged(photos: Photos, start: int, rows: Sequence[F32]) -> None:
    """StoreError for a NaN or infinity: nothing compares with it, so its photo would silently be like no other."""
    present = photos.present[start : start + len(rows[0])]
    for name, layer in zip(photos.layers, rows, strict=True):
        bad = np.flatnonzero(photos.kernels.non_finite(np.ascontiguousarray(layer, np.float32)) & present)[:1]
        if len(bad):
            store = photos.stores[int(np.searchsorted(photos.starts, start, "right")) - 1]
            check_finite(store, name, photos.ids[start + bad], layer[bad])


def _fill(
    photos: Photos,
    axes: Sequence[Any],
    leading: npt.NDArray[np.int64],
    rows: Sequence[F32],
    vectors: Any,
    short: Any,
    sums: Any,
) -> None:
    def work(a: int, b: int) -> None:
        some = [layer[a:b] for layer in rows]
        sums[a:b] = checksums(some)
        at = 0
        for axis, weight, layer in zip(axes, photos.weights, some, strict=False):
            unit = photos.kernels.normalize(np.ascontiguousarray(layer))
            on_axes = photos.kernels.project(unit, axis, unit=False)
            there = np.einsum("ij,ij->i", unit, unit) > 0
            left = np.einsum("ij,ij->i", on_axes, on_axes, dtype=np.float64)
            root, width = np.float32(np.sqrt(weight)), on_axes.shape[1]
            vectors[a:b, at : at + width] = root * on_axes
            vectors[a:b, at + width] = root * np.where(there, np.sqrt(np.maximum(1 - left, 0) + SLACK), 0)
            at += width + 1
        if axes:
            short[a:b] = shortened(vectors[a:b], leading)

    threads.in_spans(len(rows[0]), 64, work)


def shortened(vectors: F32, leading: npt.NDArray[np.int64]) -> F32:
    """Short ceilings (n, c + 1) of vectors (n, width): their leading columns (c,), and the length of the others."""
    first = vectors[:, leading]
    whole, part = (np.einsum("ij,ij->i", each, each, dtype=np.float64) for each in (vectors, first))
    rest = np.where(whole > 0, np.sqrt(np.maximum(whole - part, 0) + SLACK), 0)
    return np.concatenate([first, rest[:, None].astype(np.float32)], axis=1)


def checksums(rows: Sequence[F32]) -> npt.NDArray[np.uint64]:
    """XXH3 with 128 bits of the rows (n, dim) of each layer together, (n, 2); equal for rows of equal values.

    Two different rows among a million agree with a probability of 10⁻²⁷. −0.0 counts as 0.0: they are the same number.
    """
    plain = [np.ascontiguousarray(layer, np.float32) for layer in rows]
    plain = [layer + np.float32(0) if _has_minus_zero(layer) else layer for layer in plain]
    if len(plain) == 1:
        data = b"".join(map(xxhash.xxh3_128_digest, plain[0]))
    else:
        data = b"".join(
            xxhash.xxh3_128_digest(b"".join(map(xxhash.xxh3_128_digest, each))) for each in zip(*plain, strict=True)
        )
    return np.frombuffer(data, "<u8").reshape(-1, 2)


def _has_minus_zero(rows: F32) -> bool:
    return bool(rows.size and rows.view(np.int32).min() == _MINUS_ZERO)
