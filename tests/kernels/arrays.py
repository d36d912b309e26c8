"""Arrays that the kernel tests are made of, and what it means that two rankings agree."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.dat import RECORD
from kernels import Codes, Metric, reference

Array = npt.NDArray[Any]
METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")
KINDS = ("float32", "float16", "uint8", "uint4")


def records(n: int, seed: int = 0) -> Array:
    """Raw records (n, 20400) uint8 with good headers and finite values."""
    rng = np.random.default_rng(seed)
    out = np.empty(n, RECORD)
    out["fc8_dim"], out["fc7_dim"] = 1000, 4096
    out["fc8"] = rng.standard_normal((n, 1000))
    out["fc7"] = np.maximum(rng.standard_normal((n, 4096)), 0)
    return out.view(np.uint8).reshape(n, RECORD.itemsize)


def decoded(kernels: Any, raw: Array) -> tuple[Array, Array, Array]:
    """Flags and the bits of both layers."""
    fc7, fc8 = np.full((len(raw), 4096), 7, np.float32), np.full((len(raw), 1000), 8, np.float32)
    flags = kernels.decode(raw, fc7, fc8)
    return flags, fc7.view(np.uint32), fc8.view(np.uint32)


def whole_numbers(seed: int, queries: int, rows: int, dim: int, r: int) -> tuple[Array, Array, Array]:
    """Queries, rows and candidates for which every arithmetic is exact, so that rankings must agree to the last tie.

    Rows are 0 … 255 with both ends in every row: the step of uint8 codes is 1, that of uint4 17 times
    what corrects it, and float16 holds them once scaled.
    """
    rng = np.random.default_rng(seed)
    asked = rng.integers(-3, 4, (queries, dim)).astype(np.float32)
    held = rng.integers(0, 3, (rows, dim)).astype(np.float32) * 64
    held[:, 0], held[:, -1] = 0, 255
    if dim > 1 and rows > 1:
        held[1::2] = held[: rows - rows % 2 : 2]  # every other row twice: ties
    return asked, held, candidates(rng, queries, rows, r)


def candidates(rng: np.random.Generator, queries: int, rows: int, r: int) -> Array:
    """Distinct rows in random order, (queries, r) int64; about a fifth, and all past the rows there are, are −1."""
    out = np.full((queries, r), -1, np.int64)
    for line in out:
        some = rng.permutation(rows)[:r]
        line[: len(some)] = np.where(rng.random(len(some)) < 0.2, -1, some)
        rng.shuffle(line)
    return out


def codes_of(rows: Array, kind: Any) -> Codes:
    return Codes(rows) if kind == "float32" else reference.quantize(rows, kind)


def assert_same_ranking(
    found: tuple[Array, Array],
    queries: Array,
    at: Array,
    codes: Codes,
    metric: Metric,
    keep: int,
    tolerance: float,
) -> None:
    """A ranking is that of the reference, but for the order of scores closer than `tolerance` × their scale."""
    rows, scores = found
    expected_rows, expected = reference.rerank(queries, at, codes, metric, keep)
    assert rows.dtype == np.int64 and scores.dtype == np.float32 and rows.shape == scores.shape == expected.shape
    np.testing.assert_array_equal(rows >= 0, expected_rows >= 0)
    np.testing.assert_array_equal(np.isneginf(scores[rows < 0]), True)
    scale = score_scale(queries, codes, metric)[:, None] * tolerance
    there = expected_rows >= 0
    with np.errstate(invalid="ignore"):
        close = (scores == expected) | (np.abs(scores.astype(np.float64) - expected) <= scale)
    assert close[there].all()
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    all_rows, all_scores = reference.rerank(queries, at, codes, metric, at.shape[1])
    for i in range(len(rows)):
        ours = rows[i][there[i]]
        assert len(set(ours.tolist())) == len(ours) and set(ours.tolist()) <= set(at[i].tolist())
        true = dict(zip(all_rows[i].tolist(), all_scores[i].tolist(), strict=True))
        theirs = np.array([true[row] for row in ours.tolist()])
        with np.errstate(invalid="ignore"):
            assert ((theirs == scores[i][there[i]]) | (np.abs(theirs - scores[i][there[i]]) <= scale[i])).all()


def score_scale(queries: Array, codes: Codes, metric: Metric) -> Array:
    """The size of the terms that a score of each query is summed from: what rounding is relative to."""
    q2 = (queries.astype(np.float64) ** 2).sum(axis=1)
    rows = np.abs(reference.restore(codes))
    r2 = (rows * rows).sum(axis=1).max(initial=0)
    if metric == "cosine":
        return np.ones(len(queries))
    return np.asarray(np.sqrt(q2) * np.sqrt(r2) if metric == "ip" else 2 * (q2 + r2))
