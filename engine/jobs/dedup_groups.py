"""From pairs of classes of identical photos to pairs and groups, without what people judged different."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from engine.jobs import groups_linked
from engine.jobs.decisions import Decisions
from engine.jobs.groups import DuplicateGroup, group_photos, in_order
from engine.jobs.identical import F32, I64, expand, judged_pairs, wholly_judged

Grouping = Literal["medoid", "complete", "components"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)
Bursts = Callable[[I64, F32], npt.NDArray[np.bool_]]
_GROUPS: dict[Grouping, Callable[[I64, F32, I64], tuple[DuplicateGroup, ...]]] = {
    "medoid": group_photos,
    "complete": groups_linked.complete,
    "components": groups_linked.components,
}


def grouped(
    near: I64, scores: F32, copies: I64, bursts: Bursts, grouping: Grouping, decisions: Decisions
) -> dict[str, Any]:
    """The pairs, scores, groups, copies, bursts and judged of `dedup.Duplicates`, whose groups are still to be parted.

    near: (m, 2) pairs of photo ids, each the lowest of its class; scores: (m,). copies: of `identical.copies_of`.
    bursts: says which pairs (p, 2) of photo ids with their scores (p,) are of a burst. A verdict is about its two
    photos alone: classes stay together as long as any photo of one is a duplicate of any of the other.
    """
    distinct = np.sort(near, axis=1)
    order = np.lexsort((distinct[:, 1], distinct[:, 0]))
    distinct, scores = distinct[order], scores[order]
    judged = judged_pairs(distinct, copies, decisions)
    kept = ~wholly_judged(distinct, copies, judged)
    distinct, scores = distinct[kept], scores[kept]
    burst = bursts(distinct, scores)
    make = _GROUPS[grouping]
    groups = make(distinct[~burst], scores[~burst], copies)
    # Photos of a burst that are in no group of copies yet.
    held = np.array([photo for group in groups for photo in group.photo_ids], np.int64)
    rest = burst & ~np.isin(distinct, held).any(axis=1)
    groups += tuple(replace(group, kind="burst") for group in make(distinct[rest], scores[rest], copies[:0]))
    pairs, every = expand(distinct, scores, copies, decisions)
    return {
        "pairs": pairs, "scores": every, "groups": in_order(groups), "copies": copies,
        "bursts": bursts(pairs, every) & (every < 1), "judged": judged,
    }  # fmt: skip
