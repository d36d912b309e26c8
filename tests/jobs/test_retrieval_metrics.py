"""The metrics beside trec_eval's own C code, and by hand where it has none; intervals beside what theory says."""

import numpy as np
import pytest
import pytrec_eval

from engine.jobs.retrieval_metrics import METRICS, Bootstrap, Gain, average_precision, per_query
from tests.builders import Array

Q, N, R, K = 60, 80, 50, 10


def collection(seed: int, share: float, depth: int = R):
    """Grades (q, n) of all photos to all queries, and rankings (q, depth) of distinct photos."""
    random = np.random.default_rng(seed)
    grades = random.integers(1, 4, (Q, N)) * (random.random((Q, N)) < share)
    grades[grades.sum(axis=1) == 0, 7] = 2
    order = np.argsort(random.random((Q, N)), axis=1)[:, :depth]
    return grades, order


def trec(grades: Array, order: Array, measures: set[str]) -> dict[str, Array]:
    """What trec_eval says (q,) by measure; scores are distinct, so that its order by document id decides nothing."""
    levels = {f"q{q}": {f"d{d}": int(grades[q, d]) for d in range(N)} for q in range(Q)}
    run = {f"q{q}": {f"d{d}": float(len(row) - i) for i, d in enumerate(row.tolist())} for q, row in enumerate(order)}
    said = pytrec_eval.RelevanceEvaluator(levels, measures).evaluate(run)
    return {name: np.array([said[f"q{q}"][name] for q in range(Q)]) for name in said["q0"]}


def ours(grades: Array, order: Array, gain: Gain = "linear") -> dict[str, Array]:
    return per_query(
        np.take_along_axis(grades, order, axis=1).astype(float), (grades > 0).sum(axis=1),
        -np.sort(-grades, axis=1).astype(float), K, gain,
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_metrics_are_those_of_trec_eval(share):
    grades, order = collection(int(share * 100), share)
    found, relevant = ours(grades, order), (grades > 0).sum(axis=1)
    said = trec(grades, order, {f"map_cut.{R}", f"P.{K}", f"recall.{K}", f"ndcg_cut.{K}", "Rprec"})
    # trec_eval divides by all that is relevant, however short the ranking.
    np.testing.assert_allclose(found["map"], said[f"map_cut_{R}"] * relevant / np.minimum(relevant, R), atol=1e-6)
    hits = (np.take_along_axis(grades, order, axis=1) > 0).sum(axis=1)
    np.testing.assert_allclose(found["map_found"], said[f"map_cut_{R}"] * relevant / np.maximum(hits, 1), atol=1e-6)
    for name, theirs in (("precision", f"P_{K}"), ("recall", f"recall_{K}"), ("ndcg", f"ndcg_cut_{K}")):
        np.testing.assert_allclose(found[name], said[theirs], atol=1e-6, err_msg=name)
    short = relevant <= R
    assert short.any() == (share < 0.9)
    np.testing.assert_allclose(found["r_precision"][short], said["Rprec"][short], atol=1e-6)
    assert set(found) == set(METRICS)


def test_exponential_gain_is_that_of_trec_eval_told_so():
    grades, order = collection(5, 0.3)
    said = trec(2**grades - 1, order, {f"ndcg_cut.{K}"})
    np.testing.assert_allclose(ours(grades, order, "exponential")["ndcg"], said[f"ndcg_cut_{K}"], atol=1e-6)
    assert np.abs(ours(grades, order)["ndcg"] - said[f"ndcg_cut_{K}"]).max() > 0.01


def test_the_two_definitions_of_average_precision_by_hand():
    hits = np.array([[True, False, True, False]])
    # P(1) = 1, P(3) = 2/3; found: 2. Of three relevant photos one was missed.
    assert average_precision(hits, np.array([2]))[0] == pytest.approx((1 + 2 / 3) / 2)
    found = per_query(hits.astype(float), np.array([3]), np.ones((1, 4)), 4)
    assert found["map_found"][0] == pytest.approx((1 + 2 / 3) / 2)
    assert found["map"][0] == pytest.approx((1 + 2 / 3) / 3)
    assert found["r_precision"][0] == pytest.approx(2 / 3)


def test_a_ranking_that_finds_nothing_is_worth_nothing_and_the_best_one_everything():
    grades, ideal = np.zeros((1, 20)), np.array([[3.0, 1, 1] + [0] * 17])
    assert {value[0] for value in per_query(grades, np.array([3]), ideal, 10).values()} == {0}
    best = per_query(ideal, np.array([3]), ideal, 10)
    assert {name: round(float(value[0]), 12) for name, value in best.items() if name != "precision"} == {
        "map": 1, "map_found": 1, "recall": 1, "ndcg": 1, "r_precision": 1,
    }  # fmt: skip


def test_intervals_are_as_wide_as_the_error_of_the_mean_and_the_same_for_a_seed():
    values = np.random.default_rng(1).normal(0.4, 0.2, 900)
    found = Bootstrap(900, resamples=4000, seed=2).intervals({"a": values, "b": values + 1})
    error = values.std() / np.sqrt(900)
    assert found["a"].mean == pytest.approx(values.mean())
    assert found["a"].high - found["a"].low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found["b"].low == pytest.approx(found["a"].low + 1)
    again = Bootstrap(900, resamples=4000, seed=2).intervals({"a": values})
    assert again["a"].low == pytest.approx(found["a"].low, rel=1e-12)
    other = Bootstrap(900, resamples=4000, seed=3).intervals({"a": values})["a"]
    assert other.low != pytest.approx(found["a"].low, rel=1e-9)


def test_differences_are_paired():
    random = np.random.default_rng(4)
    values = random.random(500)
    other = values - 0.01 + 0.001 * random.standard_normal(500)
    bootstrap = Bootstrap(500, seed=1)
    difference = bootstrap.differences({"a": values}, {"a": other})["a"]
    assert 0.0095 < difference.low <= difference.mean <= difference.high < 0.0105
    alone = bootstrap.intervals({"a": values})["a"]
    assert alone.high - alone.low > 20 * (difference.high - difference.low)


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    values = {"a": np.random.default_rng(0).random(50)}
    whole = Bootstrap(50, resamples=300, seed=5).intervals(values)
    monkeypatch.setattr("engine.jobs.retrieval_metrics.RESAMPLES_AT_ONCE", 350)
    assert Bootstrap(50, resamples=300, seed=5).intervals(values)["a"].high == pytest.approx(whole["a"].high)
