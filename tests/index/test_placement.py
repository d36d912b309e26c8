"""Shards on GPUs: every shard somewhere, never more than there is room for."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.index.placement import parts, place


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    budgets=st.lists(st.integers(0, 3000), min_size=1, max_size=4),
)
def test_no_gpu_takes_more_than_it_has_room_for(sizes, budgets):
    if max(sizes) > max(budgets):
        with pytest.raises(ValueError, match=f"a shard of {max(sizes):,} bytes, room for {max(budgets):,}"):
            place(sizes, budgets)
        return
    found = place(sizes, budgets)
    assert len(found.homes) == len(found.streamed) == len(sizes) and len(found.ahead) == len(budgets)
    streaming = Counter(home for home, streamed in zip(found.homes, found.streamed, strict=True) if streamed)
    for gpu, budget in enumerate(budgets):
        stays = sum(
            size for size, home, streamed in zip(sizes, found.homes, found.streamed, strict=True)
            if home == gpu and not streamed
        )  # fmt: skip
        slots = (2 if found.ahead[gpu] else 1) * max(sizes) if streaming[gpu] else 0
        assert stays + slots <= budget
    if streaming:  # in turn: evenly
        able = [gpu for gpu, budget in enumerate(budgets) if budget >= max(sizes)]
        assert max(streaming.values()) - min(streaming[gpu] for gpu in able) <= 1
    if len(budgets) == 1:
        assert any(found.streamed) == (sum(sizes) > budgets[0])


def test_all_stay_where_they_fit():
    found = place([5, 9, 7, 3], [12, 12])
    assert found.homes == (1, 0, 1, 0)  # 9 and 3, 7 and 5: the largest first, each where most room is left
    assert found.streamed == (False,) * 4 and found.ahead == (False, False)


def test_the_larger_gpu_is_filled_first():
    assert place([4, 4, 4], [5, 100]).homes == (1, 1, 1)


def test_what_does_not_fit_leaves_room_for_two_that_are_copied():
    found = place([10] * 6, [45])
    assert found.streamed.count(False) == 2 and found.ahead == (True,)
    found = place([10] * 6, [15])
    assert found.streamed.count(False) == 0 and found.ahead == (False,)


@given(queries=st.integers(0, 10_000), gpus=st.integers(1, 9))
def test_parts_cover_each_query_once(queries, gpus):
    cut = parts(queries, gpus)
    assert [i for part in cut for i in range(part.start, part.stop)] == list(range(queries))
    sizes = [part.stop - part.start for part in cut]
    assert not sizes or (min(sizes) >= 1 and max(sizes) - min(sizes) <= 1)
    assert len(cut) == min(queries, gpus)
