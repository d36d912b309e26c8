"""The groups of a report as columns of JSON: what the page draws from, small and soon parsed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup, Kind
from engine.jobs.pair_scores import PairScores

I64 = npt.NDArray[np.int64]

# What keeps the page below 50 MB with everything in it, and quick. The files beside it always hold all.
LISTED_GROUPS, LISTED_PHOTOS, LISTED_IN_A_GROUP = 250_000, 500_000, 500
CREDITS_BYTES = 12_000_000
KINDS = get_args(Kind)
_WHOLE = 1_000_000  # a score of 1; others are whole millionths
_EXACT_NUMBERS = 1 << 53  # up to here every whole number is one of JavaScript's too


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The groups that the page shows, and their photos one group after the other.

    groups: by size descending. listed: (g,) how many photos of each are shown. photos: (p,) ids, the representative
    of a group first, the others by score descending, then by id. scores: (p,) float32 with the representative, which
    itself has 1; NaN where the two are no pair.
    """

    groups: tuple[DuplicateGroup, ...]
    listed: I64
    photos: I64
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, duplicates: Duplicates) -> "Listing":
        """The largest groups, as far as the page may hold them; of each at least the representative."""
        listed = np.array([min(len(g.photo_ids), LISTED_IN_A_GROUP) for g in duplicates.groups[:LISTED_GROUPS]], int)
        listed = listed[np.cumsum(listed) <= LISTED_PHOTOS]
        groups = duplicates.groups[: len(listed)]
        number = np.repeat(np.arange(len(groups)), [len(group.photo_ids) for group in groups])
        photos = np.fromiter((photo for group in groups for photo in group.photo_ids), np.int64)
        heads = np.repeat(np.array([group.representative for group in groups], np.int64), np.bincount(number))
        scores = PairScores(duplicates).of(heads, photos)
        scores[heads == photos] = 1
        order = np.lexsort((photos, -np.nan_to_num(scores, nan=-2), heads != photos, number))
        first = np.concatenate([[0], np.cumsum(np.bincount(number))[:-1]]) if len(groups) else np.empty(0, np.int64)
        shown = order[np.arange(len(order)) - first[number[order]] < listed[number[order]]]
        return cls(groups=groups, listed=listed, photos=photos[shown], scores=scores[shown])

    def first_groups(self, groups: int, photos: int) -> tuple[int, list[int]]:
        """How many of the first groups have at most so many photos in all (one is always taken), and their photos."""
        ends = np.cumsum(self.listed)[:groups]
        count = max(int(np.searchsorted(ends, photos, "right")), min(1, len(ends)))
        return count, self.photos[: ends[count - 1] if count else 0][:photos].tolist()

    def columns(self, credits_by_photo: Mapping[int, Mapping[str, str]]) -> dict[str, Any]:
        """The columns, as JSON values; scores in whole millionths, −1 where there is none.

        n, l: photos of a group, and how many of them are here. m: least score. k: kinds, as digits. p, s: photos and
        scores. c: for each photo the number of its credit, or −1; credits: owner, licence, links. Photo ids are texts
        where a number of JavaScript could not hold them.
        """
        ids: list[Any] = self.photos.tolist()
        if any(photo >= _EXACT_NUMBERS for photo in ids):
            ids = list(map(str, ids))
        numbers, table = _credits(self.photos.tolist(), credits_by_photo)
        return {
            "n": [len(group.photo_ids) for group in self.groups],
            "l": self.listed.tolist(),
            "m": _millionths(np.array([group.min_score for group in self.groups], np.float32)),
            "k": "".join(str(KINDS.index(group.kind)) for group in self.groups),
            "p": ids,
            "s": _millionths(self.scores),
            "c": numbers if table else [],
            "credits": table,
        }


def _millionths(scores: npt.NDArray[np.float32]) -> list[int]:
    wide = scores.astype(np.float64)
    whole = np.where(wide < 1, np.minimum(np.rint(wide * _WHOLE), _WHOLE - 1), _WHOLE)  # 1 is for a score of 1 alone
    found: list[int] = np.where(np.isnan(wide), -1, whole).astype(np.int64).tolist()
    return found


def _credits(photos: list[int], known: Mapping[int, Mapping[str, str]]) -> tuple[list[int], list[list[str]]]:
    """For each photo the number of its credit (−1: none), and the credits: owner, licence, licence_url, url.

    In a url {id} stands for the photo's id: so the photos of one owner share a credit. Once the texts take more than
    CREDITS_BYTES, no further ones are taken in.
    """
    if not known:
        return [], []
    numbers: dict[tuple[str, ...], int] = {}
    found, room = [], CREDITS_BYTES
    for photo in photos:
        credit = known.get(photo, {})
        url = credit.get("url", "").replace("{", "%7B").replace(str(photo), "{id}")
        key = (credit.get("owner", ""), credit.get("licence", ""), credit.get("licence_url", ""), url)
        if key not in numbers and any(key):
            room -= sum(map(len, key)) + 16
            if room >= 0:
                numbers[key] = len(numbers)
        found.append(numbers.get(key, -1))
    return found, [list(key) for key in numbers]
