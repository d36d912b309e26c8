"""What the cells promise: that every pair above a threshold meets, and that ceilings are never below scores."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.dedup_ceilings import Ceilings, ceilings_of, shortened
from engine.jobs.dedup_cells import cell_count, cells_of
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_photos import Photos, searcher_of
from tests.builders import CPU, clustered, make_store


def made_of(vectors: np.ndarray, leading: int, points: int | None = None) -> Ceilings:
    short, sums = shortened(vectors, np.arange(leading)), np.empty((len(vectors), 2), np.uint64)
    return Ceilings(vectors=vectors, short=short, sums=sums, points=short[:, : points or max(leading // 2, 1)])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 20), threshold=st.sampled_from([-0.5, 0.3, 0.8, 0.95, 0.999]), leading=st.integers(1, 9)
)
def test_every_near_pair_meets(seed: int, threshold: float, leading: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 5000 if seed % 10 == 0 else 600))
    vectors = rng.standard_normal((n, 9)) * [3, 2, 1, 1, 1, 0.5, 0.5, 0.2, 0.1]
    vectors[: n // 2] = vectors[n - n // 2 :] + rng.standard_normal((n // 2, 9)) * rng.uniform(0, 0.5)
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    among = np.flatnonzero(rng.random(n) < 0.9)
    if not len(among):
        return
    ceilings = made_of(vectors, leading)
    cells = cells_of(ceilings, among, threshold)
    assert sorted(cells.order.tolist()) == among.tolist()
    meet = np.zeros((n, n), np.int64)
    for cell in range(len(cells)):
        visitors, members = cells.visitors(cell), cells.members(cell)
        assert set(members) <= set(visitors) <= set(among.tolist())
        assert (cells.own[members] == cell).all()
        a, b = (part.reshape(-1) for part in np.meshgrid(visitors, members))
        first = cells.first_meet(cell, a, b)
        np.add.at(meet, (a[first], b[first]), 1)
    assert (np.delete(cells.own, among) == -1).all()
    assert (meet + meet.T).max(initial=0) <= 1 and not meet.trace()  # each pair once, however often it meets
    near = np.zeros((n, n), np.bool_)
    near[np.ix_(among, among)] = (vectors @ vectors.T >= threshold)[np.ix_(among, among)]
    np.fill_diagonal(near, False)
    assert not (near & (meet + meet.T == 0)).any()


def test_few_cells_are_visited_where_photos_lie_apart() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((40, 16)), 100, axis=0) + rng.standard_normal((4000, 16)) * 0.02
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    cells = cells_of(made_of(vectors, 16, 16), np.arange(4000), 0.99)
    assert len(cells) == 128
    assert np.bitwise_count(cells.visits).sum() < 12 * 4000  # of 128


def test_how_many_cells() -> None:
    assert [cell_count(n) for n in (1, 2, 100, 20_000, 100_000, 1_000_000)] == [1, 1, 4, 512, 1024, 4096]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_no_score_exceeds_its_ceiling(tmp_path: Path, metric: str) -> None:
    rows = clustered(1200, 24, seed=1) * np.float32(10) ** np.random.default_rng(0).integers(-15, 15, (1200, 1))
    rows[5] = 0
    store = make_store(tmp_path / "store", {"x": rows.astype(np.float32)})
    index = Index.open(build_index(store, IndexSpec(layer="x", lists=4, reduced=4, metric=metric), device=CPU).path,
                       device=CPU)  # fmt: skip
    photos = Photos.of(searcher_of(index))
    with Unfinished(None, {}) as files:
        both = ceilings_of(photos, (index,), files)
        vectors, short = both.vectors, both.short
    a, b = np.triu_indices(1200, 1)
    pairs = np.stack([a, b], axis=1)[::7]
    scores = photos.scores(pairs)
    ceilings = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)
    assert (ceilings >= scores - 1e-5).all()
    assert ((short[pairs[:, 0]] * short[pairs[:, 1]]).sum(axis=1) >= ceilings - 1e-5).all()
    assert (ceilings[(pairs == 5).any(axis=1)] <= 1e-5).all()
    assert np.median(ceilings - scores) < 0.5
    wide = np.asarray(store.x, np.float64)
    some = pairs[:3000]
    length = np.linalg.norm(wide, axis=1)
    exact = (wide[some[:, 0]] * wide[some[:, 1]]).sum(axis=1) / np.maximum(
        length[some[:, 0]] * length[some[:, 1]], 1e-300
    )
    np.testing.assert_allclose(scores[:3000], exact, atol=1e-6)
