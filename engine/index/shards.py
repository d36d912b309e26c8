"""Shards: the rows of an index cut into ranges, searched one after the other and merged."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq


def ranges(rows: int, per_shard: int) -> list[tuple[int, int]]:
    """The (start, stop) of each shard: every row in exactly one, sizes as even as can be."""
    count = max(-(-rows // per_shard), 1)
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def candidates(
    shards: Sequence[Any], queries: npt.NDArray[np.float32], count: int, probes: int
) -> npt.NDArray[np.int64]:
    """The `count` rows of all shards whose codes are nearest to each reduced query: (q, count), −1 = absent."""
    found = [ivfpq.search(shard, queries, count, probes) for shard in shards]
    if len(found) == 1:
        return found[0][1]
    closeness = np.concatenate([distances for distances, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    closeness[rows < 0] = -np.inf
    best = np.argpartition(closeness, -count, axis=1)[:, -count:]
    return np.take_along_axis(rows, best, axis=1)
