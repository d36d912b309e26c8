"""Photos that were judged different are in no group together, whatever brought them there."""

from dataclasses import replace
from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.decisions import Decisions
from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup, group_photos
from engine.jobs.identical import expand
from engine.jobs.pair_scores import PairScores
from engine.jobs.parted import parted
from tests.jobs.found import duplicates


def different(*pairs: tuple[int, ...]) -> Decisions:
    return Decisions.of([{"verdict": "all-different", "photo_ids": list(pair)} for pair in pairs])


def members(found: Duplicates) -> list[tuple[int, ...]]:
    return [group.photo_ids for group in found.groups]


def copies(*classes: tuple[int, ...]) -> Duplicates:
    pairs = np.array([[photo, one[0]] for one in classes for photo in one[1:]])
    none = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    every, scores = expand(*none, pairs)
    return replace(duplicates([]), pairs=every, scores=scores, copies=pairs, groups=group_photos(*none, pairs))


def test_without_decisions_nothing_changes() -> None:
    found = duplicates([(1, 2, 0.96), (1, 3, 0.97)])
    assert parted(found, Decisions()) is found
    assert parted(found, different((7, 8), (1, 9))).groups == found.groups


def test_identical_photos_are_parted() -> None:
    found = copies((1, 2, 3), (7, 8))
    assert members(parted(found, different((1, 2, 3)))) == [(7, 8)]
    assert members(parted(found, different((1, 3)))) == [(1, 2), (7, 8)]
    assert members(parted(found, different((1, 2), (1, 3)))) == [(2, 3), (7, 8)]


def test_photos_alike_through_a_third_are_parted() -> None:
    found = duplicates([(1, 5, 0.96), (2, 5, 0.97), (3, 5, 0.98), (2, 3, 0.99)])
    assert members(parted(found, different((1, 2)))) == [(1, 3, 5)]
    group = parted(found, different((5, 2), (1, 2))).groups[0]
    assert (group.representative, group.photo_ids, round(group.min_score, 2)) == (5, (1, 3, 5), 0.96)
    both = parted(found, different((5, 2), (5, 3)))
    assert members(both) == [(2, 3), (1, 5)] and round(both.groups[0].min_score, 2) == 0.99


def test_a_large_class_loses_few() -> None:
    found = copies(tuple(range(20_000)))
    assert members(parted(found, different((0, 7), (100, 200)))) == [
        tuple(photo for photo in range(20_000) if photo not in (7, 200)), (7, 200),
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20),
    st.lists(st.lists(st.integers(0, 7), min_size=2, max_size=4, unique=True), max_size=6),
)
def test_no_two_that_were_judged_and_none_that_is_no_pair(edges: list[tuple[int, int]], told: list[list[int]]) -> None:
    pairs = sorted({(min(a, b), max(a, b)) for a, b in edges if a != b})
    found = duplicates([(a, b, 0.9) for a, b in pairs])
    decisions = different(*map(tuple, told))
    judged = set(map(tuple, decisions.different.tolist()))
    groups: tuple[DuplicateGroup, ...] = parted(found, decisions).groups
    scores = PairScores(found)
    assert len({photo for one in groups for photo in one.photo_ids}) == sum(len(one.photo_ids) for one in groups)
    for group in groups:
        assert not set(combinations(group.photo_ids, 2)) & judged and group.representative in group.photo_ids
        others = np.array([photo for photo in group.photo_ids if photo != group.representative])
        assert len(others) and not np.isnan(scores.of(np.full(len(others), group.representative), others)).any()
