"""Evaluation of planted relevance: what must be better than what, metrics anew by hand, what is left out, the files."""

import json

import numpy as np
import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.jobs.evaluate import EvaluateReport, EvaluateSpec, choose_queries, run_evaluate, write_evaluation
from engine.jobs.evaluate_plot import draw_relevance
from engine.jobs.evaluate_ways import Layer, Ranker, Way, layer_names, open_layers
from engine.jobs.relevance import RelevanceSpec, open_relevance
from engine.store.change import remove
from engine.store.store import Store
from kernels import load
from tests.builders import CPU
from tests.jobs.annotated import planted


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = planted(tmp_path_factory.mktemp("evaluate") / "store")
    for layer in "xy":
        build_index(store, IndexSpec(layer=layer, lists=16), device=CPU)
    return store


SPEC = EvaluateSpec(queries=150, depth=20, repeats=1, resamples=200, probes=(1, 16))


@pytest.fixture(scope="module")
def report(store: Store) -> EvaluateReport:
    return run_evaluate(store, ["x", "y", "x+y"], SPEC, device=CPU)


def value(report: EvaluateReport, layer: str, kind: str, probes: int | None = None, metric: str = "map") -> float:
    (point,) = [
        p for p in report.points if (p.way.layer, p.way.kind) == (layer, kind) and p.way.probes in (None, probes)
    ]
    return point.metrics[metric].mean


def test_exact_search_is_far_better_than_chance_and_all_lists_are_as_good(report: EvaluateReport) -> None:
    assert [p.way.kind for p in report.points if p.way.kind != "index"] == ["random", "exact", "exact", "exact"]
    for metric in ("map", "map_found", "precision", "recall", "ndcg", "r_precision"):
        assert value(report, "x", "exact", metric=metric) > 1.5 * value(report, "", "random", metric=metric)
    assert value(report, "x", "index", 16) == pytest.approx(value(report, "x", "exact"), abs=0.01)
    few = next(p for p in report.points if p.way.layer == "x" and p.way.probes == 1)
    assert few.recall is not None
    assert few.recall["10"] < 0.999
    (best,) = [p for p in report.points if p.way.layer == "x" and p.way.probes == 16]
    assert best.recall is not None
    assert best.recall["10"] > 0.95


def test_the_clearer_layer_is_better_and_the_difference_is_paired(report: EvaluateReport) -> None:
    points = {(p.way.layer, p.way.kind): p for p in report.points if p.way.kind != "index"}
    worse = points["y", "exact"].minus_first
    assert worse is not None
    assert worse["map"].high < 0
    first = points["x", "exact"]
    assert (first.minus_first, first.minus_exact) == (None, None)
    chance = points["", "random"].minus_exact
    assert chance is not None
    assert chance["map"].mean == pytest.approx(points["", "random"].metrics["map"].mean - first.metrics["map"].mean)


def test_metrics_are_those_of_rankings_by_hand(store: Store, report: EvaluateReport) -> None:
    """Cosines by NumPy, relevance by sets of tags: nothing of the code that is tested but which photos were asked."""
    relevance = open_relevance(store, SPEC.relevance)
    queries = choose_queries(store, relevance, SPEC).judged.rows
    unit = store.x / np.linalg.norm(store.x, axis=1, keepdims=True)
    tags = relevance.relation.pairs  # held against sets in test_relevance.py
    precision, averages = [], []
    for query in queries.tolist():
        order = np.argsort(-(unit @ unit[query]), kind="stable")
        order = order[order != query]
        grades = tags(np.full(len(order), query), order)
        hits = grades[:20] > 0
        precision.append(hits[:10].mean())
        total = sum(hits[: i + 1].mean() for i in np.flatnonzero(hits))
        averages.append(total / min(20, (grades > 0).sum()))
    assert value(report, "x", "exact", metric="precision") == pytest.approx(np.mean(precision), abs=1e-3)
    assert value(report, "x", "exact") == pytest.approx(np.mean(averages), abs=1e-3)


def test_queries_have_something_relevant_and_the_others_are_counted(store: Store) -> None:
    relevance = open_relevance(store, RelevanceSpec(source="tags"))
    few = choose_queries(store, relevance, SPEC)
    assert len(np.unique(few.judged.rows)) == 150
    assert (few.judged.relevant > 0).all()
    every = choose_queries(store, relevance, EvaluateSpec(queries=5000))
    unlabelled = int((~relevance.relation.known).sum())
    assert every.unlabelled == unlabelled > 50
    assert len(every.judged.rows) + every.lonely + unlabelled == len(store)
    assert every.judged.rows[:150].tolist() == few.judged.rows.tolist()
    assert 0 < few.unlabelled < 50


def test_the_same_owners_photos_are_in_no_ranking_and_rankings_stay_full(store: Store) -> None:
    spec = SPEC.model_copy(update={"relevance": RelevanceSpec(source="tags", exclude_same=("owner",))})
    relevance = open_relevance(store, spec.relevance)
    judged = choose_queries(store, relevance, spec).judged
    owner = np.arange(len(store)) // 10
    for layer in [None, *open_layers(store, ["x", "x+y"], CPU, weights=None, index_name=None)]:
        ways = [Way(kind="random")] if layer is None else layer.ways(20, (4,), None)
        for way in ways:
            rows, scores = Ranker(way=way, layer=layer, relevance=relevance, judged=judged, depth=20).rank()
            assert (rows >= 0).all(), way
            assert not (owner[rows] == owner[judged.rows][:, None]).any(), way
            assert all(len(set(row)) == 20 for row in rows.tolist())
            assert (np.diff(scores, axis=1) <= 0).all()
    exact = Way(kind="exact", layer="x")
    (layer,) = open_layers(store, ["x"], CPU, weights=None, index_name=None)
    rows, _ = Ranker(way=exact, layer=layer, relevance=relevance, judged=judged, depth=20).rank()
    unit = store.x / np.linalg.norm(store.x, axis=1, keepdims=True)
    for query, row in zip(judged.rows.tolist(), rows.tolist(), strict=True):
        scores = np.where(owner == owner[query], -np.inf, unit @ unit[query])
        assert set(row) == set(np.argsort(-scores)[:20].tolist())


def test_an_owner_of_nearly_all_photos_leaves_what_is_left(tmp_path) -> None:
    store = planted(tmp_path / "store", rows=120, clusters=3)
    spec = EvaluateSpec(
        queries=20, depth=50, repeats=1, relevance=RelevanceSpec(source="tags", exclude_same=("owner",))
    )
    relevance = open_relevance(store, spec.relevance)
    mine = np.arange(120) >= 100  # all but 20 photos are of one owner
    relevance.same[0].owner[:] = mine  # type: ignore[attr-defined]
    judged = choose_queries(store, relevance, spec).judged
    (layer,) = open_layers(store, ["x"], CPU, weights=None, index_name=None)
    rows, _ = Ranker(way=Way(kind="exact", layer="x"), layer=layer, relevance=relevance, judged=judged, depth=50).rank()
    others = np.where(mine[judged.rows], 100, 20)
    assert (rows >= 0).sum(axis=1).tolist() == np.minimum(others, 50).tolist()
    assert not (mine[rows] == mine[judged.rows][:, None])[rows >= 0].any()


def test_only_labelled_photos_are_ranked_where_that_is_asked(store: Store) -> None:
    spec = SPEC.model_copy(update={"relevance": RelevanceSpec(source="tags", candidates="labelled")})
    relevance = open_relevance(store, spec.relevance)
    judged = choose_queries(store, relevance, spec).judged
    (layer,) = open_layers(store, ["x"], CPU, weights=None, index_name=None)
    for way in [*layer.ways(20, (2,), None), Way(kind="random")]:
        ranker = Ranker(
            way=way, layer=None if way.kind == "random" else layer, relevance=relevance, judged=judged, depth=20
        )
        assert relevance.relation.known[ranker.rank()[0]].all()


def test_removed_photos_are_neither_queries_nor_answers(tmp_path) -> None:
    store = planted(tmp_path / "store", rows=200, clusters=4)
    remove(store.path, store.photo_ids[:100])
    report = run_evaluate(Store.open(store.path), ["x"], SPEC, device=CPU)
    assert report.queries["queries"] <= 100
    assert report.relevance["candidates"] == 100
    assert [p.way.kind for p in report.points] == ["random", "exact"]
    assert report.layers[0]["indexed"] is False


def test_the_same_seed_gives_the_same_figures(store: Store, report: EvaluateReport) -> None:
    again = run_evaluate(store, ["x", "y", "x+y"], SPEC, device=CPU)
    assert [p.metrics["map"].mean for p in again.points] == [p.metrics["map"].mean for p in report.points]
    other = run_evaluate(store, ["x"], SPEC.model_copy(update={"seed": 1}), device=CPU)
    assert value(other, "", "random") != value(report, "", "random")


def test_layers_are_named_and_those_that_are_not_there_too(store: Store) -> None:
    assert layer_names(store, "all") == ["x", "y", "x+y"]
    assert layer_names(store, "y, x+y,y") == ["y", "x+y"]
    with pytest.raises(InputError, match="layer 'z': this store has x, y"):
        layer_names(store, "x+z")
    with pytest.raises(InputError, match="Leave --name out"):
        open_layers(store, ["x", "y"], CPU, weights=None, index_name="x")


def test_points_of_an_index_are_its_own_and_some_about_it(store: Store) -> None:
    (layer,) = open_layers(store, ["x"], CPU, weights=None, index_name=None)
    ways = [way for way in layer.ways(20, None, None) if way.kind == "index"]
    assert len([way for way in ways if way.default]) == 1
    assert len({(way.probes, way.rerank) for way in ways}) == len(ways) > 2
    given = layer.ways(20, (3, 99), (5, 40))
    assert {(way.probes, way.rerank) for way in given if way.kind == "index" and not way.default} == {
        (3, 20), (3, 40), (16, 20), (16, 40),
    } - {(way.probes, way.rerank) for way in given if way.default}  # fmt: skip


def test_tuned_points_are_taken_where_there_are_some(tmp_path) -> None:
    from engine.jobs.tune import TuneSpec, run_tune

    store = planted(tmp_path / "store")
    build_index(store, IndexSpec(layer="x", lists=16), device=CPU)
    run_tune(store, "x", TuneSpec(recall=0.8, queries=50, rounds=1), device=CPU)
    (layer,) = open_layers(store, ["x"], CPU, weights=None, index_name=None)
    assert isinstance(layer, Layer)
    ways = [way for way in layer.ways(20, None, None) if way.kind == "index"]
    assert ways
    assert len([way for way in ways if way.default]) == 1


def test_nothing_relevant_is_said(tmp_path) -> None:
    store = planted(tmp_path / "store", rows=60)
    spec = EvaluateSpec(relevance=RelevanceSpec(source="tags", min_shared=20))
    with pytest.raises(InputError, match=r"nothing is relevant to any photo by tags\. Choose another"):
        run_evaluate(store, ["x"], spec, device=CPU)
    with pytest.raises(ValueError, match="--depth 5 is how far down"):
        EvaluateSpec(depth=5)


def test_what_is_written(report: EvaluateReport, tmp_path) -> None:
    files = write_evaluation(report, tmp_path / "out")
    document = json.loads(files["evaluate.json"].read_text())
    assert (document["format"], document["version"]) == ("mirsearch-evaluate", 1)
    assert document["spec"]["relevance"]["source"] == "tags"
    point = document["points"][2]
    assert set(point) == {
        "kind", "layer", "probes", "rerank", "default", "metrics", "minus_exact", "minus_first", "recall", "qps",
    }  # fmt: skip
    assert point["metrics"]["map"]["low"] <= point["metrics"]["map"]["mean"] <= point["metrics"]["map"]["high"]
    assert files["relevance.png"].read_bytes()[:4] == b"\x89PNG"
    assert draw_relevance(document)["svg"] == files["relevance.svg"].read_bytes()
    assert load(CPU) is not None
