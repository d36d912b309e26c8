"""The threshold from the data: the model of unrelated photos, valleys, and what is said where neither is known."""

import numpy as np
import pytest

from engine.jobs.dedup_nearest import NEIGHBORS, NearestScores
from engine.jobs.dedup_threshold import (
    FALSE_PAIRS,
    ThresholdChoice,
    choose,
    expected_pairs,
    false_pair_floor,
    refine,
    usable,
    valley,
)


def points(n: int, dim: int) -> np.ndarray:
    """Scores (n, n) of points spread evenly over a patch of a sphere, best first, the last one's own."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(-0.3, 0.3, (n, dim)), np.ones((n, 1))], axis=1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    return -np.sort(-scores, axis=1)


def nearest(scores: np.ndarray) -> NearestScores:
    return NearestScores(scores=scores[:, :NEIGHBORS], pairs=np.empty((0, 2), np.int64), known=np.empty(0, np.float32))


@pytest.mark.parametrize("dim", [4, 8])
def test_as_many_unrelated_pairs_are_expected_as_there_are(dim: int) -> None:
    scores = points(2000, dim)
    for rate in (0.1, 0.03):
        threshold = false_pair_floor(scores[:, :NEIGHBORS], rate)
        there = (scores >= threshold).sum() / 2 / len(scores)
        assert rate / 2 < there < rate * 2
        assert expected_pairs(scores[:, :NEIGHBORS], threshold) == pytest.approx(rate, rel=0.01)
    assert false_pair_floor(scores[:, :NEIGHBORS], 0.01) > false_pair_floor(scores[:, :NEIGHBORS], 0.1)


def test_the_nearest_four_may_be_copies_and_change_little() -> None:
    scores = points(2000, 4)[:, :NEIGHBORS]
    with_copies = np.concatenate([np.full((2000, 2), 0.9999), scores[:, :-2]], axis=1)
    assert false_pair_floor(with_copies, 0.01) == pytest.approx(false_pair_floor(scores, 0.01), abs=3e-3)


def test_a_valley_is_found_where_it_is_and_nowhere_else() -> None:
    rng = np.random.default_rng(1)
    low, high = rng.uniform(0.9, 0.928, 800), rng.uniform(0.932, 0.97, 700)
    assert valley(np.concatenate([low, high]), 0.9, 0.95) == pytest.approx(0.93, abs=0.002)
    assert valley(rng.uniform(0.9, 0.97, 1500), 0.9, 0.95) is None
    assert valley(np.concatenate([low, high]), 0.9, 0.92) is None  # it lies above
    assert valley(low, 0.9, 0.95) is None  # nothing on the other side
    assert valley(np.concatenate([low[:20], high[:20]]), 0.9, 0.95) is None  # too few to say
    assert valley(np.empty(0), 0.9, 0.95) is None


def test_what_was_given_holds() -> None:
    choice = choose(nearest(points(500, 4)), 0.95, given=0.7, rate=None)
    assert (choice.threshold, choice.how, choice.sampled) == (0.7, "given", 500)
    assert sum(choice.counts) == 500 and len(choice.edges) == len(choice.counts) + 1
    assert refine(choice, nearest(points(500, 4)), np.empty(0)) == choice


@pytest.mark.parametrize(
    ("how", "threshold", "copies"),
    [
        ("given", 0.8, 0.95), ("given", 0.97, 0.97), ("false-pairs", 0.9, 0.95), ("valley", 0.93, 0.93),
        ("floor", 0.96, 0.96),
    ],
)  # fmt: skip
def test_who_asks_for_less_than_copies_gets_what_is_merely_alike_too(how: str, threshold: float, copies: float) -> None:
    choice = ThresholdChoice(threshold=threshold, how=how, reason="", default=0.95, false_pairs=0.01)
    assert choice.copies == copies


def test_a_rate_gives_its_threshold() -> None:
    data = nearest(points(500, 4))
    choice = choose(data, 0.95, given=None, rate=0.01)
    assert choice.how == "false-pairs" and choice.false_pairs == 0.01
    assert choice.threshold == pytest.approx(false_pair_floor(data.scores, 0.01))


def test_data_that_lie_close_together_raise_the_threshold() -> None:
    choice = choose(nearest(sparse() + 0.41), 0.95, given=None, rate=None)
    assert choice.how == "floor" and 0.95 < choice.threshold < 1
    assert choice.expected == pytest.approx(FALSE_PAIRS, rel=0.02)


def sparse(n: int = 1000) -> np.ndarray:
    """Neighbours that score a little above 0.5, and fewer and fewer up to 0.7."""
    rng = np.random.default_rng(0)
    return -np.sort(-(0.7 - 0.2 * rng.random((n, NEIGHBORS)) ** 0.05), axis=1)


def test_a_valley_or_else_the_default() -> None:
    data = nearest(sparse())
    choice = choose(data, 0.95, given=None, rate=None)
    assert choice.how == "valley" and choice.threshold == pytest.approx(0.9)
    assert choice.floor is not None and choice.floor < 0.9
    rng = np.random.default_rng(1)
    best = np.concatenate([rng.uniform(0.9, 0.928, 800), rng.uniform(0.932, 0.97, 700)])
    found = refine(choice, data, best)
    assert found.how == "valley" and found.knee == found.threshold == pytest.approx(0.93, abs=0.002)
    none = refine(choice, data, np.empty(0))
    assert (none.how, none.threshold, none.knee) == ("default", 0.95, None) and none.reason


def test_few_photos_and_nothing_but_copies_leave_the_default() -> None:
    copies = np.full((1000, NEIGHBORS), 0.99)
    for scores in (sparse(50), copies, np.full((1000, NEIGHBORS), -np.inf), np.empty((0, NEIGHBORS))):
        choice = choose(nearest(scores), 0.95, given=None, rate=None)
        assert (choice.threshold, choice.how, choice.floor) == (0.95, "default", None)
        assert "too few" in choice.reason
        assert choice.document()["counts"] == choice.counts
    assert len(usable(copies, 0.95)) == 0
