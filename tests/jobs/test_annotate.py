"""Tags by votes of neighbours: weights and scores by hand, planted tags found, evaluation anew by plain loops."""

import numpy as np
import pytest
from pydantic import ValidationError

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.queries import Questions, photo_questions
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.index.spec import IndexSpec
from engine.jobs.annotate import AnnotateSpec, Voter, annotate, distance_weights
from engine.jobs.annotate_score import HeldOut, score_annotation
from engine.store.change import remove
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, Array, make_store
from tests.jobs.annotated import annotate_store, planted


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    store = planted(tmp_path_factory.mktemp("annotate") / "store")
    build_index(store, IndexSpec(layer="x", lists=16), device=CPU)
    return Searcher.of_index(Index.open(store.path / "indices" / "x", device=CPU, store=store))


def test_weights_fall_from_the_first_to_the_last_and_equal_scores_weigh_the_same() -> None:
    scores = np.array([[0.9, 0.7, 0.5], [2, 2, 2], [-1, -3, -np.inf], [-np.inf] * 3, [5, -np.inf, -np.inf]], np.float32)
    weights: Array = distance_weights(scores)
    expected: Array = np.array([[2 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 1 / 3], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("votes", ["plain", "prior", "idf", "both"])
def test_scores_by_hand(tmp_path, votes) -> None:
    store = make_store(tmp_path / "store", {"x": np.eye(6, dtype=np.float32)})
    annotate_store(store, {"tags": [["sea", "sky"], ["sky"], ["sky", "boat"], ["boat"], ["sea"], None]})
    voter = Voter.of_store(store, votes, 0.05)
    rows, scores = np.array([[0, 1, 2, -1]]), np.array([[3, 2, 1, -np.inf]], np.float32)
    guesses = {guess.tag: guess for guess in voter.guesses(rows, scores, 9)[0]}
    # Weights 2/3, 1/3, 0; tagged photos 5; sky is of 3, sea of 2, boat of 2 but has no weight.
    expected = {"sky": (1.0, 3 / 5, np.log1p(5 / 3)), "sea": (2 / 3, 2 / 5, np.log1p(5 / 2))}
    assert set(guesses) == set(expected)
    for tag, (share, prior, idf) in expected.items():
        score = {"plain": share, "prior": share - prior, "idf": share * idf, "both": (share - prior) * idf}[votes]
        assert guesses[tag].score == pytest.approx(score, abs=1e-6)
        assert guesses[tag].share == pytest.approx(share, abs=1e-6)
    assert guesses["sky"].photos == 3
    assert len(voter.guesses(rows, scores, 1)[0]) == 1
    assert voter.guesses(np.array([[-1, -1]]), np.full((1, 2), -np.inf, np.float32), 5) == [[]]


def test_the_planted_tags_are_found_and_a_photo_never_votes_for_itself(searcher: Searcher) -> None:
    store = searcher.store
    ids = store.photo_ids[:60]
    found = list(annotate(searcher, [photo_questions(store, "x", ids)], AnnotateSpec(tags=3)))
    assert [at for _, at, _ in found] == list(range(60))
    named = [{guess.tag for guess in guesses} for _, _, guesses in found]
    assert np.mean([f"thing{i % 15}" in tags for i, tags in enumerate(named)]) > 0.9
    alone = make_store(store.path.parent / "alone", {"x": np.eye(4, dtype=np.float32)})
    annotate_store(alone, {"tags": [["a", "b"], ["a"], ["b"], None]})
    exact = Searcher.exact(alone, "x", alone.path / "indices" / "x", searcher.kernels)
    ((_, _, guesses),) = annotate(
        exact, [photo_questions(alone, "x", alone.photo_ids[[0]])], AnnotateSpec(votes="plain")
    )
    assert {guess.share for guess in guesses} == {0.5}
    vectors = Questions(data=np.asarray(store.x[:1]), file="v.npy")
    ((questions, at, guesses),) = annotate(searcher, [vectors], AnnotateSpec())
    assert (questions.source(at), len(guesses)) == ("v.npy[0]", 5)


def test_evaluation_anew_by_plain_loops(searcher: Searcher) -> None:
    spec, held_out = (
        AnnotateSpec(neighbours=20, tags=3, probes=16, rerank=1500),
        HeldOut(queries=100, min_photos=3, resamples=50),
    )
    score = score_annotation(searcher, spec, held_out)
    store = searcher.store
    voter = Voter.of_store(store, "prior", 0.05)
    own = [set(voter.tags.names[voter.tags.counts[[row]].indices]) for row in range(len(store))]
    order = np.random.default_rng(0).choice(len(store), len(store), replace=False)
    rows = [row for row in order.tolist() if own[row]][:100]
    unit = store.x / np.linalg.norm(store.x, axis=1, keepdims=True)
    tagged = np.array([bool(tags) for tags in own])
    frequency = {tag: sum(tag in tags for tags in own) for tag in voter.tags.names.tolist()}
    votes = []
    for row in rows:
        scores = np.where(tagged & (np.arange(len(store)) != row), unit @ unit[row], -np.inf)
        best = np.argsort(-scores)[:21]
        weights = (scores[best] - scores[best[-1]]) / (scores[best] - scores[best[-1]]).sum()
        share: dict[str, float] = {}
        for neighbour, weight in zip(best[:-1].tolist(), weights, strict=False):
            for tag in own[neighbour]:
                share[tag] = share.get(tag, 0) + weight
        votes.append({tag: value - frequency[tag] / tagged.sum() for tag, value in share.items()})
    precision = []
    for row, vote in zip(rows, votes, strict=True):
        top = sorted(vote, key=lambda tag: -vote[tag])[:3]
        precision.append(len(own[row] & set(top)) / 3)
    neighbours = score.methods[0]
    assert neighbours.name == "neighbours"
    assert neighbours.precision.mean == pytest.approx(np.mean(precision), abs=0.01)
    averages = []
    for tag in frequency:
        positives = {i for i, row in enumerate(rows) if tag in own[row]}
        if len(positives) >= 3:
            ranked = sorted((i for i in range(100) if tag in votes[i]), key=lambda i: -votes[i][tag])
            hits = np.array([i in positives for i in ranked])
            averages.append(sum(hits[: i + 1].mean() for i in np.flatnonzero(hits)) / len(positives))
    assert len(averages) == score.evaluated == len(score.by_tag)
    assert neighbours.mean_ap == pytest.approx(np.mean(averages), abs=0.01)


def test_neighbours_are_better_than_chance_and_than_what_is_frequent(searcher: Searcher) -> None:
    score = score_annotation(searcher, AnnotateSpec(tags=2), HeldOut(queries=200, resamples=200))
    methods = {method.name: method for method in score.methods}
    assert list(methods) == ["neighbours", "random photos", "most frequent tags"]
    best = methods["neighbours"]
    assert best.precision.low > 2 * methods["random photos"].precision.high
    assert best.recall.low > 2 * methods["most frequent tags"].recall.high
    assert score.difference["precision"].low > 0
    random_ap = methods["random photos"].mean_ap
    assert best.mean_ap is not None
    assert random_ap is not None
    assert best.mean_ap > 2 * random_ap
    assert methods["most frequent tags"].mean_ap is None
    thing = next(tag for tag in score.by_tag if tag.tag.startswith("thing"))
    assert thing.hits <= thing.given
    assert thing.precision == pytest.approx(thing.hits / thing.given, abs=1e-6)
    assert thing.recall == pytest.approx(thing.hits / thing.held_out, abs=1e-6)
    assert score.to_dict()["by_tag"][0]["tag"]


def test_the_same_owners_photos_may_be_kept_from_voting(tmp_path) -> None:
    """Where every owner has a tag that nobody else has, it is found among the owner's own photos alone."""
    store = make_store(tmp_path / "store", {"x": np.repeat(np.eye(20, 8, dtype=np.float32) + 0.1, 10, axis=0)})
    owners = [f"{i // 10}@N01" for i in range(200)]
    annotate_store(
        store, {"tags": [[f"own{i // 10}", "both" if i % 2 else "each"] for i in range(200)], "owner": owners}
    )
    searcher = Searcher.exact(store, "x", tmp_path / "none", load(CPU))
    spec = AnnotateSpec(neighbours=9, tags=1)
    everyone = score_annotation(searcher, spec, HeldOut(queries=50, min_photos=1, resamples=20))
    others = score_annotation(searcher, spec, HeldOut(queries=50, min_photos=1, resamples=20, exclude_same=("owner",)))
    found = {tag.tag: tag.hits for tag in others.by_tag if tag.tag.startswith("own")}
    assert sum(found.values()) == 0
    assert sum(tag.hits for tag in everyone.by_tag if tag.tag.startswith("own")) > 0


def test_what_cannot_be_is_said(searcher: Searcher, tmp_path) -> None:
    with pytest.raises(InputError, match="no tag is of 1,000 of the 10 held-out photos"):
        score_annotation(searcher, AnnotateSpec(), HeldOut(queries=10, min_photos=1000))
    with pytest.raises(ValidationError):
        AnnotateSpec(votes="many")
    store = annotate_store(
        make_store(tmp_path / "store", {"x": np.eye(3, dtype=np.float32)}), {"tags": [["a"], ["b"], []]}
    )
    with pytest.raises(InputError, match="no two photos have a tag in common"):
        Voter.of_store(store, "prior", 0.05)


def test_removed_photos_do_not_vote(tmp_path) -> None:
    store = make_store(tmp_path / "store", {"x": np.eye(4, dtype=np.float32)})
    annotate_store(store, {"tags": [["a"], ["a", "b"], ["b"], ["b"]]})
    remove(store.path, store.photo_ids[[1]])
    voter = Voter.of_store(Store.open(store.path), "plain", 0.05)
    assert dict(zip(voter.tags.names.tolist(), voter.frequency.tolist(), strict=True)) == {"a": 1, "b": 2}
    assert voter.tags.known.tolist() == [True, False, True, True]
