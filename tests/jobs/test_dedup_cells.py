"""What the cells promise: that every pair above a threshold meets, and that ceilings are never below scores."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.dedup_ceilings import Ceilings, ceilings_of
from engine.jobs.dedup_cells import cell_count, cells_of
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_photos import Photos, in_lines, searcher_of
from tests.builders import CPU, clustered, make_store


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
    ceilings = Ceilings(vectors=vectors, sums=np.empty((n, 2), np.uint64), leading=np.arange(leading))
    cells = cells_of(ceilings, among, threshold)
    assert sorted(cells.order.tolist()) == among.tolist()
    meet = np.zeros((n, n), np.bool_)
    for cell in range(len(cells)):
        visitors, members = cells.visitors(cell), cells.members(cell)
        assert set(members) <= set(visitors) <= set(among.tolist())
        meet[np.ix_(visitors, members)] = True
    near = np.zeros((n, n), np.bool_)
    near[np.ix_(among, among)] = (vectors @ vectors.T >= threshold)[np.ix_(among, among)]
    assert not (near & ~(meet | meet.T)).any()


def test_few_cells_are_visited_where_photos_lie_apart() -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((40, 16)), 100, axis=0) + rng.standard_normal((4000, 16)) * 0.02
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    ceilings = Ceilings(vectors=vectors, sums=np.empty((4000, 2), np.uint64), leading=np.arange(16))
    cells = cells_of(ceilings, np.arange(4000), 0.99)
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
        vectors = ceilings_of(photos, (index,), files).vectors
    a, b = np.triu_indices(1200, 1)
    pairs = np.stack([a, b], axis=1)[::7]
    scores = photos.scores(pairs)
    ceilings = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(axis=1)
    assert (ceilings >= scores - 1e-5).all()
    assert (ceilings[(pairs == 5).any(axis=1)] <= 1e-5).all()
    assert np.median(ceilings - scores) < 0.5
    wide = np.asarray(store.x, np.float64)
    some = pairs[:3000]
    length = np.linalg.norm(wide, axis=1)
    exact = (wide[some[:, 0]] * wide[some[:, 1]]).sum(axis=1) / np.maximum(
        length[some[:, 0]] * length[some[:, 1]], 1e-300
    )
    np.testing.assert_allclose(scores[:3000], exact, atol=1e-6)


@given(firsts=st.lists(st.integers(0, 5), max_size=120))
def test_lines_hold_every_pair_once(firsts: list[int]) -> None:
    pairs = np.array([[a, i] for i, a in enumerate(sorted(firsts))], np.int64).reshape(-1, 2)
    lines, place = in_lines(pairs)
    assert sorted(lines[lines >= 0].tolist()) == list(range(len(pairs)))
    assert lines.reshape(-1)[place].tolist() == list(range(len(pairs)))
    assert all(len(set(pairs[line[line >= 0], 0])) == 1 and line[0] >= 0 for line in lines)
