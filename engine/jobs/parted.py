"""Groups without photos that were judged to be no duplicates of each other."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from engine.jobs.decisions import Decisions
from engine.jobs.groups import DuplicateGroup, Kind, in_order
from engine.jobs.identical import apart_of
from engine.jobs.pair_scores import PairScores

if TYPE_CHECKING:
    from engine.jobs.dedup import Duplicates


def parted(duplicates: "Duplicates", decisions: Decisions) -> "Duplicates":
    """The same duplicates, with no two photos in a group that were judged different.

    Identical photos, and those that are alike through a third, come into a group together whatever was said of the
    two. There the representative keeps whoever is different from nobody kept so far, those identical to it first, then
    in order of their ids. The others are grouped again in the same way, around one that is identical to the
    representative, else around the lowest id.
    """
    if not len(decisions.different) or not duplicates.groups:
        return duplicates
    here = np.unique(np.fromiter(chain.from_iterable(group.photo_ids for group in duplicates.groups), np.int64))
    told = decisions.different[np.isin(decisions.different, here).all(axis=1)]
    different = apart_of(told)
    scores = PairScores(duplicates)
    groups: list[DuplicateGroup] = []
    for group in duplicates.groups:
        members = set(group.photo_ids)
        if any(members & different.get(photo, set()) for photo in group.photo_ids if photo in different):
            groups += _parts(group, different, scores)
        else:
            groups.append(group)
    return replace(duplicates, groups=in_order(groups))


def _parts(group: DuplicateGroup, different: dict[int, set[int]], scores: PairScores) -> Iterable[DuplicateGroup]:
    """The groups that a group becomes; a photo that is alike to none of the others is in none."""
    members = np.array(group.photo_ids)
    lowest = scores.lowest(members)
    same = lowest == scores.lowest(np.array([group.representative]))
    class_of = dict(zip(members.tolist(), lowest.tolist(), strict=True))
    ordered = [*members[same].tolist(), *members[~same].tolist()]
    head, left = group.representative, [photo for photo in ordered if photo != group.representative]
    while left:
        found = scores.of(np.full(len(left), head), np.array(left))
        kept, least = {head}, 1.0
        for photo, score in zip(left, found.tolist(), strict=True):
            if not np.isnan(score) and kept.isdisjoint(different.get(photo, ())):
                kept.add(photo)
                least = min(least, score)
        if len(kept) > 1:
            exact = group.kind == "copy" and len({class_of[photo] for photo in kept}) == 1
            kind: Kind = "exact" if exact else group.kind
            yield replace(group, representative=head, photo_ids=tuple(sorted(kept)), min_score=least, kind=kind)
        left = [photo for photo in left if photo not in kept]
        head, left = (left[0], left[1:]) if left else (head, [])
