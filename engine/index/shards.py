"""Shards: the rows of an index cut into ranges, searched one after the other and merged; removed rows left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq

# Where removed rows took the place of present ones, so many times more candidates are asked for, but not past this.
WIDER, MOST = 4, 8192


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Rows that are in the shards and must be in no answer.

    mask: (n,) bool. least: candidates that a query needs. most: candidates that one search can give.
    """

    mask: npt.NDArray[np.bool_]
    least: int
    most: int


def ranges(rows: int, per_shard: int) -> list[tuple[int, int]]:
    """The (start, stop) of each shard: every row in exactly one, sizes as even as can be."""
    count = max(-(-rows // per_shard), 1)
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def candidates(
    shards: Sequence[Any],
    queries: npt.NDArray[np.float32],
    count: int,
    probes: int,
    bits: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.int64]:
    """The `count` rows of all shards whose codes are nearest to each reduced query: (q, count), −1 = absent.

    bits: of the rows that may be among them, as `Filter.bits`; on the CPU alone.
    """
    found = [ivfpq.search(shard, queries, count, probes, bits) for shard in shards]
    if len(found) == 1:
        return found[0][1]
    closeness = np.concatenate([distances for distances, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    closeness[rows < 0] = -np.inf
    best = np.argpartition(closeness, -count, axis=1)[:, -count:]
    return np.take_along_axis(rows, best, axis=1)


@dataclass(frozen=True, kw_only=True)
class Visit:
    """How lists are visited for a query. count: candidates wanted. probes: lists; most: where they hold too few.

    bits: of the rows that may be among them, as `Filter.bits`; on the CPU alone.
    """

    count: int
    probes: int
    most: int
    bits: npt.NDArray[np.uint8] | None = None


def enough_candidates(
    shards: Sequence[Any], queries: npt.NDArray[np.float32], visit: Visit, least: int
) -> npt.NDArray[np.int64]:
    """Like `candidates`; where the lists hold fewer than `least` rows that may be among them, from more lists."""
    probes = visit.probes
    found = candidates(shards, queries, visit.count, probes, visit.bits)
    while probes < visit.most and found.min(initial=0) < 0:
        again = np.flatnonzero((found >= 0).sum(axis=1) < least)
        if not len(again):
            break
        probes = min(WIDER * probes, visit.most)
        found[again] = candidates(shards, queries[again], visit.count, probes, visit.bits)
    return found


def present_candidates(
    shards: Sequence[Any], queries: npt.NDArray[np.float32], count: int, probes: int, removed: Removed
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Like `candidates`, about `count` of them and none removed; whether removed rows took the place of others (q,).

    For IVF-PQ on CUDA, which knows no filter.

    More are asked for in proportion to the rows that are removed. Where that was not enough, since removed rows lie
    close together, more again; what is still wanting then can only be found by comparing with every row.
    """
    enough = max(count // 2, removed.least)

    def ask(asked: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        found = candidates(shards, asked, wanted, probes)
        given = (found >= 0).sum(axis=1)
        found[removed.mask[found]] = -1  # what is −1 stays so
        present = (found >= 0).sum(axis=1)
        # As many as were asked for: there are more. Fewer: it is all that the lists hold.
        return found, (present < enough) & (given == wanted) | (present < removed.least) & (given >= removed.least)

    most = max(count, min(MOST, removed.most))
    wanted = min(int(count * len(removed.mask) / max((~removed.mask).sum(), 1)) + 1, most)
    found, wanting = ask(queries)
    while wanted < most and wanting.any():
        wanted, again = min(WIDER * wanted, most), np.flatnonzero(wanting)
        wider, wanting[again] = ask(queries[again])
        found = np.pad(found, ((0, 0), (0, wanted - found.shape[1])), constant_values=-1)
        found[again] = wider
    return found, wanting
