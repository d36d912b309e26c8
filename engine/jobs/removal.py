"""Which photos of groups of duplicates stay and which may go, by what was decided and by the kind of each group."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import numpy.typing as npt

from engine.jobs.decisions import Decisions
from engine.jobs.groups import DuplicateGroup

I64 = npt.NDArray[np.int64]

# Photos of a burst are alike, yet each is a photo of its own: they go when somebody says so.
REMOVED_KINDS = ("exact", "copy")


@dataclass(frozen=True, kw_only=True)
class Removal:
    """keep, drop: (k,), (d,) int64 photo ids ascending, of all groups together, without those removed before.

    decided: groups of which somebody said which photo to keep. by_kind: undecided ones that photos are dropped from.
    left: undecided ones that are left because of their kind. settled: groups of which nothing is left to drop, all
    others being gone or judged different. unsettled: groups from which nothing is dropped since their representative
    was judged different from all others, or the photo to keep has been removed.
    """

    keep: I64
    drop: I64
    decided: int
    by_kind: int
    left: int
    settled: int
    unsettled: int


def plan_removal(
    groups: Sequence[DuplicateGroup],
    decisions: Decisions | None = None,
    kinds: Iterable[str] = REMOVED_KINDS,
    removed: I64 | None = None,
) -> Removal:
    """What becomes of the photos in groups.

    A group of which somebody said which photo to keep loses the others; another one loses all but its representative if
    it is of one of these kinds. A photo that was judged different from the one that is kept always stays. removed:
    (r,) photo ids that are gone already; where the one to keep is among them, the others stay.
    """
    told = _Told(groups, decisions or Decisions())
    gone = set() if removed is None else set(removed.tolist())
    counts = {"decided": 0, "by_kind": 0, "left": 0, "settled": 0, "unsettled": 0}
    keep: list[int] = []
    drop: list[int] = []
    kinds = set(kinds)
    for group in groups:
        how, dropped = _judge(group, told, group.kind in kinds, gone)
        counts[how] += 1
        drop += dropped
        going = set(dropped)
        keep += [photo for photo in group.photo_ids if photo not in going and photo not in gone]
    return Removal(keep=_ascending(keep), drop=_ascending(drop), **counts)


def _judge(group: DuplicateGroup, told: "_Told", wanted: bool, gone: set[int]) -> tuple[str, list[int]]:  # noqa: FBT001
    """What is done with a group, and which photos are dropped."""
    chosen = told.kept_in(group)
    if len(chosen) > 1:  # of several groups that are one now: what was said of each holds, no more
        pairs = [(kept, other) for kept, others in chosen.items() for other in others if other not in chosen]
        return "decided", sorted({other for kept, other in pairs if kept not in gone and other not in gone})
    if not chosen and not wanted:
        return "left", []
    kept = next(iter(chosen), group.representative)
    others = [photo for photo in group.photo_ids if photo != kept and photo not in gone]
    dropped = [photo for photo in others if not told.different(kept, photo)]
    if dropped and kept not in gone:
        return "decided" if chosen else "by_kind", dropped
    # Of photos that are different from the one to keep, or without it, nobody said what they are to each other.
    alone = len(others) + (kept not in gone) < 2
    return "settled" if alone or told.all_different(others) else "unsettled", []


class _Told:
    """What was decided about photos that are in groups."""

    def __init__(self, groups: Sequence[DuplicateGroup], decisions: Decisions) -> None:
        here = np.unique(np.fromiter(chain.from_iterable(group.photo_ids for group in groups), np.int64))
        different = decisions.different[np.isin(decisions.different, here).all(axis=1)]
        self._different = set(map(tuple, different.tolist()))
        self._kept: dict[int, list[int]] = {}
        for kept, other in decisions.same[np.isin(decisions.same, here).all(axis=1)].tolist():
            self._kept.setdefault(kept, []).append(other)

    def different(self, a: int, b: int) -> bool:
        """Whether two photos were judged to be no duplicates."""
        return (min(a, b), max(a, b)) in self._different

    def all_different(self, photos: list[int]) -> bool:
        """Whether no two of these photos are duplicates, for so it was said of each two."""
        return all(self.different(a, b) for a, b in combinations(photos, 2))

    def kept_in(self, group: DuplicateGroup) -> dict[int, list[int]]:
        """The photos of a group that somebody wants to keep, each with those of which it is kept."""
        if not self._kept:
            return {}
        members = set(group.photo_ids)
        found = {
            kept: [photo for photo in self._kept[kept] if photo in members]
            for kept in group.photo_ids
            if kept in self._kept
        }
        return {kept: others for kept, others in found.items() if others}


def _ascending(photos: list[int]) -> I64:
    return np.sort(np.array(photos, np.int64))
