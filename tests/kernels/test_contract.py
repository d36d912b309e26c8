"""Every set of kernels equals the reference: the same tests for Numba, for emulated CUDA and, with a GPU, for CUDA."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import Codes, Step, reference
from tests.kernels.arrays import (
    KINDS,
    METRICS,
    Array,
    assert_same_ranking,
    candidates,
    codes_of,
    decoded,
    records,
    whole_numbers,
)

FC8_WORD, FC7_WORD = 2, 1004
# Bits of values that are easily changed or overlooked: NaN (quiet, signalling, with payloads), infinities, −0, the
# least and the largest subnormal, the largest finite value.
NOT_FINITE = [0x7F800001, 0xFF800001, 0x7FBFFFFF, 0x7FC00000, 0xFFFFFFFF, 0x7F800000, 0xFF800000]
FINITE = [0x80000000, 0x00000001, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF]


def assert_decodes_as_reference(kernels: Any, raw: Array) -> None:
    for ours, theirs in zip(decoded(kernels, raw), decoded(reference, raw), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("n", [0, 1, 2, 257])
def test_decode_splits_records(kernels, n):
    raw = kernels.host_buffer((n, 20_400))
    assert raw.shape == (n, 20_400) and raw.dtype == np.uint8
    raw[:] = records(n)
    flags, fc7, fc8 = decoded(kernels, raw)
    np.testing.assert_array_equal(flags, 0)
    np.testing.assert_array_equal(fc8, raw[:, 8:4008].copy().view("<u4"))
    np.testing.assert_array_equal(fc7, raw[:, 4016:].copy().view("<u4"))
    assert_decodes_as_reference(kernels, raw)


def test_decode_keeps_every_bit_and_finds_what_is_not_finite(kernels):
    places = [FC8_WORD, FC8_WORD + 1, FC8_WORD + 999, FC7_WORD, FC7_WORD + 2, FC7_WORD + 4095]
    cases = [(place, bits) for place in places for bits in NOT_FINITE + FINITE]
    raw = records(len(cases))
    words = raw.view("<u4")
    for i, (place, bits) in enumerate(cases):
        words[i, place] = bits
    flags, _, _ = decoded(kernels, raw)
    expected = [(8 if place >= FC7_WORD else 4) if bits in NOT_FINITE else 0 for place, bits in cases]
    assert flags.tolist() == expected
    assert_decodes_as_reference(kernels, raw)


def test_decode_checks_all_bytes_of_both_headers(kernels):
    wrong = [0, -1, 999, 4096, 1000 + (1 << 32), 1000 << 32, -(1 << 63) + 1000, 1000 << 48]
    raw = records(2 * len(wrong) + 1)
    headers = raw.view("<i8")
    for i, value in enumerate(wrong):
        headers[2 * i, 0] = value
        headers[2 * i + 1, 501] = value + 3096 if value == 1000 + (1 << 32) else 1000 if value == 4096 else value
    flags, _, _ = decoded(kernels, raw)
    assert flags.tolist() == [1, 2] * len(wrong) + [0]


def test_decode_of_noise(kernels):
    raw = np.random.default_rng(1).integers(0, 256, (40, 20_400)).astype(np.uint8)
    flags, _, _ = decoded(kernels, raw)
    assert (flags == 15).all()  # 1 in 256 values is not finite, and no header is right
    assert_decodes_as_reference(kernels, raw)


@given(place=st.integers(0, 5099), bits=st.integers(0, (1 << 32) - 1))
def test_decode_of_any_word_anywhere(kernels, place, bits):
    raw = records(1)
    raw.view("<u4")[0, place] = bits
    assert_decodes_as_reference(kernels, raw)


@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (3, 37), (1025, 4), (2049, 3)])
def test_non_finite(kernels, n, d):
    rows = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    np.testing.assert_array_equal(kernels.non_finite(rows), np.zeros(n, bool))
    rows.reshape(-1).view(np.uint32)[:: 7 * d + 1] = (NOT_FINITE * n)[: len(rows.reshape(-1)[:: 7 * d + 1])]
    found = kernels.non_finite(rows)
    assert found.dtype == np.bool_ and found.any() == (n > 0)
    np.testing.assert_array_equal(found, ~np.isfinite(rows).all(axis=1))
    huge = np.full((2, d), np.finfo(np.float32).max)
    assert not kernels.non_finite(huge).any()


def rows_of_all_sorts(d: int) -> Array:
    rng = np.random.default_rng(2)
    rows = [rng.standard_normal(d) * size for size in (1, 1e-3, 1e4, 1e18, 3e-38, 1e-42)]
    rows += [
        np.zeros(d),
        np.full(d, 3.25),
        np.full(d, -7.5),
        np.maximum(rng.standard_normal(d), 0),
        1000 + rng.random(d),
    ]
    rows += [np.linspace(-3.4e38, 3.4e38, d), np.linspace(1e38, 3e38, d), np.linspace(-1e-44, 2e-44, d)]
    return np.array(rows, np.float32)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of the squared length of values past 1e19
@pytest.mark.parametrize("d", [1, 2, 37, 64])
@pytest.mark.parametrize("kind", ["uint8", "uint4", "float16"])
def test_quantize_is_that_of_the_reference_and_near_the_rows(kernels, kind, d):
    rows = rows_of_all_sorts(d)
    ours, theirs = kernels.quantize(rows, kind), reference.quantize(rows, kind)
    for part, expected in zip(ours[:4], theirs[:4], strict=True):
        assert part.dtype == expected.dtype and part.shape == expected.shape
    np.testing.assert_array_equal(ours.values, theirs.values)
    assert_same_scale(ours, theirs, kind)
    if kind == "uint4":
        assert_near_once_corrected(ours, rows)
    else:
        assert_near(ours, rows, 0.5 if kind == "uint8" else 2.0**-11)


def assert_same_scale(ours: Codes, theirs: Codes, kind: str) -> None:
    """Low and step to the bit, and norm2 and what is corrected by a sum in float64 to its rounding."""
    exact = 0 if kind == "uint4" else 2
    for i, (part, expected) in enumerate(zip(ours[1:4], theirs[1:4], strict=True)):
        np.testing.assert_allclose(part, expected, rtol=0 if i < exact else 2e-7, atol=0)
    assert ours.packed == theirs.packed


def assert_near_once_corrected(codes: Codes, rows: Array) -> None:
    """Without the correction, the restored rows are off by half a step at most; with it, they measure the row's length.

    Where squares leave float32 (or where the correction would be more than twofold) there is none.
    """
    wide = rows.astype(np.float64)
    restored, square = reference.restore(codes), (wide**2).sum(axis=1)
    assert restored.shape == rows.shape
    plain = reference.quantize(rows, "uint8")  # of the same low, and a 17th of the step
    step = plain.step.astype(np.float64) * 17
    factor = np.where(step > 0, codes.step / np.where(step > 0, step, 1), 1)
    assert ((factor >= 0.49) & (factor <= 2.01))[step > 1e-36].all()
    good = (codes.norm2 > 1e-30) & (codes.norm2 < np.inf) & (np.abs(factor - 1) < 0.9)
    np.testing.assert_allclose((restored * wide).sum(axis=1)[good], square[good], rtol=1e-5)
    flat = good & (step == 0)
    np.testing.assert_allclose(restored[flat], rows[flat], rtol=1e-6)
    sound = good & (step > 0)
    assert_near(Codes(codes.values, codes.low / factor, codes.step / factor, None, codes.packed).each(
        lambda part: part[sound]), rows[sound], 0.5)  # fmt: skip
    bent = ~good & (codes.norm2 == np.inf)
    assert_near(codes.each(lambda part: part[bent]), rows[bent], 0.5)


def assert_near(codes: Codes, rows: Array, steps: float) -> None:
    """Restored rows are off by no more than so many steps, and float32's rounding."""
    rounding = 3e-7 * np.abs(rows).max(axis=1, keepdims=True).astype(np.float64)
    bound = steps * codes.step[:, None].astype(np.float64) + rounding + 4e-43  # the least step there can be, 255 times
    assert (np.abs(reference.restore(codes) - rows) <= bound).all()


@pytest.mark.parametrize("kind", ["uint8", "uint4", "float16"])
@pytest.mark.parametrize("n", [0, 1, 511, 1025])
def test_quantize_many_rows(kernels, kind, n):
    rows = np.random.default_rng(3).standard_normal((n, 5)).astype(np.float32)
    ours, theirs = kernels.quantize(rows, kind), reference.quantize(rows, kind)
    np.testing.assert_array_equal(ours.values, theirs.values)
    assert_same_scale(ours, theirs, kind)


def test_uint4_codes_put_the_halves_of_a_row_side_by_side(kernels):
    rows = np.array([[0, 1, 2, 15, 4], [15, 14, 13, 0, 11], [7, 7, 7, 7, 7]], np.float32)
    codes = kernels.quantize(rows, "uint4")
    assert codes.values.tolist() == [[0xF0, 0x41, 0x02], [0x0F, 0xBE, 0x0D], [0, 0, 0]] and codes.packed == 5
    np.testing.assert_array_equal(codes.low, [0, 0, 7])
    np.testing.assert_array_equal(codes.step, [1, 1, 0])
    np.testing.assert_array_equal(reference.restore(codes), rows)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(rows=arrays(np.float32, (3, 9), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_quantize_any_finite_rows_to_four_bits(kernels, rows):
    ours, theirs = kernels.quantize(rows, "uint4"), reference.quantize(rows, "uint4")
    np.testing.assert_array_equal(ours.values, theirs.values)
    assert all(np.isfinite(part).all() for part in ours[1:3]) and (reference.restore(ours).shape == rows.shape)
    for part, expected in zip(ours[1:3], theirs[1:3], strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-6, atol=1e-44)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@given(rows=arrays(np.float32, (2, 9), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_quantize_any_finite_rows(kernels, rows):
    assert_near(kernels.quantize(rows, "uint8"), rows, 0.5)


SIZES = [
    # queries, rows, dimensions, candidates, keep
    (0, 5, 8, 3, 2),
    (1, 1, 1, 1, 1),
    (3, 20, 4, 20, 50),  # more wanted than there are
    (17, 30, 37, 12, 5),  # unaligned rows; more than one block of threads
    (33, 40, 128, 9, 9),
    (5, 30, 250, 30, 1),  # a multiple of two alone
    (70, 3, 12, 8, 4),  # more places than rows: the rest is −1
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_rerank_of_whole_numbers_is_exact_to_the_last_tie(kernels, size, kind, metric):
    q, n, d, r, keep = size
    queries, rows, at = whole_numbers(0, q, n, d, r)
    codes = codes_of(rows, kind)
    found_rows, found = kernels.rerank(queries, at, codes, metric, keep)
    expected_rows, expected = reference.rerank(queries, at, codes, metric, keep)
    assert found_rows.dtype == np.int64 and found.dtype == np.float32
    if kind == "uint8" or (kind == "float32" and metric != "cosine"):
        np.testing.assert_array_equal(found_rows, expected_rows)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert_same_ranking((found_rows, found), queries, at, codes, metric, keep, 1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_rerank_of_feature_like_rows(kernels, kind, metric):
    rng = np.random.default_rng(4)
    rows = np.maximum(rng.standard_normal((60, 1000)), 0).astype(np.float32) * 9
    queries = (rows[:20] + rng.standard_normal((20, 1000)) * 0.1).astype(np.float32)
    at, codes = candidates(rng, 20, 60, 30), codes_of(rows, kind)
    tolerance = 1e-7 if kind == "float32" else 2e-6
    found = kernels.rerank(queries, at, codes, metric, 10)
    assert_same_ranking(found, queries, at, codes, metric, 10, tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e18, 3e38])
def test_rerank_of_raw_rows_at_the_ends_of_float32(kernels, metric, size):
    """Scores past float32 are ±inf, but present rows stay present, and cosines do not feel the size at all."""
    rng = np.random.default_rng(5)
    rows = ((rng.random((12, 33)) - 0.5) * 2 * size).astype(np.float32)
    rows[3] = 0
    queries, at = rows[:5].copy(), np.tile(np.arange(12), (5, 1))
    at[0], at[1, ::2] = -1, -1
    found = kernels.rerank(queries, at, Codes(rows), metric, 14)
    assert_same_ranking(found, queries, at, Codes(rows), metric, 14, 1e-7)
    assert (found[0][0] == -1).all()
    if metric == "cosine":
        np.testing.assert_allclose(found[1][2, 0], 1)
        assert found[0][2, 0] == 2 and (found[1][3, :12] == 0).all() and found[0][3, :12].tolist() == list(range(12))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["float16", "uint8", "uint4"])
@pytest.mark.parametrize("size", [1e-30, 1e12, 3e38])
def test_rerank_codes_with_queries_of_any_size(kernels, kind, metric, size):
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((20, 40)).astype(np.float32)
    queries = ((rng.random((4, 40)) - 0.5) * 2 * size).astype(np.float32)
    at, codes = candidates(rng, 4, 20, 15), codes_of(rows, kind)
    with np.errstate(over="ignore"):
        found = kernels.rerank(queries, at, codes, metric, 6)
        assert not np.isnan(found[1]).any()
        assert_same_ranking(found, queries, at, codes, metric, 6, 2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rerank_reads_maps_of_files_and_gathers_rows(kernels, kind, tmp_path):
    queries, rows, at = whole_numbers(7, 20, 30, 24, 10)
    codes = codes_of(rows, kind)
    np.save(tmp_path / "values.npy", codes.values)
    mapped = codes._replace(values=np.load(tmp_path / "values.npy", mmap_mode="r"))
    expected = kernels.rerank(queries, at, codes, "ip", 6)
    for where in (mapped, kernels.resident(mapped)):
        found = kernels.rerank(queries, at, where, "ip", 6)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def pairs_of(at: Any) -> Any:
    """Queries' places and candidates as pairs (m, 2), in no order."""
    place, row = np.nonzero(at >= 0)[0], at[at >= 0]
    return np.random.default_rng(9).permutation(np.stack([place, row], axis=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_compare_of_whole_numbers(kernels, size, kind, metric):
    q, n, d, r, _ = size
    queries, rows, at = whole_numbers(1, q, n, d, r)
    codes, pairs = codes_of(rows, kind), pairs_of(at)
    expected = reference.compare(queries, pairs, codes, metric)
    for where in (codes, kernels.resident(codes)):
        found = kernels.compare(queries, pairs, where, metric)
        assert found.dtype == np.float32 and found.shape == (len(pairs),)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_compare_scores_as_rerank_does_and_reads_maps(kernels, kind, metric, tmp_path):
    rng = np.random.default_rng(10)
    rows = np.maximum(rng.standard_normal((700, 51)), 0).astype(np.float32) * 9
    rows[3] = 0
    queries, codes = rows[:60].copy(), codes_of(rows, kind)
    pairs = np.stack([rng.integers(0, 60, 1500), rng.integers(0, 700, 1500)], axis=1)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    _, expected = kernels.rerank(queries[pairs[:, 0]], pairs[:, 1:], codes, metric, 1)
    np.save(tmp_path / "queries.npy", queries)
    np.save(tmp_path / "values.npy", codes.values)
    mapped = codes._replace(values=np.load(tmp_path / "values.npy", mmap_mode="r"))
    asked = np.load(tmp_path / "queries.npy", mmap_mode="r")
    for some, where in ((queries, codes), (asked, mapped), (np.asfortranarray(queries), codes)):
        np.testing.assert_allclose(kernels.compare(some, pairs, where, metric), expected[:, 0], rtol=1e-6, atol=1e-6)
    assert kernels.compare(queries, pairs[:0], codes, metric).shape == (0,)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e18, 3e38])
def test_compare_at_the_ends_of_float32(kernels, metric, size):
    rng = np.random.default_rng(11)
    rows = ((rng.random((12, 33)) - 0.5) * 2 * size).astype(np.float32)
    rows[3] = 0
    pairs = np.stack(np.divmod(np.arange(144), 12), axis=1)
    with np.errstate(over="ignore"):
        found, expected = (each.compare(rows, pairs, Codes(rows), metric) for each in (kernels, reference))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 if metric == "cosine" else 0)
    if metric == "cosine":
        np.testing.assert_allclose(found[pairs[:, 0] == pairs[:, 1]], np.where(np.arange(12) == 3, 0, 1), rtol=1e-7)


@pytest.mark.parametrize("queries_asked", [1, 33, 70])
@pytest.mark.parametrize("kind", ["uint8", "uint4"])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_a_cascade_is_one_step_after_the_other(kernels, metric, kind, queries_asked):
    queries, rows, at = whole_numbers(8, queries_asked, 60, 24, 30)
    wide, exact = codes_of(rows, "uint8"), Codes(rows)
    steps = [Step(queries, wide, 12), Step(queries, codes_of(rows, kind), 7), Step(queries, exact, 9)]
    found, expected = kernels.cascade(at, steps, metric), reference.cascade(at, steps, metric)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
    assert (found[0][:, 7:] == -1).all()  # what a step left out does not come back
    alone = kernels.cascade(at, steps[-1:], metric)
    np.testing.assert_array_equal(alone[0], kernels.rerank(queries, at, exact, metric, 9)[0])


@given(data=st.data())
def test_rerank_of_any_small_input(kernels, data):
    d = data.draw(st.integers(1, 6))
    n = data.draw(st.integers(1, 6))
    values = st.integers(-4, 4)
    rows = data.draw(arrays(np.float32, (n, d), elements=values))
    queries = data.draw(arrays(np.float32, (2, d), elements=values))
    at = np.array([data.draw(st.permutations([*range(n), -1]))[:n] for _ in queries], np.int64)
    metric = data.draw(st.sampled_from(["ip", "l2"]))
    keep = data.draw(st.integers(1, n + 2))
    found = kernels.rerank(queries, at, Codes(rows), metric, keep)
    expected = reference.rerank(queries, at, Codes(rows), metric, keep)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("n", [0, 1, 50])
def test_project(kernels, n, unit):
    rng = np.random.default_rng(8)
    rows, axes = rng.standard_normal((n, 30)).astype(np.float32), rng.standard_normal((30, 7)).astype(np.float32)
    rows[n // 2 :][:1] = 0
    found = kernels.project(rows, axes, unit=unit)
    assert found.dtype == np.float32 and found.shape == (n, 7)
    np.testing.assert_allclose(found, reference.project(rows, axes, unit=unit), atol=2e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of plain Python, without the JIT
@pytest.mark.parametrize("size", [1e-38, 1e38])
def test_project_unit_rows_of_any_size(kernels, size):
    rng = np.random.default_rng(9)
    rows, axes = (rng.random((5, 30)) * size).astype(np.float32), rng.standard_normal((30, 7)).astype(np.float32)
    found = kernels.project(rows, axes, unit=True)
    np.testing.assert_allclose(found, reference.project(rows, axes, unit=True), atol=2e-5)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1, 1e30, 1e38])
@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 1), (3, 7), (600, 33)])
def test_normalize(kernels, n, d, size):
    rows = (np.random.default_rng(12).standard_normal((n, d)).clip(-3, 3) * size).astype(np.float32)
    rows[n // 2 :][:1] = 0
    before = rows.copy()
    found = kernels.normalize(rows)
    assert found.dtype == np.float32 and found.shape == (n, d) and np.array_equal(rows, before)
    np.testing.assert_allclose(found, reference.normalize(rows), atol=1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of plain Python, without the JIT
@pytest.mark.parametrize("size", [1e-38, 1, 1e38])
@pytest.mark.parametrize("odd", [1e-30, 1e30])
def test_nearest_by_cosine_in_a_block_with_an_odd_row(kernels, size, odd):
    rng = np.random.default_rng(13)
    rows = (rng.standard_normal((40, 16)).clip(-3, 3) * size).astype(np.float32)
    rows[7] = rng.standard_normal(16).clip(-3, 3).astype(np.float32) * np.float32(odd)
    rows[9] = 0
    queries = rng.standard_normal((5, 16)).astype(np.float32)
    at, scores = kernels.nearest(queries, rows, "cosine", 40)
    expected, best = reference.nearest(queries, rows, "cosine", 40)
    order = np.argsort(at, axis=1)
    np.testing.assert_allclose(
        np.take_along_axis(scores, order, 1), np.take_along_axis(best, np.argsort(expected, axis=1), 1), atol=2e-6
    )


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("far", [0, 300])
def test_principal_axes(kernels, unit, far):
    rng = np.random.default_rng(10)
    rows = (rng.standard_normal((200, 12)) * np.arange(12, 0, -1) + far).astype(np.float32)
    rows[5] = 0
    axes, variances, total = kernels.principal_axes(iter([rows[:90], rows[90:91], rows[91:]]), 5, unit=unit)
    expected_axes, expected, whole = reference.principal_axes([rows], 5, unit=unit)
    assert axes.dtype == variances.dtype == np.float32 and axes.shape == (12, 5)
    np.testing.assert_allclose(total, whole, rtol=1e-5)
    np.testing.assert_allclose(variances, expected, rtol=1e-4)
    np.testing.assert_allclose(axes, expected_axes, atol=2e-3)


@pytest.mark.parametrize("falling", ["fast", "slowly", "flat"])
def test_axes_of_a_wide_matrix_keep_what_the_true_ones_keep(kernels, falling):
    """Too wide for all eigenvectors to be worth their time: orthonormal axes, in order, within 0.1 % of the best."""
    dim, count = 1200, 40
    rng = np.random.default_rng(13)
    spectrum = {"fast": 0.9 ** np.arange(dim), "slowly": np.arange(1, dim + 1) ** -0.5, "flat": np.ones(dim)}[falling]
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    matrix = (basis * spectrum) @ basis.T
    axes, values = kernels.top_axes(matrix, count)
    np.testing.assert_allclose(axes.T @ axes, np.eye(count), atol=1e-4)
    kept = np.einsum("ij,ij->j", axes, matrix @ axes)
    np.testing.assert_allclose(kept, values, rtol=1e-3)
    assert (np.diff(values) <= 1e-6).all()
    assert 0.999 * spectrum[:count].sum() <= kept.sum() <= 1.00001 * spectrum[:count].sum()


@pytest.mark.parametrize("scale", [1, 1e30, 1e-30])
@pytest.mark.parametrize("count", [1, 5, 16])
def test_top_axes(kernels, count, scale):
    rng = np.random.default_rng(11)
    basis = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    covariance = (basis * np.arange(16, 0, -1) ** 2 * scale) @ basis.T
    axes, values = kernels.top_axes(covariance, count)
    expected_axes, expected = reference.top_axes(covariance, count)
    assert axes.dtype == values.dtype == np.float32 and axes.shape == (16, count)
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    np.testing.assert_allclose(axes, expected_axes, atol=1e-4)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) > 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (50, 7), (50, 50), (300, 1)])
def test_nearest(kernels, metric, n, k):
    rng = np.random.default_rng(12)
    rows, queries = rng.standard_normal((n, 20)).astype(np.float32), rng.standard_normal((9, 20)).astype(np.float32)
    at, scores = kernels.nearest(queries, rows, metric, k)
    assert at.shape == scores.shape == (9, k) and all(len(set(line)) == k for line in at.tolist())
    order = np.argsort(-scores, axis=1)
    ranking = np.take_along_axis(at, order, axis=1).astype(np.int64), np.take_along_axis(scores, order, axis=1)
    everything = np.tile(np.arange(n), (9, 1))
    assert_same_ranking(ranking, queries, everything, Codes(rows), metric, k, 1e-6)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of plain Python, without the JIT
def test_nearest_by_cosine_of_rows_of_any_size(kernels):
    rng = np.random.default_rng(13)
    rows = rng.standard_normal((30, 20)).astype(np.float32)
    sizes = np.float32(10.0) ** rng.integers(-37, 38, 30).astype(np.float32)
    at, _ = kernels.nearest(rows[:5], rows * sizes[:, None], "cosine", 1)
    assert at[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_whoever_calls_from_many_threads_gets_the_same(kernels):
    raw = records(40)
    queries, rows, at = whole_numbers(14, 40, 30, 16, 10)

    def work(i: int) -> Any:
        return decoded(kernels, raw[i:]), kernels.rerank(queries[i:], at[i:], Codes(rows), "ip", 5)

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, range(12)))
    for i, ((flags, fc7, fc8), (best, scores)) in enumerate(found):
        for ours, theirs in zip((flags, fc7, fc8), decoded(reference, raw[i:]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        expected = reference.rerank(queries[i:], at[i:], Codes(rows), "ip", 5)
        np.testing.assert_array_equal(best, expected[0])
        np.testing.assert_array_equal(scores, expected[1])
