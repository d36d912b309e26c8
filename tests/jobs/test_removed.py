"""Removed photos are neither queries nor neighbours of a benchmark, and nobody's duplicates."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.bench import BenchSpec, run_bench
from engine.jobs.dedup import DedupSpec, find_duplicates
from engine.jobs.dedup_ceilings import checksums
from engine.jobs.identical import equal_rows
from engine.jobs.truth import TruthSpec, ground_truth
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store, oracle_scores
from tests.index.removal import mark_removed

ROWS = 1200
SPEC = TruthSpec(layer="x", metric="l2", queries=30, k=20, seed=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Rows 600 and up are copies of the first 100; some exact, some altered."""
    data = clustered(ROWS, 24, seed=6)
    random = np.random.default_rng(6)
    data[600:700] = data[:100]
    data[-1] = data[500] * 2  # row −1 is the last one, and must not be taken for a removed one
    data[700:800] = data[:100] * random.uniform(0.99, 1.01, (100, 24)).astype(np.float32)
    store = make_store(tmp_path / "store", {"x": data})
    build_index(store, IndexSpec(layer="x", lists=8), device=CPU, name="lists")
    build_index(store, IndexSpec(layer="x", lists=0), device=CPU, name="exact")
    return store


def test_truth_is_of_what_is_left(store: Store) -> None:
    whole = ground_truth(store, SPEC, device=CPU)
    gone = np.unique([*store.rows_of(whole.photo_ids[:, 0]), *store.rows_of(whole.query_ids[:10])])
    left = mark_removed(store, gone)
    truth = ground_truth(left, SPEC, device=CPU)
    assert not truth.cached and len(truth) == 30
    rows = left.rows_of(truth.query_ids)  # refuses removed ones
    present = left.present_rows
    for row, ids in zip(rows, truth.photo_ids, strict=True):
        scores = oracle_scores(store.x[row], np.asarray(store.x), "l2")
        others = present[present != row]
        best = np.sort(scores[others])[::-1][:20]
        np.testing.assert_allclose(scores[left.rows_of(ids)], best, rtol=1e-5, atol=1e-5)


def test_a_kept_truth_belongs_to_the_photos_that_were_removed_then(store: Store) -> None:
    first = ground_truth(mark_removed(store, [1, 2]), SPEC, device=CPU)
    other = ground_truth(mark_removed(store, [1, 3]), SPEC, device=CPU)  # as many, of the same names and shapes
    assert not first.cached and not other.cached
    assert ground_truth(Store.open(store.path), SPEC, device=CPU).cached
    assert not ground_truth(mark_removed(store, []), SPEC, device=CPU).cached


@pytest.mark.parametrize("left", [0, 1, 5])
def test_truth_of_few_photos(store: Store, left: int) -> None:
    few = mark_removed(store, np.arange(left, ROWS))
    if not left:
        with pytest.raises(InputError, match="every photo was removed, there is nothing to ask for"):
            ground_truth(few, SPEC, device=CPU)
        return
    truth = ground_truth(few, SPEC, device=CPU)
    assert sorted(truth.query_ids) == few.photo_ids[:left].tolist()
    assert truth.photo_ids.shape == (left, max(left - 1, 1))


@pytest.mark.parametrize("name", ["lists", "exact"])
def test_a_benchmark_of_what_is_left(store: Store, name: str) -> None:
    left = mark_removed(store, np.random.default_rng(0).choice(ROWS, 900, replace=False))
    index = Index.open(store.path / "indices" / name, device=CPU, store=left)
    spec = BenchSpec(queries=40, repeats=1, latency_queries=3, probes=(8,), rerank=(1200,))
    report = run_bench(index, spec)
    assert report.queries == 40 and (report.index["photos"], report.index["rows"]) == (300, ROWS)
    everything = [p for p in report.points if p.setting.kind == "exact" or p.setting.rerank == 300]
    assert everything and all(p.recall == {"1": 1.0, "10": 1.0, "100": 1.0} for p in everything)
    few = Index.open(store.path / "indices" / name, device=CPU, store=mark_removed(store, np.arange(1, ROWS)))
    assert run_bench(few, spec).queries == 1


@pytest.mark.parametrize("name", ["lists", "exact"])
def test_duplicates_of_what_is_left(store: Store, name: str) -> None:
    before = find_duplicates(
        Index.open(store.path / "indices" / name, device=CPU), DedupSpec(threshold=0.9995)
    )  # fmt: skip
    gone = [*range(0, 50), *range(620, 640), *range(700, 710)]  # originals, copies, altered copies
    left = mark_removed(store, gone)
    index = Index.open(store.path / "indices" / name, device=CPU, store=left)
    after = find_duplicates(index, DedupSpec(threshold=0.9995))
    ids = set(store.photo_ids[gone].tolist())
    expected = [tuple(pair) for pair in before.pairs.tolist() if not ids & set(pair)]
    assert len(before.pairs) - len(expected) > 80 and [tuple(pair) for pair in after.pairs.tolist()] == expected
    assert not ids & {photo for group in after.groups for photo in group.photo_ids}
    assert not ids & set(after.copies.ravel().tolist())
    assert after.photos == ROWS - len(gone)
    # The copy and the altered copy of a removed original are still each other's.
    assert (int(store.photo_ids[610]), int(store.photo_ids[710])) in expected


def test_no_photo_left_no_duplicates(store: Store) -> None:
    for left in (0, 1):
        few = mark_removed(store, np.arange(left, ROWS))
        found = find_duplicates(Index.open(store.path / "indices" / "lists", device=CPU, store=few))
        assert found.pairs.shape == (0, 2) and found.groups == () and found.photos == left


def test_removed_rows_are_nobodys_copy(store: Store) -> None:
    left = mark_removed(store, [0, 601])
    assert left.removed is not None
    lowest = equal_rows(checksums([left.layer("x")]), left.photo_ids, ~left.removed)
    assert (lowest[0], lowest[600], lowest[1], lowest[601], lowest[2], lowest[602]) == (-1, 600, 1, -1, 2, 2)


def test_too_many_pairs_are_refused_before_they_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.jobs.dedup_join.MOST_PAIRS", 1000)
    store = make_store(tmp_path / "store", {"x": np.arange(1, 301, dtype=np.float32)[:, None]})
    index = Index.open(build_index(store, IndexSpec(layer="x"), device=CPU).path, device=CPU)
    with pytest.raises(InputError, match=r"--threshold 0\.95: more than 1,000 pairs of x"):
        find_duplicates(index)
