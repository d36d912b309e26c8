"""Groups of duplicates around one photo each."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.jobs.identical import members_of

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

Kind = Literal["exact", "copy", "burst"]


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Photos that are duplicates of one of them, the representative.

    photo_ids: ascending, the representative among them. min_score: the least score of a member with the
    representative, 1 for identical photos; of any pair of the group where groups are components or complete. kind:
    exact, all are identical; burst, several shots of one owner within minutes; or copy.
    """

    representative: int
    photo_ids: tuple[int, ...]
    min_score: float
    kind: Kind = "copy"


def group_photos(pairs: I64, scores: F32, copies: I64 | None = None) -> tuple[DuplicateGroup, ...]:
    """Star groups: every member is a pair with its representative, each photo is in one group at most.

    pairs: (m, 2) distinct unordered pairs of photo ids; scores: (m,). copies: (c, 2), a photo and the lowest photo
    id of an identical row; a copy stands in no pair, it goes where that photo goes. Greedy: the next representative is
    the photo with the most duplicates not yet in a group, and the lowest photo id among equals. Returned by size
    descending, then by representative.
    """
    copies = np.empty((0, 2), np.int64) if copies is None else copies
    alone = _alone(pairs, copies)
    graph = _Graph.of(pairs[~alone], scores[~alone], copies)
    groups = [graph.group(photo, near) for photo, near in graph.stars()]
    groups += [
        DuplicateGroup(representative=a, photo_ids=(a, b), min_score=score)
        for (a, b), score in zip(np.sort(pairs[alone], axis=1).tolist(), scores[alone].tolist(), strict=True)
    ]
    return in_order(groups)


def in_order(groups: Iterable[DuplicateGroup]) -> tuple[DuplicateGroup, ...]:
    """Groups by size descending, then by representative."""
    return tuple(sorted(groups, key=lambda group: (-len(group.photo_ids), group.representative)))


def _alone(pairs: I64, copies: I64) -> npt.NDArray[np.bool_]:
    """Which pairs (m,) share no photo with another and have no copies: groups as they are, and most of them."""
    _, number, times = np.unique(pairs, return_inverse=True, return_counts=True)
    once = (times[number].reshape(-1, 2) == 1).all(axis=1)
    return np.asarray(once & ~np.isin(pairs, copies[:, 1]).any(axis=1))


@dataclass(frozen=True)
class _Graph:
    """Photos with distinct rows as numbers in ascending order of their ids, and their neighbours.

    Those of photo i are near[at[i]:at[i + 1]], with their scores at the same places. weight: photos with its row.
    Lists, not arrays: they are read one element at a time, where lists are several times faster.
    """

    ids: list[int]
    at: list[int]
    near: list[int]
    scores: list[float]
    weight: list[int]
    copies: dict[int, list[int]]

    @classmethod
    def of(cls, pairs: I64, scores: F32, copies: I64) -> "_Graph":
        ids, number = np.unique(np.concatenate([pairs[:, 0], pairs[:, 1], copies[:, 1]]), return_inverse=True)
        m = len(pairs)
        a, b = number[:m], number[m : 2 * m]
        source, target = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.lexsort((target, source))
        at = np.searchsorted(source[order], np.arange(len(ids) + 1))
        return cls(
            ids=ids.tolist(),
            at=at.tolist(),
            near=target[order].tolist(),
            scores=np.concatenate([scores, scores])[order].tolist(),
            weight=(1 + np.bincount(number[2 * m :], minlength=len(ids))).tolist(),
            copies=members_of(copies),
        )

    def stars(self) -> list[tuple[int, list[int]]]:
        """The representatives in the order they are chosen, each with the places in `near` of what it takes.

        Counts in the heap may be out of date, but only too high: one that is found to be so goes back with its
        true count, so the top of the heap that is up to date is the true maximum.
        """
        near, at, weight, n = self.near, self.at, self.weight, len(self.ids)
        left = [
            weight[photo] - 1 + sum([weight[other] for other in near[at[photo] : at[photo + 1]]]) for photo in range(n)
        ]
        # One whole number for (count descending, photo ascending); sorted numbers are a heap.
        most = max(left, default=0)
        heap = np.sort((most - np.array(left, np.int64)) * n + np.arange(n)).tolist()
        free = bytearray(b"\1" * n)
        found = []
        while heap:
            less, photo = divmod(heapq.heappop(heap), n)
            if not free[photo] or not left[photo]:
                continue
            if most - less != left[photo]:
                heapq.heappush(heap, (most - left[photo]) * n + photo)
                continue
            taken = [place for place in range(at[photo], at[photo + 1]) if free[near[place]]]
            found.append((photo, taken))
            for member in (photo, *(near[place] for place in taken)):
                free[member] = 0
                for other in near[at[member] : at[member + 1]]:
                    left[other] -= weight[member]
        return found

    def group(self, photo: int, places: list[int]) -> DuplicateGroup:
        """The group of a representative and the neighbours at these places, with the copies of all of them."""
        distinct = [self.ids[photo], *(self.ids[self.near[place]] for place in places)]
        photos = [each for one in distinct for each in self.copies.get(one, (one,))]
        return DuplicateGroup(
            representative=distinct[0],
            photo_ids=tuple(sorted(photos)),
            min_score=min((self.scores[place] for place in places), default=1.0),
            kind="copy" if places else "exact",
        )
