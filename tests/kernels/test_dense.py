"""The lines that NumPy and CuPy share, where the contract tests do not reach them on both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import dense, reference
from tests.kernels.arrays import Array


def host(xp, array) -> Array:
    return np.asarray(array if xp is np else xp.asnumpy(array))


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("kind", ["uint8", "uint4", "float16"])
@pytest.mark.parametrize("size", [1e-42, 1, 1e30, 3.4e38])
def test_quantize_to_the_bit(xp, kind, size):
    rows = ((np.random.default_rng(0).random((9, 33)) * 2 - 1) * size).astype(np.float32)
    rows[2], rows[3] = 0, rows[3, 0]
    ours, theirs = dense.quantize(xp, xp.asarray(rows), kind), reference.quantize(rows, kind)
    np.testing.assert_array_equal(host(xp, ours.values), theirs.values)
    for part, expected in zip(ours[1:3], theirs[1:3], strict=True):  # those of uint4 hold a sum in float64
        np.testing.assert_allclose(host(xp, part), expected, rtol=2e-7 if kind == "uint4" else 0, atol=0)
    assert ours.packed == theirs.packed
    np.testing.assert_allclose(host(xp, ours.norm2), theirs.norm2, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_top_axes(xp, count):
    rng = np.random.default_rng(1)
    half = rng.standard_normal((9, 20)) * np.arange(1, 10)[:, None]
    ours = dense.top_axes(xp, xp.asarray(half @ half.T), count)
    for part, expected in zip(ours, reference.top_axes(half @ half.T, count), strict=True):
        np.testing.assert_allclose(host(xp, part), expected, rtol=1e-5, atol=1e-6)
        assert part.dtype == np.float32


@pytest.mark.filterwarnings("ignore:overflow encountered")
@given(
    scores=arrays(np.float64, (3, 6), elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, 1e300])),
    present=arrays(np.bool_, (3, 6)),
    keep=st.integers(1, 8),
)
def test_best_first(xp, scores, present, keep):
    rows = np.sort(np.where(present, np.arange(6) * 7, np.iinfo(np.int64).max), axis=1)
    found, best = (host(xp, part) for part in dense.best_first(xp, xp.asarray(rows), xp.asarray(scores), keep))
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    for i in range(3):
        n = int(present[i].sum())
        order = np.lexsort((rows[i][:n], -narrow[i][:n]))[:keep]
        assert found[i].tolist() == [*rows[i][order].tolist(), *[-1] * (keep - len(order))]
        assert best[i].tolist() == [*narrow[i][order].tolist(), *[-np.inf] * (keep - len(order))]
    assert found.dtype == np.int64 and best.dtype == np.float32


def test_normalize_any_finite_rows(xp):
    rows = np.array([[3e38, -3e38], [1e-45, 0], [0, 0], [3, 4]], np.float32)
    half = np.float32(np.sqrt(0.5))
    expected = np.array([[half, -half], [1, 0], [0, 0], [0.6, 0.8]])
    np.testing.assert_allclose(host(xp, dense.normalize(xp, xp.asarray(rows))), expected, rtol=1e-6)


def test_best_of_takes_all_when_there_are_no_more(xp):
    assert host(xp, dense.best_of(xp, xp.zeros((2, 3)), 5)).tolist() == [[0, 1, 2]] * 2
