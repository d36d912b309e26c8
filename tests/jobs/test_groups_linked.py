"""Complete and connected groups against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.groups import DuplicateGroup, group_photos
from engine.jobs.groups_linked import complete, components
from tests.jobs.test_groups import arrays

NONE = np.empty((0, 2), np.int64)
pairs = st.dictionaries(
    st.tuples(st.integers(0, 14), st.integers(0, 14)).filter(lambda pair: pair[0] < pair[1]),
    st.sampled_from([0.9, 0.95, 0.96, 0.99]),
    max_size=60,
)


@given(scored=pairs)
def test_components_are_those_that_a_walk_reaches(scored: dict[tuple[int, int], float]) -> None:
    reached = {photo: {photo} for pair in scored for photo in pair}
    for _ in range(15):
        for a, b in scored:
            reached[a] = reached[b] = reached[a] | reached[b]
    expected = {frozenset(reached[photo]) for photo in reached}
    groups = components(*arrays(scored), NONE)
    assert {frozenset(group.photo_ids) for group in groups} == expected
    for group in groups:
        inside = {pair: score for pair, score in scored.items() if set(pair) <= set(group.photo_ids)}
        assert group.min_score == pytest.approx(min(inside.values())) and group.kind == "copy"
        degree = {photo: sum(photo in pair for pair in inside) for photo in group.photo_ids}
        assert group.representative == min(degree, key=lambda photo: (-degree[photo], photo))


@given(scored=pairs)
def test_complete_groups_are_cliques_that_no_two_of_could_be_one(scored: dict[tuple[int, int], float]) -> None:
    groups = complete(*arrays(scored), NONE)
    photos = [photo for group in groups for photo in group.photo_ids]
    assert len(photos) == len(set(photos))
    for group in groups:
        inside = [scored[pair] for pair in combinations(group.photo_ids, 2)]  # KeyError: not a pair
        assert group.min_score == pytest.approx(min(inside))
    alone: list[tuple[int, ...]] = [(photo,) for photo in {photo for pair in scored for photo in pair} - set(photos)]
    for first, second in combinations([group.photo_ids for group in groups] + alone, 2):
        assert not all((min(a, b), max(a, b)) in scored for a in first for b in second)


def test_the_highest_scores_come_together_first() -> None:
    scored = {(1, 2): 0.9, (2, 3): 0.99, (3, 4): 0.95}
    assert [group.photo_ids for group in complete(*arrays(scored), NONE)] == [(2, 3)]
    assert complete(*arrays({(1, 2): 0.9, (2, 3): 0.9}), NONE)[0].photo_ids == (1, 2)  # a tie: the lowest ids


@pytest.mark.parametrize("make", [complete, components, group_photos])
def test_copies_come_along(make) -> None:
    copies = np.array([[7, 1], [8, 1], [9, 4]])
    groups = make(*arrays({(1, 2): 0.9}), copies)
    assert groups == (
        DuplicateGroup(representative=1, photo_ids=(1, 2, 7, 8), min_score=pytest.approx(0.9)),  # type: ignore[arg-type]
        DuplicateGroup(representative=4, photo_ids=(4, 9), min_score=1.0, kind="exact"),
    )
    assert make(*arrays({}), NONE) == ()


@pytest.mark.parametrize("make", [complete, components, group_photos])
def test_a_hundred_thousand_identical_photos_are_one_group(make) -> None:
    copies = np.stack([np.arange(1, 100_000), np.zeros(99_999, np.int64)], axis=1)
    (group,) = make(*arrays({}), copies)
    assert (group.representative, len(group.photo_ids), group.kind) == (0, 100_000, "exact")
