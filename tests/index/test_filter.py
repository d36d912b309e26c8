"""Filtered search: the right photos at any selectivity, and no other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.filter import Filter
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, clustered, make_store, oracle_scores, recall
from tests.index.removal import mark_removed

ROWS, DIM = 6000, 32
METRICS = ["cosine", "ip", "l2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    store = make_store(tmp_path_factory.mktemp("filter") / "store", {"fc7": clustered(ROWS, DIM, seed=9)})
    for metric in METRICS:
        build_index(store, IndexSpec(layer="fc7", metric=metric, rows_per_shard=2500), device=CPU, name=metric)
    return store


def index_of(store: Store, metric: str) -> Index:
    return Index.open(store.path / "indices" / metric, device=CPU, store=store)


@pytest.mark.parametrize("device", ["cpu", "as on cuda"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0.0002, 0.002, 0.01, 0.1, 0.5, 0.9])
def test_recall_at_every_selectivity_and_nothing_from_outside(whole, metric, share, device, monkeypatch):
    if device != "cpu":
        monkeypatch.setattr("engine.index.ivfpq.filters", lambda device: False)
    random = np.random.default_rng(int(share * 1e4))
    ids = random.choice(whole.photo_ids, max(int(ROWS * share), 1), replace=False)
    queries = np.asarray(whole.fc7[random.choice(ROWS, 50, replace=False)])
    among = Filter.of_ids(whole, within=ids)
    found = index_of(whole, metric).search(queries, SearchSpec(k=10), within=among)
    there = found.photo_ids >= 0
    assert np.isin(found.photo_ids[there], ids).all()
    assert (there.sum(axis=1) == min(10, len(ids))).all()
    true = exact_search(whole, "fc7", queries, 10, metric=metric, kernels=load("cpu"), within=among)
    assert recall(found.scores, true.scores) >= 0.95
    if len(ids) <= 40:  # all of them are compared
        np.testing.assert_array_equal(found.photo_ids, true.photo_ids)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS), share=st.sampled_from([0.001, 0.03, 0.3, 1.0]))
def test_everything_compared_is_the_textbook_over_what_is_asked_for(whole, seed, metric, share):
    random = np.random.default_rng(seed)
    store = mark_removed(whole, random.choice(ROWS, 100, replace=False))
    within = random.choice(whole.photo_ids, max(int(ROWS * share), 20), replace=False)
    without = random.choice(whole.photo_ids, 500, replace=False)
    among = Filter.of_ids(store, within=within, without=without)
    expected = np.isin(store.photo_ids, within) & ~np.isin(store.photo_ids, without) & ~np.asarray(store.removed)
    np.testing.assert_array_equal(among.mask, expected)
    query = np.asarray(store.fc7)[seed % ROWS][None]
    found = index_of(store, metric).search(query, SearchSpec(k=5, probes=1 << 20, rerank=1 << 20), within=among)
    scores = oracle_scores(query[0], np.asarray(store.fc7), metric)
    best = np.sort(scores[expected])[::-1][:5]
    np.testing.assert_allclose(found.scores[0, : len(best)], best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "as on cuda"])
@pytest.mark.parametrize("share", [0.0005, 0.02, 0.4, 0.98])
def test_a_mask_of_rows_goes_with_lists_of_ids(whole, share, device, monkeypatch):
    if device != "cpu":
        monkeypatch.setattr("engine.index.ivfpq.filters", lambda device: False)
    random = np.random.default_rng(int(share * 1e4))
    where = random.random(ROWS) < share
    where[[3, 17]] = True
    without = random.choice(whole.photo_ids[20:], 2000, replace=False)
    kept = where.copy()
    among = Filter.of_ids(whole, without=without, where=where)
    np.testing.assert_array_equal(where, kept)  # whose array it is, is left as it was
    np.testing.assert_array_equal(among.mask, where & ~np.isin(whole.photo_ids, without))
    queries = np.asarray(whole.fc7[:40])
    found = index_of(whole, "cosine").search(queries, SearchSpec(k=10, probes=1 << 20, rerank=1 << 20), within=among)
    scores = np.array([oracle_scores(query, np.asarray(whole.fc7), "cosine")[among.mask] for query in queries])
    best = -np.sort(-scores, axis=1)[:, :10]
    np.testing.assert_allclose(found.scores[:, : best.shape[1]], best, rtol=1e-4, atol=1e-5)
    assert (found.photo_ids[:, best.shape[1] :] == -1).all()


def test_a_mask_of_another_length_or_of_no_photo_is_refused(whole):
    with pytest.raises(InputError, match=r"a mask of shape \(5,\), expected one of 6,000 rows"):
        Filter.of_ids(whole, where=np.ones(5, np.bool_))
    with pytest.raises(InputError, match="none is in the store and fits all that is asked for"):
        Filter.of_ids(whole, where=np.zeros(ROWS, np.bool_))


def test_what_lies_far_from_the_query_is_found_too(whole):
    """All photos near the query are left out: the lists that it would visit hold none that may be found."""
    data = np.asarray(whole.fc7)
    order = np.argsort(-oracle_scores(data[3], data, "l2"))
    far = whole.photo_ids[order[ROWS // 2 :]]
    found = index_of(whole, "l2").search(
        data[3:4], SearchSpec(k=10, probes=1, rerank=50), within=Filter.of_ids(whole, within=far)
    )
    assert np.isin(found.photo_ids, far).all()


def test_many_queries_of_a_part_take_bounded_memory(whole, monkeypatch):
    monkeypatch.setattr("engine.index.search.BLOCK_CANDIDATES", 1000)
    monkeypatch.setattr("engine.index.search.cpu_threads", lambda: 1)
    among = Filter.of_ids(whole, within=whole.photo_ids[:280])
    index, queries = index_of(whole, "cosine"), np.asarray(whole.fc7[:37])
    widths: list[int] = []
    inner = Index._block

    def spy(self, rows, *rest):
        widths.append(len(rows))
        return inner(self, rows, *rest)

    monkeypatch.setattr(Index, "_block", spy)
    found = index.search(queries, SearchSpec(k=3, rerank=40), within=among)
    assert set(widths) == {3, 1}
    np.testing.assert_array_equal(found.photo_ids[:, 0], np.where(np.arange(37) < 280, whole.photo_ids[:37], -1))


def test_photos_that_are_not_there_are_counted_and_no_photo_left_is_an_error(whole):
    among = Filter.of_ids(whole, within=[whole.photo_ids[4], 10**9, 10**9, 10**9 + 1])
    assert (among.count, among.unknown, among.rows.tolist()) == (1, 2, [4])
    with pytest.raises(InputError, match="no photo is left to be found"):
        Filter.of_ids(whole, within=[10**9])
    with pytest.raises(InputError, match="no photo is left to be found"):
        Filter.of_ids(whole, without=whole.photo_ids)
