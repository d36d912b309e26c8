"""Exact search and self-join in tiles: ceilings hold, nothing that counts is missed, whatever is cut in two."""

import threading
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import reference, tile_join, tile_nearest
from kernels.contract import TooManyPairsError
from kernels.tiles import ALL, HostTiles, Tile
from tests.kernels.arrays import METRICS, Array
from tests.kernels.conftest import emulated_or_skip

SHAPES = [(0, 5, 3, 2), (1, 1, 1, 1), (3, 7, 5, 4), (5, 70, 9, 6), (4, 3, 16, 9)]  # queries, rows, dims, k


def blocks_of(rows: Array, size: int, first: int = 100) -> Any:
    """Rows in blocks of a size, as a layer gives them; their numbers are neither dense nor small."""
    numbers = first + 3 * np.arange(len(rows))
    return lambda: ((numbers[i : i + size], rows[i : i + size]) for i in range(0, len(rows), size))


def feature_like(seed: int, n: int, d: int) -> Array:
    return np.maximum(np.random.default_rng(seed).standard_normal((n, d)), 0).astype(np.float32)


def tiles_of(kernels: Any) -> list[Any]:
    """The arithmetic of a device as it is, and with tiles and room so small that everything is cut."""
    if not hasattr(kernels, "cuda_exact"):
        small = HostTiles()
        small.lines, small.columns, small.capacity, small.room, small.narrow = 2, 3, 1, 100, 6
        return [HostTiles(), small]
    small = kernels.cuda_exact.GpuTiles(side=3, capacity=1)
    small.room, small.narrow = 100, 6
    return [kernels.cuda_exact.GpuTiles(), small]


def scores_of(queries: Array, rows: Array, metric: Any) -> Array:
    """Exact scores (q, n) float32."""
    at, scores = reference.nearest(queries, rows, metric, len(rows))
    out = np.empty_like(scores)
    np.put_along_axis(out, at, scores, axis=1)
    return out


def assert_sound(found: Any, queries: Array, rows: Array, metric: Any, k: int, numbers: Array) -> None:
    """Ceilings and bounds are true, in order; and with no more than what rounding asks for they say something."""
    exact = scores_of(queries, rows, metric)
    assert found.rows.shape == found.ceilings.shape == (len(queries), k) and found.bound.shape == (len(queries),)
    assert found.rows.dtype == np.int64 and found.ceilings.dtype == found.bound.dtype == np.float32
    for i in range(len(queries)):
        there = found.rows[i] >= 0
        assert there.sum() == min(k, len(rows)) and len(set(found.rows[i][there].tolist())) == there.sum()
        at = np.searchsorted(numbers, found.rows[i][there])
        assert (numbers[at] == found.rows[i][there]).all()
        with np.errstate(invalid="ignore"):
            assert (exact[i][at] <= found.ceilings[i][there]).all()
        assert (np.sort(found.ceilings[i])[::-1] == found.ceilings[i]).all()
        others = np.delete(exact[i], at)
        assert (others <= found.bound[i]).all()
        assert np.isneginf(found.bound[i]) == (len(others) == 0 or bool(np.isneginf(found.bound[i])))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_nearest_of(kernels, metric, shape, size):
    q, n, d, k = shape
    queries, rows = feature_like(1, q, d), feature_like(2, n, d)
    numbers = 100 + 3 * np.arange(n)
    found = kernels.nearest_of(queries, blocks_of(rows, size), metric, k)
    assert_sound(found, queries, rows, metric, k, numbers)
    for use in tiles_of(kernels):
        found = tile_nearest.nearest_of(use, kernels.to_device(queries), blocks_of(rows, size), metric, k)
        assert_sound(type(found)(*map(kernels.to_host, found)), queries, rows, metric, k, numbers)


@pytest.mark.parametrize("metric", METRICS)
def test_a_few_more_than_wanted_hold_the_true_nearest_and_the_bound_proves_it(kernels, metric):
    queries, rows = feature_like(3, 6, 64), feature_like(4, 500, 64)
    found = kernels.nearest_of(queries, blocks_of(rows, 170), metric, 60)
    exact = np.sort(scores_of(queries, rows, metric), axis=1)[:, ::-1]
    assert (exact[:, 9] > found.bound).all()
    best = np.argsort(-scores_of(queries, rows, metric), axis=1)[:, :10]
    for i in range(6):
        assert set((100 + 3 * best[i]).tolist()) <= set(found.rows[i].tolist())
    # and the ceilings are near: half precision is off by no more than this
    at = (found.rows - 100) // 3
    true = np.take_along_axis(scores_of(queries, rows, metric), at, axis=1)
    scale = {"cosine": 1, "ip": 64, "l2": 256}[metric]
    assert (np.abs(found.ceilings - true) <= 3e-3 * scale).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(1e20, 1e20), (1e-20, 1e-20), (1e20, 1e-20), (3e38, 1), (1e-42, 1e-42), (0, 1)])
def test_rows_of_any_size(kernels, metric, sizes):
    rng = np.random.default_rng(5)
    queries, rows = (rng.random((3, 8)) - 0.3) * sizes[0], (rng.random((40, 8)) - 0.3) * sizes[1]
    queries, rows = queries.astype(np.float32), rows.astype(np.float32)
    rows[::4] *= np.float32(1e-6)
    rows[7] = 0
    found = kernels.nearest_of(queries, blocks_of(rows, 16), metric, 5)
    with np.errstate(over="ignore", invalid="ignore"):
        assert_sound(found, queries, rows, metric, 5, 100 + 3 * np.arange(40))
    if metric == "cosine" and sizes[0]:  # no size matters
        assert (np.sort(scores_of(queries, rows, metric))[:, -1] > found.bound).all()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_rows_on_both_sides_of_a_border_and_k_past_all(kernels, metric):
    rows = np.repeat(feature_like(6, 2, 6), 8, axis=0)
    for k, size in ((3, 8), (8, 5), (16, 8), (20, 3)):
        found = kernels.nearest_of(rows[:2], blocks_of(rows, size), metric, k)
        assert_sound(found, rows[:2], rows, metric, k, 100 + 3 * np.arange(16))


def test_blocks_without_rows(kernels):
    rows = np.eye(3, dtype=np.float32)

    def blocks():
        for part in (rows[:0], rows[:2], rows[:0], rows[2:]):
            yield np.arange(len(part)) + (0 if len(part) != 1 else 2), part

    found = kernels.nearest_of(rows[:1], blocks, "ip", 3)
    assert sorted(found.rows[0].tolist()) == [0, 1, 2] and np.isneginf(found.bound).all()
    assert kernels.join(blocks, -1.0, "cosine")[0].tolist() == [[0, 1], [0, 2], [1, 2]]
    for nothing in (lambda: iter(()), lambda: iter([(np.arange(0), rows[:0])])):
        assert (kernels.nearest_of(rows, nothing, "l2", 2).rows == -1).all()
        assert kernels.join(nothing, 0.0, "l2")[0].shape == (0, 2)


def test_no_neighbour_wanted(kernels):
    found = kernels.nearest_of(np.ones((2, 3), np.float32), blocks_of(np.ones((4, 3), np.float32), 2), "ip", 0)
    assert found.rows.shape == (2, 0) and found.bound.shape == (2,)


def pairs_of(rows: Array, threshold: float, metric: Any) -> dict[tuple[int, int], float]:
    scores = scores_of(rows, rows, metric)
    n = len(rows)
    return {(100 + 3 * i, 100 + 3 * j): float(scores[i, j])
            for i in range(n) for j in range(i + 1, n) if scores[i, j] >= threshold}  # fmt: skip


def assert_joined(found: Any, rows: Array, threshold: float, metric: Any) -> None:
    """Every pair that reaches the threshold is there once, and none that is farther off than rounding explains."""
    pairs, ceilings = found
    assert type(pairs) is type(ceilings) is np.ndarray
    assert pairs.shape == (len(pairs), 2) and pairs.dtype == np.int64 and ceilings.dtype == np.float32
    keys = [tuple(pair) for pair in pairs.tolist()]
    assert keys == sorted(set(keys)) and all(a < b for a, b in keys)
    wanted, every = pairs_of(rows, threshold, metric), pairs_of(rows, -np.inf, metric)
    assert set(wanted) <= set(keys) <= set(every)
    for key, ceiling in zip(keys, ceilings.tolist(), strict=True):
        assert ceiling >= every[key]
    if metric == "cosine":
        assert all(every[key] >= threshold - 4e-3 for key in keys)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 1), (17, 5), (14, 100)])
def test_join(kernels, metric, n, size):
    rows = feature_like(7, n, 12)
    rows[n // 2 :: 3] = rows[: len(rows[n // 2 :: 3])]  # duplicates
    scores = np.array([*pairs_of(rows, -np.inf, metric).values(), 0.0])
    for threshold in (float(np.quantile(scores, 0.9)), float(scores.max()) + 1e3, -1e30):
        assert_joined(kernels.join(blocks_of(rows, size), threshold, metric), rows, threshold, metric)
        for use in tiles_of(kernels):
            found = tile_join.join(use, blocks_of(rows, size), threshold, metric, 1 << 20)
            assert_joined(found, rows, threshold, metric)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(
    rows=arrays(np.float32, (6, 3), elements=st.sampled_from([0.0, -0.0, 1.0, -2.0, 1e-42, 1e-20, 3e19, -3e38])),
    threshold=st.sampled_from([-1e39, -1.0, 0.0, 0.5, 1.0, 1e38]),
    metric=st.sampled_from(METRICS),
)
def test_join_of_any_rows_misses_none(kernels, rows, threshold, metric):
    assert_joined(kernels.join(blocks_of(rows, 4), threshold, metric), rows, threshold, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_lines_of_a_join_are_parts_of_the_whole(kernels, metric, size):
    rows = feature_like(9, 23, 12)
    whole = kernels.join(blocks_of(rows, size), -1e30, metric)[0].tolist()
    for borders in ([0, 23], [0, 5, 6, 20, 23], [0, 11, 40]):
        for use in (kernels, *tiles_of(kernels)):
            parts = []
            for lines in pairwise(borders):
                if use is kernels:
                    found = kernels.join(blocks_of(rows, size), -1e30, metric, 1 << 20, lines)[0]
                else:
                    found = tile_join.join(use, blocks_of(rows, size), -1e30, metric, 1 << 20, lines)[0]
                assert all(lines[0] <= (pair[0] - 100) // 3 < lines[1] for pair in found.tolist())
                parts += found.tolist()
            assert parts == whole and len(whole) == 23 * 11


def test_more_pairs_than_are_wanted(kernels):
    rows = np.ones((6, 4), np.float32)
    assert len(kernels.join(blocks_of(rows, 2), 0.9, "cosine", 15)[0]) == 15
    with pytest.raises(TooManyPairsError, match="more than 14 pairs"):
        kernels.join(blocks_of(rows, 2), 0.9, "cosine", 14)


def test_a_block_that_cannot_be_read_ends_the_search(kernels):
    def broken():
        yield np.arange(3), np.ones((3, 4), np.float32)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        kernels.nearest_of(np.ones((1, 4), np.float32), broken, "ip", 1)


def test_blocks_on_the_device_are_used_where_they_are(cuda, monkeypatch):
    queries, rows = feature_like(8, 3, 6), feature_like(9, 20, 6)
    there = cuda.to_device(rows)
    monkeypatch.setattr(cuda.cuda_exact, "page_locked", lambda *a: pytest.fail("staged in host memory"))
    found = cuda.nearest_of(cuda.to_device(queries), blocks_of(there, 7), "cosine", 4)
    monkeypatch.undo()
    expected = cuda.nearest_of(queries, blocks_of(rows, 7), "cosine", 4)
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, cuda.cupy.ndarray)
        np.testing.assert_array_equal(cuda.to_host(ours), theirs)


def test_the_next_block_is_read_while_one_is_at_work_and_no_further_one(cuda):
    read: list[int] = []
    second = threading.Event()

    def blocks() -> Any:
        for i in range(5):
            read.append(i)
            if i == 1:
                second.set()
            yield np.arange(i, i + 1), np.full((1, 4), i, np.float32)

    taken: list[tuple[int, float]] = []
    for numbers, rows in cuda.cuda_exact.GpuTiles(side=4).stream(blocks()):
        assert second.wait(20)  # by another thread, or never
        assert len(read) <= len(taken) + 2
        taken.append((int(numbers[0]), float(rows[0, 0])))
    assert taken == [(i, float(i)) for i in range(5)]


def test_blocks_that_nobody_asks_for_any_more(cuda):
    stream = cuda.cuda_exact.GpuTiles(side=4).stream(blocks_of(np.ones((9, 4), np.float32), 2)())
    next(stream)
    before = threading.active_count()
    stream.close()
    assert threading.active_count() == before - 1


@pytest.mark.parametrize("past", [ALL, 0, 3, -2, 40])
@pytest.mark.parametrize("box", [(0, 3, 0, 2100), (1, 3, 5, 2055), (2, 3, 2048, 2049)])
def test_above_takes_what_is_meant_and_nothing_else(cuda, box, past):
    rng = np.random.default_rng(1)
    a, b, c, d = box
    arrays_ = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2100), 3, 2100, 2100, 3)]
    arrays_[0][1, 7], arrays_[0][2, 2048] = np.nan, np.inf
    products, by_line, by_column, less, least = arrays_
    there = [cuda.to_device(part) for part in arrays_]
    tile = Tile(there[0], there[1], there[2], there[3], box, past)
    found = cuda.cuda_exact.GpuTiles(capacity=6300).above(tile, there[4])
    expected = HostTiles().above(Tile(products, by_line, by_column, less, box, past), least)
    assert expected is not None
    ours = sorted(zip(*(cuda.to_host(part).tolist() for part in found), strict=True))
    theirs = sorted(zip(*(part.tolist() for part in expected), strict=True))
    assert [key[:2] for key in ours] == [key[:2] for key in theirs]
    np.testing.assert_allclose([key[2] for key in ours], [key[2] for key in theirs], rtol=1e-5, atol=1e-5)
    assert all(a <= i < b and c <= j < d and j - i > past for i, j, _ in ours)
    assert cuda.cuda_exact.GpuTiles(capacity=max(len(ours), 1)).above(tile, there[4]) is not None
    if len(ours) > 1:
        assert cuda.cuda_exact.GpuTiles(capacity=len(ours) - 1).above(tile, there[4]) is None


def test_tiles_keep_to_the_limit_of_the_memory():
    cuda = emulated_or_skip()
    tiles = cuda.cuda_exact.GpuTiles
    whole = tiles()
    cuda.use_gpu(0, 100 << 20)
    small = tiles()
    assert whole.columns == 8192 and whole.lines == 16384
    assert small.room == 50 << 20 and small.columns == 1024 and small.lines == 2048
