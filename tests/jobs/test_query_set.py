"""Queries that came with a store, and their neighbours: believed where they are right, and else not in silence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs import query_set as module
from engine.jobs.bench import BenchSpec, run_bench
from engine.jobs.query_set import imported_truth
from engine.jobs.truth import TruthSpec
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, Array, clustered, oracle_scores
from tests.index.removal import mark_removed

ROWS, DIM, QUERIES, K = 1200, 16, 40, 100
QUICK: dict[str, Any] = {"repeats": 1, "latency_queries": 2, "probes": (4,), "rerank": (50,)}


def vectors() -> tuple[Array, Array]:
    both = clustered(ROWS + QUERIES, DIM, seed=11)
    return both[:ROWS], both[ROWS:]


def nearest(metric: str, k: int = K) -> Array:
    """Photo ids (q, k) of the true neighbours, by NumPy; ids are 5, 7, 9, …"""
    rows, queries = vectors()
    return np.array([np.argsort(-oracle_scores(query, rows, metric), kind="stable")[:k] * 2 + 5 for query in queries])


def store_of(path: Path, neighbors: Array, metric: str = "l2") -> Store:
    rows, queries = vectors()
    with StoreWriter(path, {"sift": DIM}) as writer:
        writer.write(writer.reserve(ROWS), np.arange(ROWS) * 2 + 5, {"sift": rows})
        writer.query_set("sift", queries, neighbors, None, metric)
        writer.finish(["made up"])
    return Store.open(path)


def truth_of(store: Store, metric: Any = "l2", queries: int = 1000, k: int = K, least: int = 10) -> Any:
    return imported_truth(
        store, TruthSpec(layer="sift", metric=metric, queries=queries, k=k), least, device=CPU
    )  # fmt: skip


def index_of(store: Store, metric: str = "l2") -> Index:
    spec = IndexSpec.model_validate({"layer": "sift", "metric": metric, "lists": 16})
    return Index.open(build_index(store, spec, device=CPU).path, device=CPU)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_right_neighbours_are_taken_as_they_came(tmp_path, metric, monkeypatch):
    store = store_of(tmp_path / "s", nearest(metric), metric)
    truth = truth_of(store, metric)
    assert (truth.source, truth.held_out, truth.agrees, truth.warnings) == ("imported", False, 1.0, ())
    assert np.array_equal(truth.photo_ids, nearest(metric)) and (truth.query_ids == -1).all()
    rows, queries = vectors()
    for query, scores in zip(queries, truth.scores, strict=True):
        true = np.sort(oracle_scores(query, rows, metric))[::-1][:K]
        np.testing.assert_allclose(scores, true, rtol=2e-5, atol=1e-5)
    assert not (store.path / "truth").exists()


def test_fewer_queries_and_neighbours_than_came(tmp_path):
    truth = truth_of(store_of(tmp_path / "s", nearest("l2")), queries=7, k=12)
    assert truth.photo_ids.shape == truth.scores.shape == (7, 12) and truth.queries.shape == (7, DIM)
    assert truth.source == "imported"


def test_another_metric_is_another_question(tmp_path):
    assert truth_of(store_of(tmp_path / "s", nearest("l2")), "cosine") is None


def test_any_order_of_the_right_neighbours_is_as_good_but_said(tmp_path):
    truth = truth_of(store_of(tmp_path / "s", nearest("l2")[:, ::-1]))
    assert np.array_equal(truth.photo_ids, nearest("l2")) and truth.agrees == 1.0
    (warning,) = truth.warnings
    assert "neighbours of 100.0% of the queries are not in order of their scores by l2" in warning


@pytest.mark.parametrize("wrong", ["shifted", "random", "another metric", "repeated"])
def test_wrong_neighbours_are_noticed(tmp_path, wrong):
    right = nearest("l2", K + 50)
    neighbors = {
        "shifted": right[:, 50:],
        "random": np.random.default_rng(0).integers(0, ROWS, (QUERIES, K)) * 2 + 5,
        "another metric": nearest("ip"),
        "repeated": np.repeat(right[:, :1], K, axis=1),
    }[wrong]
    truth = truth_of(store_of(tmp_path / "s", neighbors))
    assert truth.source == "imported" and truth.agrees < 0.7
    assert "hold" in truth.warnings[0] and "--held-out measures without them" in truth.warnings[0]


def test_ids_that_no_photo_has_are_not_believed(tmp_path):
    neighbors = nearest("l2")
    neighbors[3, 4] = 6
    truth = truth_of(store_of(tmp_path / "s", neighbors))
    assert (truth.source, truth.agrees) == ("computed", None)
    assert np.array_equal(truth.photo_ids, nearest("l2"))
    assert "photo 6: not in" in truth.warnings[0]


def test_absent_neighbours_are_absent(tmp_path):
    neighbors = nearest("l2")
    neighbors[:, 90:] = -1
    truth = truth_of(store_of(tmp_path / "s", neighbors))
    assert (truth.photo_ids[:, 90:] == -1).all() and (truth.photo_ids[:, :90] >= 0).all()
    assert truth.agrees == pytest.approx(0.9) and len(truth.warnings) == 1


def test_too_few_neighbours_are_computed_and_kept(tmp_path, monkeypatch):
    store = store_of(tmp_path / "s", nearest("l2", 5))
    assert truth_of(store, least=5).photo_ids.shape == (QUERIES, 5)
    truth = truth_of(store, least=6)
    assert (truth.source, truth.cached) == ("computed", False)
    assert np.array_equal(truth.photo_ids, nearest("l2"))
    assert "5 came with each query, 6 are asked for" in truth.warnings[0]
    again = truth_of(store, least=6)
    assert again.cached and np.array_equal(again.scores, truth.scores) and again.warnings == truth.warnings
    assert not truth_of(store, queries=8, least=6).cached


def test_a_truth_of_other_photos_is_computed_again(tmp_path):
    store = store_of(tmp_path / "s", nearest("l2"))
    gone = mark_removed(store, np.unique((nearest("l2", 1)[:, 0] - 5) // 2))
    truth = truth_of(gone)
    assert (truth.source, truth.cached) == ("computed", False)
    assert not np.isin(truth.photo_ids, nearest("l2", 1)).any()
    assert "removed since" in truth.warnings[0]
    other = truth_of(mark_removed(store, [0]))
    assert not other.cached and not np.array_equal(other.photo_ids, truth.photo_ids)
    assert truth_of(mark_removed(store, [])).source == "imported"
    with pytest.raises(InputError, match="every photo was removed"):
        truth_of(mark_removed(store, np.arange(ROWS)))


def test_more_neighbours_than_photos(tmp_path):
    store = mark_removed(store_of(tmp_path / "s", nearest("l2")), np.arange(4, ROWS))
    assert sorted(truth_of(store, least=100).photo_ids[0].tolist()) == [5, 7, 9, 11]


def test_bench_asks_the_imported_queries_and_leaves_nothing_out(tmp_path):
    store = store_of(tmp_path / "s", nearest("l2"))
    index = index_of(store)
    report = run_bench(index, BenchSpec(**QUICK))
    assert (report.queries, report.query_source, report.truth_source) == (QUERIES, "imported", "imported")
    assert (report.truth_agrees, report.warnings) == (1.0, ())
    assert report.asked == "40 that were imported, with their neighbours"
    document = report.to_dict()
    assert document["truth_source"] == "imported" and document["spec"]["held_out"] is None
    _, queries = vectors()
    (point,) = [p for p in report.points if (p.setting.probes, p.setting.rerank) == (4, 50)]
    found = index.search(queries, SearchSpec(k=10, probes=4, rerank=50)).photo_ids
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), nearest("l2", 10).tolist(), strict=True)]
    assert point.recall["10"] == pytest.approx(np.mean(hits), abs=1e-9)
    assert point.recall["10"] < 1  # or this test could not fail
    (exact,) = [p for p in report.points if p.setting.kind == "exact"]
    assert exact.recall == {"1": 1.0, "10": 1.0, "100": 1.0}
    assert run_bench(index, BenchSpec(queries=6, **QUICK)).queries == 6


def test_bench_holds_photos_out_where_that_is_asked_for_or_the_metric_is_another(tmp_path):
    store = store_of(tmp_path / "s", nearest("l2"))
    held_out = run_bench(index_of(store), BenchSpec(own_queries=True, queries=25, **QUICK))
    assert (held_out.queries, held_out.query_source, held_out.truth_agrees) == (25, "held out", None)
    assert held_out.asked == "25 photos held out, seed 0"
    assert held_out.to_dict()["spec"]["held_out"] == "leave-one-out"
    assert run_bench(index_of(store, "cosine"), BenchSpec(**QUICK)).query_source == "held out"


def test_bench_of_few_given_neighbours_says_nothing_of_recall_at_100(tmp_path):
    index = index_of(store_of(tmp_path / "s", nearest("l2", 20)))
    report = run_bench(index, BenchSpec(**QUICK))
    assert report.truth_source == "imported" and report.truth_k == 20
    assert all(set(point.recall) == {"1", "10"} and point.rerank_at_100 is None for point in report.points)
    deep = run_bench(index, BenchSpec(k=30, **QUICK))
    assert deep.truth_source == "computed" and len(deep.warnings) == 1
    assert all(set(point.recall) == {"1", "10", "30", "100"} for point in deep.points)


def test_queries_up_to_the_most(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.jobs.bench.MOST_QUERIES", 9)
    assert run_bench(index_of(store_of(tmp_path / "s", nearest("l2"))), BenchSpec(**QUICK)).queries == 9


def test_the_sample_is_spread_over_all_queries(tmp_path):
    """Only the last queries' neighbours are wrong."""
    neighbors = nearest("l2")
    neighbors[-10:] = neighbors[:10]
    assert len(neighbors) > module.CHECKED
    assert truth_of(store_of(tmp_path / "s", neighbors)).warnings
