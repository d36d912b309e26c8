"""Shards: every row in exactly one, and several answer as one does."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.shards import ranges
from engine.index.spec import IndexSpec, SearchSpec
from tests.builders import CPU, recall
from tests.index.conftest import ROWS


@given(rows=st.integers(1, 10**9), count=st.integers(1, 2000), extra=st.integers(0, 10**6))
def test_ranges_cover_each_row_once_and_evenly(rows, count, extra):
    per_shard = -(-rows // count) + extra
    found = ranges(rows, per_shard)
    assert found[0][0] == 0 and found[-1][1] == rows
    assert all(before[1] == after[0] for before, after in pairwise(found))
    sizes = [stop - start for start, stop in found]
    assert min(sizes) >= 1
    assert max(sizes) <= per_shard
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == -(-rows // per_shard)


@pytest.fixture(scope="module", params=["uint8", "none"])
def pair(photos, request):
    """The same index in one shard and in three."""
    opened = []
    for per_shard in (1_000_000, 1_000):
        spec = IndexSpec(layer="fc7", refine=request.param, rows_per_shard=per_shard)
        path = build_index(photos, spec, device=CPU, name=f"shards-{request.param}-{per_shard}").path
        opened.append(Index.open(path, device=CPU))
    assert [len(index.shards) for index in opened] == [1, 3]
    return opened


def test_each_shard_holds_its_own_rows(pair):
    for index in pair:
        assert [(shard.start, shard.stop) for shard in index.manifest.shards] == ranges(
            ROWS, index.manifest.spec.rows_per_shard
        )
        assert [shard.ntotal for shard in index.shards] == [s.stop - s.start for s in index.manifest.shards]


def test_several_shards_answer_as_one(pair, photos):
    """All lists of the same quantizers: the same candidates, up to ties of their codes."""
    queries = photos.fc7[::37] * np.float32(1.1)
    lists = pair[0].manifest.spec.lists
    one, three = (index.search(queries, SearchSpec(k=10, probes=lists, rerank=300)) for index in pair)
    assert (one.photo_ids == three.photo_ids).mean() > 0.99
    assert np.abs(one.scores - three.scores).max() < 0.02


def test_several_shards_lose_nothing_at_few_probes(pair, photos):
    queries = photos.fc7[5::41]
    exact = pair[0].search(queries, SearchSpec(k=10, rerank=ROWS))
    one, three = (recall(i.search(queries, SearchSpec(k=10, probes=4)).scores, exact.scores) for i in pair)
    assert abs(one - three) < 0.02


def test_all_compared_is_the_same_to_the_bit(pair, photos):
    queries = photos.fc7[::100]
    one, three = (index.search(queries, SearchSpec(k=10, rerank=ROWS)) for index in pair)
    assert np.array_equal(one.photo_ids, three.photo_ids)
    assert np.array_equal(one.scores, three.scores)


def test_candidates_of_every_shard_are_found(pair, photos):
    """Each row asks for itself: whichever shard it lies in, it is its own nearest."""
    result = pair[1].search(photos.fc7, SearchSpec(k=1))
    itself = result.photo_ids[:, 0] == photos.photo_ids
    zero = ~photos.fc7.any(axis=1)
    assert (itself | zero).mean() > 0.995
