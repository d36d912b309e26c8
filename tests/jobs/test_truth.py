"""Recall against answers worked out by hand, and the truth that is kept beside a store."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError
from engine.jobs import truth as module
from engine.jobs.truth import Truth, TruthSpec, choose_rows, ground_truth, recall, recall_of_answers
from engine.store.store import Store
from engine.store.writer import StoreWriter
from kernels import Device

CPU = Device(kind="cpu")
NONE = -np.inf


def scores(*rows: list[float]):
    return np.array(rows, np.float32)


def make_store(path: Path, rows: np.ndarray, first_id: int = 100) -> Store:
    with StoreWriter(path, {"fc8": rows.shape[1]}) as writer:
        if len(rows):
            writer.write(writer.reserve(len(rows)), np.arange(first_id, first_id + len(rows)), {"fc8": rows})
        writer.finish(["test"])
    return Store.open(path)


def random_store(path: Path, n: int, seed: int = 0) -> Store:
    return make_store(path, np.random.default_rng(seed).standard_normal((n, 12)).astype(np.float32))


def test_recall_counts_answers_as_good_as_the_kth():
    true = scores([0.9, 0.8, 0.7, 0.6])
    assert recall(scores([0.9, 0.8, 0.7, 0.6]), true, 4) == 1.0
    assert recall(scores([0.9, 0.7, 0.5, 0.4]), true, 4) == 0.5
    assert recall(scores([0.9, 0.7, 0.5, 0.4]), true, 2) == 0.5
    assert recall(scores([0.8, 0.7, 0.5, 0.4]), true, 1) == 0.0


def test_recall_is_fair_to_ties_and_never_more_than_one():
    true = scores([0.9, 0.5, 0.5])  # which of four photos at 0.5 the truth names is chance
    assert recall(scores([0.5, 0.5, 0.5]), true, 3) == 1.0
    assert recall(scores([0.9, 0.5, 0.4]), true, 3) == pytest.approx(2 / 3)
    assert recall(scores([0.5, 0.5, 0.5]), true, 1) == 0.0
    assert recall(scores([0.7, 0.7, 0.7]), scores([0.7, NONE, NONE]), 3) == 1.0


def test_recall_tolerates_rounding_and_no_more():
    for sign in (1, -1):  # squared distances are negative scores
        true = scores([sign * 1000.0])
        assert recall(true * (1 - sign * 5e-7), true, 1) == 1.0
        assert recall(true - 0.01, true, 1) == 0.0


def test_recall_of_few_neighbours_and_of_none():
    assert recall(scores([0.9, NONE, NONE]), scores([0.9, 0.8, NONE]), 3) == 0.5
    assert (
        recall(scores([NONE, NONE], [0.9, 0.8]), scores([NONE, NONE], [0.9, 0.9]), 2) == 0.5
    )  # the first asks nothing
    assert recall(scores([NONE]), scores([NONE]), 10) == 1.0


def test_recall_of_infinite_scores_is_a_number():
    assert recall(scores([np.inf, 1.0]), scores([np.inf, np.inf]), 2) == 0.5


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_truth_is_leave_one_out_and_exact(tmp_path, metric):
    store = random_store(tmp_path / "s", 60)
    truth = ground_truth(store, TruthSpec(layer="fc8", metric=metric, queries=7, k=100, seed=3), device=CPU)
    assert truth.scores.shape == (7, 59) and len(set(truth.query_ids)) == 7
    rows = store.fc8.astype(np.float64)
    for query_id, ids, found in zip(truth.query_ids, truth.photo_ids, truth.scores, strict=True):
        query = rows[query_id - 100]
        lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
        every = {"cosine": rows @ query / lengths, "ip": rows @ query, "l2": -((rows - query) ** 2).sum(axis=1)}[metric]
        every[query_id - 100] = -np.inf
        assert ids.tolist() == (np.argsort(-every)[:59] + 100).tolist()
        np.testing.assert_allclose(found, np.sort(every)[::-1][:59], rtol=1e-5, atol=1e-6)


def test_queries_are_distinct_seeded_and_never_more_than_rows():
    assert sorted(choose_rows(5, 1000, 0)) == [0, 1, 2, 3, 4]
    assert len(set(choose_rows(1000, 100, 1))) == 100
    assert choose_rows(1000, 10, 1).tolist() == choose_rows(1000, 10, 1).tolist()
    assert choose_rows(1000, 10, 1).tolist() != choose_rows(1000, 10, 2).tolist()


SPEC = TruthSpec(layer="fc8", metric="cosine", queries=6, k=5, seed=1)


def kept_file(store: Store) -> Path:
    (file,) = (store.path / "truth").iterdir()
    return file


def same(one: Truth, other: Truth) -> bool:
    return all(
        np.array_equal(getattr(one, part), getattr(other, part)) for part in ("query_ids", "photo_ids", "scores")
    )


def test_truth_is_kept_and_used_again(tmp_path, monkeypatch):
    store = random_store(tmp_path / "s", 40)
    first = ground_truth(store, SPEC, device=CPU)
    monkeypatch.setattr(module, "exact_search", None)  # a second search would fail
    again = ground_truth(store, SPEC, device=CPU)
    assert (first.cached, again.cached) == (False, True) and same(first, again)
    assert not list(store.path.glob("truth/*.part"))


@pytest.mark.parametrize(
    "change", [{"metric": "l2"}, {"queries": 7}, {"k": 4}, {"seed": 2}]
)  # fmt: skip
def test_another_question_has_another_truth(tmp_path, change):
    store = random_store(tmp_path / "s", 40)
    ground_truth(store, SPEC, device=CPU)
    other = TruthSpec(**{"layer": "fc8", "metric": "cosine", "queries": 6, "k": 5, "seed": 1} | change)
    assert not ground_truth(store, other, device=CPU).cached
    assert ground_truth(store, SPEC, device=CPU).cached and ground_truth(store, other, device=CPU).cached


def test_truth_of_another_state_of_the_store_is_not_trusted(tmp_path):
    old, new = random_store(tmp_path / "old", 40), random_store(tmp_path / "new", 40, seed=9)
    ground_truth(old, SPEC, device=CPU)
    right = ground_truth(new, SPEC, device=CPU)
    kept_file(new).write_bytes(kept_file(old).read_bytes())  # same names, same shapes, other rows
    again = ground_truth(new, SPEC, device=CPU)
    assert not again.cached and same(right, again)
    assert ground_truth(new, SPEC, device=CPU).cached  # the wrong one was replaced


def test_damaged_truth_is_computed_again(tmp_path):
    store = random_store(tmp_path / "s", 40)
    right = ground_truth(store, SPEC, device=CPU)
    whole = kept_file(store).read_bytes()
    damaged = [whole[:cut] for cut in (0, 1, len(whole) // 2, len(whole) - 1)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in range(0, len(whole), 23)]
    for data in damaged:
        kept_file(store).write_bytes(data)
        again = ground_truth(store, SPEC, device=CPU)
        assert same(right, again)  # read or computed: a flip in a zip's unused fields hurts nothing


def test_one_wrong_score_in_a_whole_zip_is_noticed(tmp_path):
    store = random_store(tmp_path / "s", 40)
    right = ground_truth(store, SPEC, device=CPU)
    with np.load(kept_file(store), allow_pickle=False) as file:
        entries = dict(file)
    entries["scores"][2, 1] = 1.0
    np.savez(kept_file(store), **entries)
    again = ground_truth(store, SPEC, device=CPU)
    assert not again.cached and same(right, again)


def test_store_where_nothing_can_be_kept_still_has_a_truth(tmp_path):
    store = random_store(tmp_path / "s", 40)
    (store.path / "truth").write_bytes(b"in the way")
    assert not ground_truth(store, SPEC, device=CPU).cached
    assert (store.path / "truth").read_bytes() == b"in the way"


def test_one_photo_has_no_neighbour_and_an_empty_store_no_query(tmp_path):
    truth = ground_truth(random_store(tmp_path / "one", 1), SPEC, device=CPU)
    assert truth.photo_ids.tolist() == [[-1]] and truth.scores.tolist() == [[NONE]]
    with pytest.raises(InputError, match="empty"):
        ground_truth(random_store(tmp_path / "none", 0), SPEC, device=CPU)


def test_answers_are_scored_anew_and_repeats_count_once(tmp_path):
    store = random_store(tmp_path / "s", 40)
    truth = ground_truth(store, SPEC, device=CPU)
    right = truth.photo_ids
    assert recall_of_answers(store, truth, right, 5, device=CPU) == 1.0
    assert recall_of_answers(store, truth, right[:2], 5, device=CPU) == 1.0
    assert recall_of_answers(store, truth, right[:, ::-1], 1, device=CPU) == 0.0  # the fifth is not the first
    assert recall_of_answers(store, truth, np.repeat(right[:, :1], 5, axis=1), 5, device=CPU) == pytest.approx(0.2)
    own = np.where(np.arange(5) == 0, truth.query_ids[:, None], right)
    assert recall_of_answers(store, truth, own, 5, device=CPU) == pytest.approx(0.8)
    absent = np.where(np.arange(5) >= 3, -1, right)
    assert recall_of_answers(store, truth, absent, 5, device=CPU) == pytest.approx(0.6)


def test_copies_of_a_photo_are_worth_the_same(tmp_path):
    rows = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    rows[5:12] = rows[5]  # seven copies: each has six nearest, all at the same score
    store = make_store(tmp_path / "s", rows)
    truth = ground_truth(store, TruthSpec(layer="fc8", metric="l2", queries=20, k=3), device=CPU)
    at = np.flatnonzero(truth.query_ids == 105)
    one = Truth(**{name: getattr(truth, name)[at] for name in ("query_ids", "queries", "photo_ids", "scores")},
                spec=truth.spec, cached=False)  # fmt: skip
    assert one.scores.tolist() == [[0, 0, 0]]
    assert recall_of_answers(store, one, np.array([[111, 109, 110]]), 3, device=CPU) == 1.0
    assert recall_of_answers(store, one, np.array([[111, 109, 100]]), 3, device=CPU) == pytest.approx(2 / 3)
