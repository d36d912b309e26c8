"""Removed photos are in no answer, and every other photo is found as if they had never been there."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.index import shards as shards_module
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.manifest import read_index_manifest
from engine.index.queries import photo_questions
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.index.spec import IndexSpec, SearchSpec
from engine.index.verify import verify_index
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, Array, clustered, make_store, oracle_scores, recall
from tests.index.removal import mark_removed

ROWS, DIM = 1500, 24
METRICS = ["cosine", "ip", "l2"]
SPEC = IndexSpec(layer="fc7", rows_per_shard=1000)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    """A store with one index for each metric, all built before anything is removed."""
    store = make_store(tmp_path_factory.mktemp("removed") / "store", {"fc7": clustered(ROWS, DIM, seed=4)})
    for metric in METRICS:
        build_index(store, SPEC.model_copy(update={"metric": metric}), device=CPU, name=metric)
    return store


@pytest.fixture
def without(whole) -> Callable[[Array], Store]:
    return lambda rows: mark_removed(whole, rows)


def index_of(store: Store, metric: str) -> Index:
    return Index.open(store.path / "indices" / metric, device=CPU, store=store)


def removed_rows(case: str, seed: int) -> Array:
    random = np.random.default_rng(seed)
    if case == "neighbours":  # of one row: what lies together goes together
        data = clustered(ROWS, DIM, seed=4)
        return np.argsort(-oracle_scores(data[seed % ROWS], data, "l2"))[: ROWS // 3]
    count = {"one": 1, "few": 20, "half": ROWS // 2, "all but 3": ROWS - 3, "all but 1": ROWS - 1}[case]
    return random.choice(ROWS, count, replace=False)


CASES = ["one", "few", "half", "neighbours", "all but 3", "all but 1"]


def check_exact(store: Store, queries: Array, found, k: int, metric: str) -> None:
    """The k best scores of the present rows, each by a present photo that really has it."""
    present = store.present_rows
    n = min(k, len(present))
    assert (found.photo_ids[:, n:] == -1).all() and (found.scores[:, n:] == -np.inf).all()
    for query, ids, scores in zip(queries, found.photo_ids, found.scores, strict=True):
        true = oracle_scores(query, np.asarray(store.fc7), metric)
        rows = store.rows_of(ids[:n])  # refuses removed ones
        assert len(set(rows.tolist())) == n
        slack = 1e-5 * np.maximum(np.abs(true[rows]), 1e-3)
        assert (np.abs(scores[:n] - true[rows]) <= slack).all()
        assert (np.abs(np.sort(true[present])[::-1][:n] - scores[:n]) <= slack).all()


@settings(max_examples=40)
@given(
    case=st.sampled_from(CASES), seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS),
    k=st.sampled_from([1, 3, 10, 40, ROWS]),
)  # fmt: skip
def test_all_probes_and_exact_search_are_the_textbook_over_what_is_left(whole, case, seed, metric, k):
    store = mark_removed(whole, removed_rows(case, seed))
    index, queries = index_of(store, metric), np.asarray(store.fc7)[seed % 1000 : seed % 1000 + 4]
    everything = SearchSpec(k=k, probes=1 << 20, rerank=1 << 20)
    check_exact(store, queries, index.search(queries, everything), k, metric)
    exact = exact_search(store, "fc7", queries, k, metric=index.manifest.spec.metric, kernels=load("cpu"))
    check_exact(store, queries, exact, k, metric)


@settings(max_examples=40)
@given(
    case=st.sampled_from(CASES), seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS),
    k=st.sampled_from([1, 10, 60]),
)  # fmt: skip
def test_by_default_all_k_are_found_and_none_of_them_is_removed(whole, case, seed, metric, k):
    store = mark_removed(whole, removed_rows(case, seed))
    index, random = index_of(store, metric), np.random.default_rng(seed)
    rows = random.choice(ROWS, 20, replace=False)
    own = np.where(np.isin(rows, store.present_rows), store.photo_ids[rows], -1)
    queries = np.asarray(store.fc7[rows])
    found = index.search(queries, SearchSpec(k=k), exclude=own)
    there = found.photo_ids >= 0
    store.rows_of(found.photo_ids[there])
    assert (there.sum(axis=1) == np.minimum(k, store.photos - (own >= 0))).all()
    assert not (found.photo_ids == np.where(own < 0, -2, own)[:, None]).any()
    true = exact_search(
        store, "fc7", queries, k, metric=index.manifest.spec.metric, kernels=load("cpu"), exclude=own
    )  # fmt: skip
    assert recall(found.scores, true.scores) >= 0.9


@pytest.mark.parametrize("probes", [1, 4])
@pytest.mark.parametrize("rerank", [10, 40, 300])
def test_where_lists_hold_hardly_more_than_removed_rows_the_others_are_found(without, whole, probes, rerank):
    """The nearest third of all rows is gone: few lists and few candidates give nothing else."""
    data = np.asarray(whole.fc7)
    query = data[7:8]
    order = np.argsort(-oracle_scores(query[0], data, "l2"))
    store = without(order[: ROWS // 3])
    found = index_of(store, "l2").search(query, SearchSpec(k=10, probes=probes, rerank=rerank))
    assert (found.photo_ids >= 0).all()
    store.rows_of(found.photo_ids[0])


@pytest.fixture
def one_list(whole) -> tuple[Array, Array]:
    """A query, and all rows (m,) of the one list that it visits, nearest first."""
    store = mark_removed(whole, [])
    found = index_of(store, "l2").search(store.fc7[:200], SearchSpec(k=400, probes=1, rerank=400)).photo_ids
    at = int((found >= 0).sum(axis=1).argmax())
    rows = store.rows_of(found[at][found[at] >= 0])
    assert 25 < len(rows) < 400 and rows[0] == at
    return np.asarray(store.fc7[at : at + 1]), rows


@pytest.fixture
def no_filter(monkeypatch) -> None:
    """As on CUDA, whose lists cannot be asked for some of their rows alone."""
    monkeypatch.setattr("engine.index.ivfpq.filters", lambda device: False)
    monkeypatch.setattr("engine.index.asked.SMALL_PART", 0)


def ten_of_one_list(store: Store, query: Array, own: Array):
    return index_of(store, "l2").search(query, SearchSpec(k=10, probes=1, rerank=20), exclude=store.photo_ids[own])


@pytest.mark.parametrize("left", [1, 3, 9, 10])
def test_what_one_list_does_not_hold_is_found_in_others(without, one_list, left):
    query, rows = one_list
    store = without(rows[left:])
    found = ten_of_one_list(store, query, rows[:1])
    assert (found.photo_ids >= 0).all() and not np.isin(found.photo_ids, store.photo_ids[rows[0]]).any()
    store.rows_of(found.photo_ids[0])
    if left > 1:
        assert found.photo_ids[0, 0] == store.photo_ids[rows[1]]


@pytest.mark.usefixtures("no_filter")
@pytest.mark.parametrize("left", [1, 3, 9, 10])
def test_a_list_of_removed_rows_does_not_cost_an_answer(without, one_list, left):
    """Less is left in the list than is asked for, the query's own photo aside: all other rows are compared."""
    query, rows = one_list
    store = without(rows[left:])
    found = ten_of_one_list(store, query, rows[:1])
    apart = mark_removed(store, [rows[0], *rows[left:]])
    check_exact(apart, query, found, 10, "l2")


def test_a_list_that_is_too_short_is_not_the_end(without, one_list):
    """Candidates for as many neighbours are more than are left: all of those are compared, whatever the lists."""
    query, rows = one_list
    spec = SearchSpec(k=len(rows) + 5, probes=1)
    store = without(rows[4:])
    check_exact(store, query, index_of(store, "l2").search(query, spec), len(rows) + 5, "l2")


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many candidates the lists are asked for, each time; to compare all rows instead fails."""
    counts: list[int] = []
    search = shards_module.candidates

    def spy(shards, queries, count, probes, bits=None):
        counts.append(count)
        return search(shards, queries, count, probes, bits)

    monkeypatch.setattr(shards_module, "candidates", spy)
    monkeypatch.setattr("engine.index.search.compare", None)
    return counts


@pytest.mark.usefixtures("no_filter")
def test_where_few_candidates_are_left_more_are_asked_for(without, whole, asked):
    """The nearest 200 rows are gone but for each tenth: enough for an answer, not for a good one."""
    query = np.asarray(whole.fc7[7:8])
    nearest = np.argsort(-oracle_scores(query[0], np.asarray(whole.fc7), "l2"))[:200]
    store = without(np.delete(nearest, np.s_[::10]))
    found = index_of(store, "l2").search(query, SearchSpec(k=10, probes=1 << 20, rerank=100))
    assert asked == [114, 456]
    check_exact(store, query, found, 10, "l2")


def test_all_rows_means_all_that_are_left(without, whole, monkeypatch):
    store = without(np.arange(100, ROWS))
    index = index_of(store, "cosine")
    assert index.settings(SearchSpec()) == (index.manifest.spec.lists, 100)
    monkeypatch.setattr("engine.index.search.shards", None)  # would fail
    check_exact(store, store.fc7[:5], index.search(store.fc7[:5], SearchSpec(k=120)), 120, "cosine")


@pytest.mark.usefixtures("no_filter")
def test_a_search_is_widened_before_all_rows_are_compared(without, whole, asked):
    """Half of the rows removed at random: the lists still hold enough, and exact search is not asked."""
    store = without(removed_rows("half", 0))
    index = index_of(store, "cosine")
    queries = np.asarray(store.fc7[:200])
    found = index.search(queries, SearchSpec(k=10, rerank=50))
    true = exact_search(store, "fc7", queries, 10, metric="cosine", kernels=load("cpu"))
    assert recall(found.scores, true.scores) >= 0.9
    assert asked[0] == 101 and asked == sorted(asked)


def test_nothing_is_searched_in_another_way_when_nothing_is_removed(without, whole, monkeypatch):
    monkeypatch.setattr(shards_module, "present_candidates", None)  # would fail
    store = without(np.empty(0))
    assert store.removed is None
    assert (index_of(store, "cosine").search(store.fc7[:3]).photo_ids >= 0).all()


def test_no_photo_left_no_answer(without, whole):
    store = without(np.arange(ROWS))
    for spec in (SearchSpec(k=4), SearchSpec(k=4, probes=1, rerank=5)):
        found = index_of(store, "cosine").search(store.fc7[:2], spec)
        assert (found.photo_ids == -1).all() and (found.scores == -np.inf).all()
    with pytest.raises(InputError, match="every photo was removed, there is nothing to index"):
        build_index(store, SPEC, device=CPU)


def test_a_removed_photo_cannot_be_asked_for_or_left_out(without, whole):
    store = without([5])
    gone = int(store.photo_ids[5])
    with pytest.raises(InputError, match=f"photo {gone}: was removed"):
        photo_questions(store, "fc7", [gone])
    with pytest.raises(InputError, match=f"photo {gone}: was removed"):
        index_of(store, "cosine").search(store.fc7[:1], exclude=[gone])


def test_query_from_index_and_exact_agree(without, whole):
    store = without(removed_rows("half", 3))
    asked = photo_questions(store, "fc7", store.photo_ids[store.present_rows[:30]])
    everything = SearchSpec(k=5, probes=1 << 20, rerank=1 << 20)
    through = Searcher.of_index(index_of(store, "l2"))
    without_index = Searcher.exact(store, "fc7", store.path / "indices" / "l2", load("cpu"))
    answers = [next(each.answer([asked], everything, exclude_self=True)).result for each in (through, without_index)]
    assert np.array_equal(answers[0].photo_ids, answers[1].photo_ids)


def test_an_index_stays_good_when_photos_are_removed_and_none_is_learned_from_them(tmp_path):
    data = clustered(1200, 16, seed=2)
    data[::2] = 1e6  # would spoil what is learned
    store = mark_removed(make_store(tmp_path / "store", {"x": data}), np.arange(0, 1200, 2))
    path = build_index(store, IndexSpec(layer="x", metric="l2", lists=8), device=CPU).path
    manifest = read_index_manifest(path)
    assert (manifest.rows, manifest.spec.training_rows) == (1200, 600)
    rest = make_store(tmp_path / "rest", {"x": data[1::2]})
    expected = build_index(rest, IndexSpec(layer="x", metric="l2", lists=8), device=CPU).path
    assert (path / "axes.npy").read_bytes() == (expected / "axes.npy").read_bytes()
    assert verify_index(path).damage == []
    assert build_index(store, IndexSpec(layer="x", metric="l2", lists=8), device=CPU).reused
    index = Index.open(path, device=CPU)
    assert len(index) == 1200 and index.photos == 600
    assert recall(
        index.search(data[1::2][:50], SearchSpec(k=5)).scores,
        exact_search(store, "x", data[1::2][:50], 5, metric="l2", kernels=load("cpu")).scores,
    ) >= 0.95  # fmt: skip
    store = mark_removed(store, [0])
    assert len(Index.open(path, device=CPU).search(data[:1], SearchSpec(k=1))) == 1
