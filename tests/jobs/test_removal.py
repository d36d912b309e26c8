"""Which photos of groups stay and which may go: kinds, decisions of all sorts, and photos that are gone already."""

from typing import Any

import numpy as np
import pytest

from engine.jobs.decisions import Decisions
from engine.jobs.groups import DuplicateGroup
from engine.jobs.removal import plan_removal

GROUPS = (
    DuplicateGroup(representative=2, photo_ids=(1, 2, 3, 4), min_score=0.96, kind="copy"),
    DuplicateGroup(representative=10, photo_ids=(10, 11), min_score=1.0, kind="exact"),
    DuplicateGroup(representative=20, photo_ids=(20, 21, 22), min_score=0.97, kind="burst"),
)


def told(*entries: tuple[Any, ...]) -> Decisions:
    return Decisions.of([{"verdict": verdict, "photo_ids": list(photos)} for verdict, *photos in entries])


def dropped(*entries: tuple[Any, ...], **more: Any) -> list[int]:
    plan = plan_removal(GROUPS, told(*entries), **more)
    every = np.unique([photo for group in GROUPS for photo in group.photo_ids])
    gone = more.get("removed", np.empty(0, np.int64))
    assert np.array_equal(np.sort(np.concatenate([plan.keep, plan.drop])), np.setdiff1d(every, gone))
    assert np.array_equal(plan.keep, np.unique(plan.keep)) and np.array_equal(plan.drop, np.unique(plan.drop))
    assert plan.decided + plan.by_kind + plan.left + plan.settled + plan.unsettled == len(GROUPS)
    found: list[int] = plan.drop.tolist()
    return found


def test_without_decisions_the_kind_says_what_goes() -> None:
    assert dropped() == [1, 3, 4, 11]
    assert dropped(kinds=("exact",)) == [11]
    assert dropped(kinds=("exact", "copy", "burst")) == [1, 3, 4, 11, 21, 22]
    assert dropped(kinds=()) == []
    plan = plan_removal(GROUPS)
    assert (plan.decided, plan.by_kind, plan.left, plan.unsettled) == (0, 2, 1, 0)


def test_what_was_decided_goes_before_the_kind() -> None:
    assert dropped(("same", 1, 2, 3, 4)) == [2, 3, 4, 11]
    assert dropped(("same", 22, 20, 21)) == [1, 3, 4, 11, 20, 21]
    assert dropped(("same", 22, 20, 21), kinds=()) == [20, 21]
    assert dropped(("same", 11, 10), ("all-different", 10, 11)) == [1, 3, 4]


def test_what_is_different_stays() -> None:
    assert dropped(("different", 3, 1, 2, 4)) == [1, 4, 11]
    assert dropped(("all-different", 1, 2, 3, 4)) == [11]
    plan = plan_removal(GROUPS, told(("all-different", 1, 2, 3, 4)))
    assert (plan.settled, plan.unsettled) == (1, 0)
    assert dropped(("different", 3, 1, 2, 4), ("same", 4, 1, 2)) == [1, 2, 11]
    assert dropped(("different", 1, 3)) == [1, 3, 4, 11]  # neither of them is kept: nothing was said of 2


def test_where_the_representative_is_another_photo_the_rest_is_unsettled() -> None:
    """The others need not be duplicates of each other: somebody must say which to keep, or search again."""
    assert dropped(("different", 2, 1, 3, 4)) == [11]
    plan = plan_removal(GROUPS, told(("different", 2, 1, 3, 4)))
    assert (plan.by_kind, plan.unsettled) == (1, 1)
    assert dropped(("different", 2, 1, 3, 4), ("same", 1, 3, 4)) == [3, 4, 11]


def test_two_groups_that_became_one_lose_what_was_said_of_each() -> None:
    assert dropped(("same", 1, 2), ("same", 4, 3)) == [2, 3, 11]
    assert dropped(("same", 1, 2), ("same", 2, 3)) == [3, 11]  # 2 is kept for one of them


def test_decisions_about_others_change_nothing() -> None:
    assert dropped(("same", 900, 901), ("different", 1, 900), ("same", 900, 3)) == [1, 3, 4, 11]


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ([1], [3, 4, 11]),
        ([1, 3, 4, 11], []),
        ([2], [11]),  # the one to keep is gone: the others are all that is left
        ([10, 2], []),
    ],
)
def test_photos_that_are_gone_already(gone: list[int], expected: list[int]) -> None:
    assert dropped(removed=np.array(gone)) == expected


def test_a_chosen_photo_that_is_gone_keeps_the_others() -> None:
    assert dropped(("same", 1, 2, 3, 4), removed=np.array([1])) == [11]
    assert dropped(("same", 1, 2), ("same", 4, 3), removed=np.array([1])) == [3, 11]


def test_where_all_others_are_gone_nothing_is_left_to_do() -> None:
    plan = plan_removal(GROUPS, told(("same", 10, 11)), removed=np.array([1, 3, 4, 11]))
    assert (plan.decided, plan.by_kind, plan.settled, plan.unsettled) == (0, 0, 2, 0)
    plan = plan_removal(GROUPS, removed=np.array([2, 3, 4, 10]))  # one photo of each is left: no duplicates any more
    assert (plan.settled, plan.unsettled) == (2, 0)


def test_nothing_at_all() -> None:
    plan = plan_removal(())
    assert len(plan.keep) == len(plan.drop) == 0 and plan.keep.dtype == np.int64
