"""Shards: the rows of an index cut into ranges, searched and merged; removed rows left out.

Queries on the host give candidates on the host, queries on the device candidates there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq
from kernels.device import array_module

# Where removed rows took the place of present ones, so many times more candidates are asked for, but not past this.
WIDER, MOST = 4, 8192


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Rows that are in the shards and must be in no answer.

    mask: (n,) bool, best where the queries are. least: candidates that a query needs. most: candidates that one
    search can give.
    """

    mask: Any
    least: int
    most: int


def ranges(rows: int, per_shard: int) -> list[tuple[int, int]]:
    """The (start, stop) of each shard: every row in exactly one, sizes as even as can be."""
    count = max(-(-rows // per_shard), 1)
    edges = [rows * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def candidates(
    shards: Sequence[Any], queries: Any, count: int, probes: int, bits: npt.NDArray[np.uint8] | None = None
) -> Any:
    """The `count` rows of all shards whose codes are nearest to each reduced query: (q, count) int64, −1 = absent.

    bits: of the rows that may be among them, as `Filter.bits`; where `ivfpq.filters` alone.
    """
    return ivfpq.search_all(shards, queries, count, probes, bits)[1]


@dataclass(frozen=True, kw_only=True)
class Visit:
    """How lists are visited for a query. count: candidates wanted. probes: lists; most: where they hold too few.

    bits: of the rows that may be among them, as `Filter.bits`; where `ivfpq.filters` alone.
    """

    count: int
    probes: int
    most: int
    bits: npt.NDArray[np.uint8] | None = None


def enough_candidates(shards: Sequence[Any], queries: Any, visit: Visit, least: int) -> Any:
    """Like `candidates`; where the lists hold fewer than `least` rows that may be among them, from more lists.

    On the device the GPU is waited for only where the lists may hold too few.
    """
    xp, probes = array_module(queries), visit.probes
    found = candidates(shards, queries, visit.count, probes, visit.bits)
    if visit.bits is None and ivfpq.fewest(shards, probes) >= least:
        return found
    while probes < visit.most and (found < 0).any():
        again = xp.flatnonzero((found >= 0).sum(axis=1) < least)
        if not len(again):
            break
        probes = min(WIDER * probes, visit.most)
        found[again] = candidates(shards, queries[again], visit.count, probes, visit.bits)
    return found


def present_candidates(
    shards: Sequence[Any], queries: Any, count: int, probes: int, removed: Removed
) -> tuple[Any, Any]:
    """Like `candidates`, about `count` of them and none removed; whether removed rows took the place of others (q,).

    For IVF-PQ that knows no filter, see `ivfpq.filters`.

    More are asked for in proportion to the rows that are removed. Where that was not enough, since removed rows lie
    close together, more again; what is still wanting then can only be found by comparing with every row.
    """
    xp, enough = array_module(queries), max(count // 2, removed.least)
    mask = xp.asarray(removed.mask)

    def ask(asked: Any) -> tuple[Any, Any]:
        found = candidates(shards, asked, wanted, probes)
        given = (found >= 0).sum(axis=1)
        found = xp.where((found < 0) | mask[found], -1, found)
        present = (found >= 0).sum(axis=1)
        # As many as were asked for: there are more. Fewer: it is all that the lists hold.
        return found, (present < enough) & (given == wanted) | (present < removed.least) & (given >= removed.least)

    most = max(count, min(MOST, removed.most))
    wanted = min(int(count * len(mask) / max(int((~mask).sum()), 1)) + 1, most)
    found, wanting = ask(queries)
    while wanted < most and wanting.any():
        wanted, again = min(WIDER * wanted, most), xp.flatnonzero(wanting)
        wider, wanting[again] = ask(queries[again])
        found = xp.pad(found, ((0, 0), (0, wanted - found.shape[1])), constant_values=-1)
        found[again] = wider
    return found, wanting
