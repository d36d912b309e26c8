"""Groups of duplicates against a few lines of plain Python, over random small graphs."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.jobs.dedup_ceilings import checksums
from engine.jobs.groups import DuplicateGroup, group_photos
from engine.jobs.identical import LARGE_CLASS, equal_rows, expand

Scored = dict[tuple[int, int], float]


def naive(scored: Scored) -> list[DuplicateGroup]:
    """The definition: again and again, the photo with the most free neighbours, then the lowest id."""
    free = {photo for pair in scored for photo in pair}
    groups: list[DuplicateGroup] = []
    while True:
        near = {a: [b for b in free if (min(a, b), max(a, b)) in scored and b != a] for a in free}
        best = min((a for a in near if near[a]), key=lambda a: (-len(near[a]), a), default=None)
        if best is None:
            return sorted(groups, key=lambda group: (-len(group.photo_ids), group.representative))
        scores = [scored[min(best, b), max(best, b)] for b in near[best]]
        members = tuple(sorted([best, *near[best]]))
        groups.append(DuplicateGroup(representative=best, photo_ids=members, min_score=min(scores)))
        free -= set(members)


def arrays(scored: Scored) -> tuple[Any, Any]:
    return np.array(list(scored), np.int64).reshape(-1, 2), np.array(list(scored.values()), np.float32)


def pairs_of(photos: Iterable[int]) -> list[tuple[int, int]]:
    return list(combinations(sorted(photos), 2))


graphs = st.dictionaries(
    st.sampled_from(pairs_of(range(0, 36, 3))), st.sampled_from([0.5, 0.75, 0.875, 1.0]), max_size=40
)


@given(graphs)
def test_equals_the_definition(scored: Scored):
    assert list(group_photos(*arrays(scored))) == naive(scored)


@given(graphs)
def test_every_photo_once_every_member_a_pair_and_no_pair_without_a_group(scored: Scored):
    groups = group_photos(*arrays(scored))
    photos = [photo for group in groups for photo in group.photo_ids]
    assert len(photos) == len(set(photos))
    for group in groups:
        others = set(group.photo_ids) - {group.representative}
        assert others and len(others) == len(group.photo_ids) - 1
        scores = [scored[min(other, group.representative), max(other, group.representative)] for other in others]
        assert group.min_score == min(scores)
    assert all(a in photos or b in photos for a, b in scored)


@given(graphs, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(scored: Scored, random):
    entries = list(scored.items())
    random.shuffle(entries)
    turned = {(pair if random.random() < 0.5 else pair[::-1]): score for pair, score in entries}
    assert group_photos(*arrays(turned)) == group_photos(*arrays(scored))


@given(graphs, st.lists(st.integers(1, 4), min_size=36, max_size=36))
def test_copies_go_where_all_their_pairs_would_take_them(scored: Scored, sizes: list[int]):
    """The same groups as those of the whole graph, in which copies are neighbours of all that their row is."""
    photos = {lowest: [lowest + 100 * i for i in range(sizes[lowest])] for lowest in range(0, 36, 3)}
    copies = np.array([(copy, low) for low, all_ in photos.items() for copy in all_[1:]], np.int64).reshape(-1, 2)
    whole: Scored = {pair: 1.0 for all_ in photos.values() for pair in pairs_of(all_)}
    for (a, b), score in scored.items():
        whole |= {(min(x, y), max(x, y)): score for x in photos[a] for y in photos[b]}
    groups = group_photos(*arrays(scored), copies)
    assert [replace(group, kind="copy") for group in groups] == naive(whole)
    assert all(group.kind == "exact" for group in groups if len({p % 100 for p in group.photo_ids}) == 1)
    pairs, scores = expand(*arrays(scored), copies)
    assert dict(zip(map(tuple, pairs.tolist()), scores.tolist(), strict=True)) == whole
    assert pairs.tolist() == sorted(pairs.tolist())


def test_no_pairs_no_groups():
    empty = np.empty((0, 2), np.int64), np.empty(0, np.float32)
    assert group_photos(*empty) == ()
    assert [len(part) for part in expand(*empty, np.empty((0, 2), np.int64))] == [0, 0]


def test_large_classes_are_paired_with_their_lowest_photo_alone():
    size = LARGE_CLASS + 8
    copies = np.array([(1000 * c + i, 1000 * c) for c in (1, 2) for i in range(1, size)], np.int64)
    near = np.array([[7, 1000], [1000, 2000]], np.int64)
    scores = np.array([0.96, 0.97], np.float32)
    pairs, _ = expand(near, scores, copies)
    found = set(map(tuple, pairs.tolist()))
    assert len(found) == len(pairs) == 2 * (size - 1) + size + (2 * size - 1)
    assert {(7, 1005), (1000, 2005), (1005, 2000), (1000, 1005)} <= found
    assert not {(1005, 2005), (1005, 1006)} & found
    group = group_photos(near, scores, copies)[0]
    assert group.representative == 1000
    assert set(group.photo_ids) == {7, *copies.ravel().tolist()}
    assert all((min(1000, p), max(1000, p)) in found for p in group.photo_ids if p != 1000)


def test_a_long_chain_is_not_one_group():
    scored = {(i, i + 1): 0.99 for i in range(9)}
    assert [group.photo_ids for group in group_photos(*arrays(scored))] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("layers", [1, 2])
def test_equal_rows_are_those_with_the_same_values(count: int, layers: int):
    rng = np.random.default_rng(count)
    rows = [rng.integers(0, 2, (count, 3)).astype(np.float32) for _ in range(layers)]
    ids = rng.permutation(10 * count)[:count].astype(np.int64)
    present = rng.random(count) < 0.8
    same = [[j for j in np.flatnonzero(present) if all((r[j] == r[i]).all() for r in rows)] for i in range(count)]
    expected = [min(same[i], key=lambda j: ids[j]) if present[i] else -1 for i in range(count)]
    for layer in rows:
        layer[layer == 0] *= rng.choice([-1, 1], (layer == 0).sum())  # −0 equals 0
    assert equal_rows(checksums(rows), ids, present).tolist() == expected
