"""Whether the kernels of a device give what the reference gives: each one, on rows of a collection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.store.dat import FC7_DIM, FC8_DIM, RECORD_BYTES, records
from kernels import CodeKind, Codes, Kernels, Metric, Step

F32 = npt.NDArray[np.float32]
CODES: Final[tuple[CodeKind, ...]] = ("float16", "uint8", "uint4")
METRICS: Final[tuple[Metric, ...]] = ("cosine", "ip", "l2")
KINDS: Final = ("float32", *CODES)
K: Final = 10
# Scores are relative to the lengths that they are made of; codes are multiplied in float32, raw rows in float64.
SCORES: Final = {"float32": 1e-7, "float16": 2e-6, "uint8": 2e-6, "uint4": 2e-6}
SUMS, PRODUCTS, VARIANCES, AXES = 1e-6, 1e-5, 1e-3, 1e-2


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison of what a device gives with what another gives.

    differing: of `compared` values, those farther apart than `tolerance`. worst: the greatest difference. allowed: the
    share that may differ.
    """

    what: str
    device: str
    against: str
    compared: int
    differing: int
    worst: float
    tolerance: float
    allowed: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether no more differs than may."""
        return self.differing <= self.allowed * self.compared


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The kernels that are examined and those that are believed, by name."""

    ours: Kernels
    oracle: Kernels
    device: str = "device"
    against: str = "reference"

    def check(self, what: str, apart: Any, tolerance: float, *, allowed: float = 0.0) -> Check:
        """A comparison, from the differences of all values; one that is no number differs."""
        apart = np.abs(np.asarray(apart, np.float64)).ravel()
        far = ~(apart <= tolerance)
        worst = float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
        return Check(
            what=what, device=self.device, against=self.against, compared=len(apart), differing=int(far.sum()),
            worst=worst, tolerance=tolerance, allowed=allowed,
        )  # fmt: skip


def kernels_agree(pair: Pair, rows: F32) -> list[Check]:
    """Compare every kernel. rows: (n, 4096) float32, n ≥ 24; odd widths are taken from its first columns."""
    odd, middle = np.ascontiguousarray(rows[:, :37]), np.ascontiguousarray(rows[:, :256])
    return [
        _decode(pair, rows),
        _non_finite(pair, odd),
        *(_quantize(pair, rows, kind) for kind in CODES),
        *(_rerank(pair, data, kind, metric) for kind in KINDS for metric in METRICS for data in (rows, odd)),
        *(_compare(pair, odd, kind, metric) for kind in KINDS for metric in METRICS),
        _cascade(pair, rows),
        *_products(pair, middle),
        *_all_rows(pair, middle),
    ]


def _decode(pair: Pair, fc7: F32) -> Check:
    raw = pair.ours.host_buffer((len(fc7), RECORD_BYTES))
    raw[:] = records(fc7, fc7[:, :FC8_DIM]).view(np.uint8).reshape(raw.shape)
    words = raw.view("<u4")  # a signalling NaN, an infinity, and headers that say something else
    words[3, 1004], words[5, 1001], words[7, 0], words[9, 1003] = 0x7F800001, 0xFF800000, 999, 1
    mine, theirs = (_decoded(kernels, raw) for kernels in (pair.ours, pair.oracle))
    return pair.check("decode", _different(mine, theirs), 0)


def _decoded(kernels: Kernels, raw: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], ...]:
    fc7, fc8 = np.empty((len(raw), FC7_DIM), np.float32), np.empty((len(raw), FC8_DIM), np.float32)
    return kernels.decode(raw, fc7, fc8), fc7.view(np.uint32), fc8.view(np.uint32)


def _non_finite(pair: Pair, rows: F32) -> Check:
    rows = rows.copy()
    rows[1, -1], rows[4, 0] = np.nan, -np.inf
    return pair.check("non_finite", _different([pair.ours.non_finite(rows)], [pair.oracle.non_finite(rows)]), 0)


def _quantize(pair: Pair, rows: F32, kind: CodeKind) -> Check:
    mine, theirs = pair.ours.quantize(rows, kind), pair.oracle.quantize(rows, kind)
    # norm2 is a sum, and low and step of uint4 carry one: they may round otherwise. All the rest is bit for bit.
    sums = ("norm2", "low", "step") if kind == "uint4" else ("norm2",)
    exact = [name for name in ("values", "low", "step") if name not in sums]
    apart = _different([getattr(mine, name) for name in exact], [getattr(theirs, name) for name in exact])
    near = [_relative(getattr(mine, name), getattr(theirs, name)) for name in sums]
    return pair.check(f"quantize {kind}", np.concatenate([apart, *near]), SUMS)


def _rerank(pair: Pair, rows: F32, kind: str, metric: Metric) -> Check:
    queries, at = _asked(rows)
    codes = Codes(rows) if kind == "float32" else pair.oracle.quantize(rows, CODES[KINDS.index(kind) - 1])
    wanted, expected = pair.oracle.rerank(queries, at, codes, metric, K)
    found = [pair.ours.rerank(queries, at, where, metric, K) for where in (codes, pair.ours.resident(codes))]
    apart = [
        _ranking(pair, (queries, at, codes), metric, (wanted, expected), answer) / _size(rows, metric)
        for answer in found
    ]
    return pair.check(f"rerank {kind} {metric} {rows.shape[1]}d", np.concatenate(apart), SCORES[kind])


def _compare(pair: Pair, rows: F32, kind: str, metric: Metric) -> Check:
    queries, at = _asked(rows)
    codes = Codes(rows) if kind == "float32" else pair.oracle.quantize(rows, CODES[KINDS.index(kind) - 1])
    place, row = np.nonzero(at >= 0)[0], at[at >= 0]
    found, expected = (
        each.compare(queries, np.stack([place, row], 1), codes, metric) for each in (pair.ours, pair.oracle)
    )
    apart = np.abs(found.astype(np.float64) - expected) / _size(rows, metric)
    return pair.check(f"compare {kind} {metric} {rows.shape[1]}d", apart, SCORES[kind])


def _cascade(pair: Pair, rows: F32) -> Check:
    queries, at = _asked(rows)
    coded = pair.oracle.quantize(rows, "uint8")
    found, expected = (
        kernels.cascade(at, [Step(queries, kernels.resident(coded), 2 * K), Step(queries, Codes(rows), K)], "cosine")
        for kernels in (pair.ours, pair.oracle)
    )
    apart = _ranking(pair, (queries, at, Codes(rows)), "cosine", expected, found)
    # Codes of two rows at the border of the first step may round to either side.
    return pair.check("cascade", apart, SCORES["float32"], allowed=0.02)


def _asked(rows: F32) -> tuple[F32, npt.NDArray[np.int64]]:
    """Queries (n / 12, d), and candidates (n / 12, n / 6) of which a tenth is absent."""
    random = np.random.default_rng(3)
    queries = rows[: len(rows) // 12] * np.float32(1.01)
    at = np.array([random.permutation(len(rows))[: max(len(rows) // 6, K)] for _ in queries])
    at[random.random(at.shape) < 0.1] = -1
    return queries, at


def _ranking(
    pair: Pair, asked: tuple[F32, npt.NDArray[np.int64], Codes], metric: Metric, expected: Any, found: Any
) -> npt.NDArray[np.float64]:
    """How far each answer is from the expected one, (q, k): the score it says, and the one that its row has.

    Equal scores may stand in any order. A row that is no candidate, or is named twice, is infinitely far.
    """
    queries, at, codes = asked
    (rows, scores), (wanted, true) = (tuple(map(np.asarray, both)) for both in (found, expected))
    _, own = pair.oracle.rerank(queries, rows, codes, metric, rows.shape[1])
    absent = wanted < 0
    true = np.where(absent, 0, true.astype(np.float64))
    apart = np.fmax(np.abs(np.where(absent, 0, scores) - true), np.abs(np.where(absent, 0, own) - true) / 2)
    foreign = (rows >= 0) & ~(rows[:, :, None] == at[:, None, :]).any(axis=2)
    twice = (rows[:, :, None] == rows[:, None, :]).sum(axis=2) > 1
    return np.where(foreign | ((rows >= 0) & twice) | ((rows < 0) != absent) | np.isnan(scores), np.inf, apart)


def _size(rows: F32, metric: Metric) -> float:
    return 1.0 if metric == "cosine" else 4 * max(float((rows.astype(np.float64) ** 2).sum(axis=1).max()), 1e-30)


def _products(pair: Pair, rows: F32) -> list[Check]:
    covariance = np.cov(rows.T.astype(np.float64))
    (axes, values), (mine, same) = pair.oracle.top_axes(covariance, 8), pair.ours.top_axes(covariance, 8)
    turned = 1 - np.abs((mine * axes).sum(axis=0))  # of axes that point the same way, whatever their sign: 0
    queries, halves = rows[: len(rows) // 12], np.array_split(rows, 2)
    near = [np.sort(kernels.nearest(queries, rows, "cosine", K)[1]) for kernels in (pair.ours, pair.oracle)]
    onto = [kernels.project(rows, axes, unit=True) for kernels in (pair.ours, pair.oracle)]
    unit = [kernels.normalize(rows) for kernels in (pair.ours, pair.oracle)]
    (_, along, total), (_, expected, whole) = (
        kernels.principal_axes(halves, 8, unit=True) for kernels in (pair.ours, pair.oracle)
    )
    variances = np.concatenate([_relative(along, expected), _relative([total], [whole])])
    return [
        pair.check("normalize", unit[0] - unit[1], SUMS),
        pair.check("project", onto[0] - onto[1], PRODUCTS),
        pair.check("principal_axes", variances, VARIANCES),
        pair.check("top_axes", np.concatenate([_relative(same, values) * (AXES / VARIANCES), turned]), AXES),
        pair.check("nearest", near[0] - near[1], PRODUCTS),
    ]


def _all_rows(pair: Pair, rows: F32) -> list[Check]:
    """Of products of every row with every other: what they promise, against exact cosines."""
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    unit = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    exact, cut, numbers = unit @ unit.T, len(rows) // 2, np.arange(len(rows), dtype=np.int64)

    def blocks() -> Any:
        yield from ((numbers[part], rows[part]) for part in (slice(cut), slice(cut, None)))

    found = pair.ours.nearest_of(rows, blocks, "cosine", K)
    at, ceilings, bound = (np.asarray(part) for part in found)
    above = np.where(at >= 0, np.take_along_axis(exact, np.maximum(at, 0), axis=1) - ceilings, 0)
    others = exact.copy()
    np.put_along_axis(others, np.maximum(at, 0), -np.inf, axis=1)
    broken = [np.maximum(above, 0).ravel(), np.maximum(others.max(axis=1) - bound, 0)]
    threshold = float(np.sort(np.triu(exact, 1).ravel())[-len(rows)])
    pairs = np.sort(np.asarray(pair.ours.join(blocks, threshold, "cosine")[0]), axis=1)
    kept = np.zeros(exact.shape, np.bool_)
    kept[pairs[:, 0], pairs[:, 1]] = True
    lost = np.where(kept[np.triu(exact, 1) > threshold], 0.0, np.inf)
    return [
        pair.check("nearest_of: its bounds", np.concatenate(broken), SUMS),
        pair.check("join: pairs lost", lost, 0),
    ]


def _different(mine: Sequence[Any], theirs: Sequence[Any]) -> npt.NDArray[np.float64]:
    """0 where values are the same, infinity where they are not; of all arrays in a row."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(mine, theirs, strict=True)]
    if any(a.shape != b.shape for a, b in pairs):
        return np.array([np.inf])
    return np.concatenate([np.where(a == b, 0.0, np.inf).ravel() for a, b in pairs])


def _relative(mine: Any, theirs: Any) -> npt.NDArray[np.float64]:
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    return np.asarray(np.abs(mine - theirs) / np.maximum(np.abs(theirs), 1e-30)).ravel()
