"""What people judged different never comes back, in pairs or in groups, whatever identical photos say."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs import identical
from engine.jobs.copy_metrics import FoundPairs, score_pairs
from engine.jobs.copy_truth import CopyTruth
from engine.jobs.decisions import Decisions
from engine.jobs.dedup import DedupSpec, Duplicates, find_duplicates
from engine.jobs.dedup_groups import Grouping, grouped
from engine.jobs.identical import LARGE_CLASS
from engine.jobs.keep import choose_kept
from engine.jobs.pair_scores import PairScores
from engine.jobs.parted import parted
from tests.builders import CPU, clustered, make_store
from tests.jobs.found import duplicates

Scored = dict[tuple[int, int], float]
CLASSES, APART = 5, 10  # class c holds photos c, c + 10, c + 20 and so on
entries = st.tuples(
    st.sampled_from(["different", "all-different"]),
    st.lists(
        st.builds(lambda c, i: c + APART * i, st.integers(0, CLASSES - 1), st.integers(0, 5)),
        min_size=2, max_size=7, unique=True,
    ),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small_large_classes() -> Iterator[None]:
    """Classes of more than three are large here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identical, "LARGE_CLASS", 3)
        yield


def told(judged: list[tuple[str, list[int]]]) -> Decisions:
    return Decisions.of([{"verdict": verdict, "photo_ids": photos} for verdict, photos in judged])


def found_of(near: Scored, members: list[list[int]], decisions: Decisions, grouping: Grouping) -> Duplicates:
    copies = np.array([(p, one[0]) for one in members for p in one[1:]], np.int64).reshape(-1, 2)
    fields = grouped(
        np.array(list(near), np.int64).reshape(-1, 2), np.array(list(near.values()), np.float32),
        copies[np.argsort(copies[:, 0])], lambda pairs, _: np.zeros(len(pairs), np.bool_), grouping, decisions,
    )  # fmt: skip
    return parted(replace(duplicates([]), **fields), decisions)


def whole(near: Scored, members: list[list[int]]) -> Scored:
    """Every pair that follows."""
    every: Scored = {pair: 1.0 for one in members for pair in combinations(one, 2)}
    for (a, b), score in near.items():
        every |= {(min(x, y), max(x, y)): score for x in members[a] for y in members[b]}
    return every


@given(
    near=st.dictionaries(
        st.sampled_from(list(combinations(range(CLASSES), 2))), st.sampled_from([0.5, 0.75, 0.875]), max_size=8
    ),
    sizes=st.lists(st.integers(1, 6), min_size=CLASSES, max_size=CLASSES),
    judged=st.lists(entries, max_size=6),
    grouping=st.sampled_from(["medoid", "complete", "components"]),
)
def test_random_verdicts_about_random_classes(
    near: Scored, sizes: list[int], judged: list[tuple[str, list[int]]], grouping: Grouping
) -> None:
    members = [[c + APART * i for i in range(size)] for c, size in enumerate(sizes)]
    decisions, every = told(judged), whole(near, members)
    different = set(map(tuple, decisions.different.tolist()))
    left = {pair: score for pair, score in every.items() if pair not in different}
    found = found_of(near, members, decisions, grouping)

    pairs = dict(zip(map(tuple, found.pairs.tolist()), found.scores.tolist(), strict=True))
    assert len(pairs) == len(found.pairs) and pairs.items() <= left.items()
    assert found.pairs.tolist() == sorted(found.pairs.tolist())
    assert {photo for pair in pairs for photo in pair} == {photo for pair in left for photo in pair}
    if max(sizes) <= 3:
        assert pairs == left
    assert set(map(tuple, found.judged.tolist())) == different & every.keys()

    scores = PairScores(found)
    for (a, b), score in left.items():
        assert scores.of(np.array([a]), np.array([b])).tolist() == [score]
    for answer in (found, choose_kept(found, None, "first")):  # type: ignore[arg-type]
        photos = [photo for group in answer.groups for photo in group.photo_ids]
        assert len(photos) == len(set(photos)) and set(photos) <= {photo for pair in left for photo in pair}
        for group in answer.groups:
            inside = set(combinations(group.photo_ids, 2))
            assert not inside & different
            head = group.representative
            if grouping != "components" or different & every.keys():
                mine = [left.get((min(head, p), max(head, p))) for p in group.photo_ids if p != head]
                assert grouping == "components" or None not in mine
                assert grouping != "medoid" or group.min_score == min(score for score in mine if score)
            if grouping == "complete":
                assert inside <= left.keys()
            assert (group.kind == "exact") == (len({photo % APART for photo in group.photo_ids}) == 1)


def test_a_verdict_about_the_lowest_is_about_no_other_of_its_class() -> None:
    """And one about another of the class counts as much."""
    near, members = {(0, 1): 0.75}, [[0, 10, 20], [1]]
    for judged in (0, 10):
        found = found_of(near, members, told([("different", [1, judged])]), "medoid")
        pairs = {tuple(pair) for pair in found.pairs.tolist()}
        assert pairs == {(0, 10), (0, 20), (10, 20), *((min(1, p), max(1, p)) for p in {0, 10, 20} - {judged})}
        assert [one.photo_ids for one in found.groups] == [(0, 10, 20)]  # 1 is different from one of them


def test_of_a_large_class_whoever_is_left_is_in_the_pairs() -> None:
    members = [list(range(0, APART * 6, APART))]
    found = found_of({}, members, told([("different", members[0][:4])]), "medoid")
    assert {tuple(pair) for pair in found.pairs.tolist()} == {(0, 40), (0, 50), (10, 20), (10, 30)}
    assert [group.photo_ids for group in found.groups] == [(0, 40, 50), (10, 20, 30)]


def test_a_planted_pair_that_was_judged_is_not_found() -> None:
    truth = CopyTruth(kinds=("exact",), pairs=np.array([[0, 10]]), photos=np.array([0, 10]), originals=np.array([0, 0]))
    copies = np.array([[10, 0]])
    none = FoundPairs(pairs=np.empty((0, 2), np.int64), scores=np.empty(0), copies=copies)
    assert score_pairs(none, truth).recall == 1
    assert score_pairs(replace(none, judged=np.array([[0, 10]])), truth).recall == 0


@pytest.mark.parametrize("method", ["index", "exhaustive"])
def test_of_a_store_with_a_large_class_and_a_run_that_goes_on(
    tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identical, "LARGE_CLASS", LARGE_CLASS)
    rows = clustered(400, 16, seed=1).astype(np.float32)
    rows[100:150] = rows[100]
    rows[200:203] = rows[100] * np.float32(1.001) + np.float32(0.001)
    store = make_store(tmp_path / "store", {"x": rows}, np.arange(400))
    index = Index.open(build_index(store, IndexSpec(layer="x", lists=4), device=CPU).path, device=CPU)
    judged = [
        ("different", [100, 120, 121]), ("different", [130, 131]), ("all-different", [140, 141, 142]),
        ("different", [201, 100, 101]), ("different", [149, 200, 201, 202]), ("different", [0, 399]),
    ]  # fmt: skip
    decisions = told(judged)
    spec = DedupSpec(threshold=0.999, method=method, decisions=decisions)
    found = find_duplicates(index, spec, unfinished=tmp_path / "part")
    again = find_duplicates(index, spec, unfinished=tmp_path / "part")
    assert again.resumed > 0 and again.groups == found.groups and again.pairs.tobytes() == found.pairs.tobytes()
    different = set(map(tuple, decisions.different.tolist()))
    pairs = set(map(tuple, found.pairs.tolist()))
    assert not pairs & different and len(found.judged) == len(different) - 1
    grouped_photos = {photo for group in found.groups for photo in group.photo_ids}
    assert set(range(100, 150)) <= {photo for pair in pairs for photo in pair}
    assert len(grouped_photos & {*range(100, 150), 200, 201, 202}) >= 50
    for group in found.groups:
        assert not set(combinations(group.photo_ids, 2)) & different
    plain = find_duplicates(index, replace(spec, decisions=None))
    assert plain.groups[0].photo_ids == (*range(100, 150), 200, 201, 202)
