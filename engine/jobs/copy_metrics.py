"""How good found duplicates are, against a `truth.jsonl`: micro-AP, recall at a precision, recall by kind, purity.

Definitions of the Image Similarity Challenge (Douze et al. 2021, arXiv 2106.09672; evaluation of
github.com/facebookresearch/isc2021): all scored pairs of all photos are put into one list by score, the highest first;
where scores are equal those that are wrong come first, so that giving all the same score gains nothing. Micro average
precision is the sum over the right pairs of the precision of the list down to each, divided by the number of planted
pairs. Here a pair is of two photos of one collection, in no order. A pair whose photos are copies of the same photo by
way of others, and that was not planted itself, is neither right nor wrong.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.jobs.copy_truth import ALL_KINDS, BURST, CopyTruth
from engine.jobs.decisions import rows_among

if TYPE_CHECKING:
    from engine.jobs.dedup import Duplicates

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

PRECISION = 0.9  # of the challenge's second figure


@dataclass(frozen=True, kw_only=True)
class KindFound:
    """Of the planted pairs of one kind: how many there are, and how many were found."""

    planted: int
    found: int

    @property
    def recall(self) -> float | None:
        """The share found; None where nothing was planted."""
        return self.found / self.planted if self.planted else None


@dataclass(frozen=True, kw_only=True)
class TruthReport:
    """How found pairs compare with the planted ones.

    kinds: by kind, in the order of ALL_KINDS; those of `burst` are not duplicates. precision: share of the found pairs
    whose photos are copies of the same original, or that original itself; None where no pair was found. recall: share
    of the planted pairs, without bursts, that was found. micro_ap, recall_at_p90: as above; the latter is None where no
    score is high enough for a precision of 0.9, and threshold_at_p90 is the score that reaches it. purity: share of the
    photos in groups that belong to the original most common in their group; pure_groups: share of the groups with one
    original alone. None wherever there is nothing to take a share of.
    """

    kinds: dict[str, KindFound]
    precision: float | None
    recall: float | None = None
    micro_ap: float | None = None
    recall_at_p90: float | None = None
    threshold_at_p90: float | None = None
    purity: float | None = None
    pure_groups: float | None = None

    @property
    def bursts_found(self) -> int:
        """How many planted pairs of a burst were taken for duplicates."""
        return self.kinds[BURST].found

    def document(self) -> dict[str, Any]:
        """The report as JSON values."""
        kinds = {
            name: {"planted": kind.planted, "found": kind.found, "recall": kind.recall}
            for name, kind in self.kinds.items()
        }
        figures = ("precision", "recall", "micro_ap", "recall_at_p90", "threshold_at_p90", "purity", "pure_groups")
        return {"kinds": kinds} | {name: getattr(self, name) for name in figures} | {"bursts_found": self.bursts_found}


@dataclass(frozen=True, kw_only=True)
class FoundPairs:
    """What is scored: pairs (m, 2), a < b, each once; scores (m,), higher is more alike; copies as in `Duplicates`.

    groups: the photo ids of each; none unless given. judged: (j, 2), a < b: left out, identical photos among them.
    """

    pairs: I64
    scores: npt.NDArray[np.floating]
    copies: I64
    groups: tuple[tuple[int, ...], ...] = ()
    judged: I64 = field(default_factory=lambda: np.empty((0, 2), np.int64))


def micro_average_precision(scores: npt.NDArray[np.floating], right: Mask, planted: int) -> float:
    """The micro-AP of scored pairs (m,) of which some are `right`, where so many are planted; 0 to 1."""
    precisions = _precisions(scores, right)[0]
    hits = right[_order(scores, right)]
    return float(precisions[hits].sum() / planted)


def recall_at_precision(
    scores: npt.NDArray[np.floating], right: Mask, planted: int, least: float = PRECISION
) -> tuple[float, float] | None:
    """The highest recall at which the precision is at least so much, and the least score there; None: never."""
    precisions, found = _precisions(scores, right)
    good = np.flatnonzero(precisions >= least)
    if not len(good):
        return None
    # The last such place; the first with as many right pairs, so that the score is the highest that does.
    place = int(good[np.searchsorted(found[good], found[good[-1]])])
    return float(found[place] / planted), float(scores[_order(scores, right)][place])


def _order(scores: npt.NDArray[np.floating], right: Mask) -> I64:
    return np.lexsort((right, -scores))


def _precisions(scores: npt.NDArray[np.floating], right: Mask) -> tuple[F64, I64]:
    """Down to each place of the list: its precision, and how many are right."""
    found = np.cumsum(right[_order(scores, right)], dtype=np.int64)
    return found / np.arange(1, len(found) + 1), found


def group_purity(groups: tuple[tuple[int, ...], ...], truth: CopyTruth) -> tuple[float | None, float | None]:
    """The purity of groups of photo ids, and the share of pure groups; None where there are no groups.

    Purity as in Manning, Raghavan and Schütze, Introduction to Information Retrieval, 16.3.
    """
    if not groups:
        return None, None
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    photos = np.fromiter((photo for group in groups for photo in group), np.int64, len(number))
    each, counts = np.unique(np.stack([number, truth.original(photos)], axis=1), axis=0, return_counts=True)
    most = np.zeros(len(groups), np.int64)
    np.maximum.at(most, each[:, 0], counts)
    return float(most.sum() / len(photos)), float((np.bincount(each[:, 0]) == 1).mean())


def score_pairs(found: FoundPairs, truth: CopyTruth) -> TruthReport:
    """All figures of found pairs.

    Large classes of identical photos stand in the pairs by their lowest photo alone: a planted pair of such photos is
    found with the score of what stands for it, and with 1 where that is one photo.
    """
    reached = _scores_of(truth.pairs, found)
    there, hits = Counter(truth.kinds), Counter(np.asarray(truth.kinds, object)[~np.isnan(reached)].tolist())
    same = truth.same(found.pairs)
    copies = np.flatnonzero([kind != BURST for kind in truth.kinds])
    copies = copies[np.unique(truth.pairs[copies], axis=0, return_index=True)[1]]  # a pair that is there twice: once
    right = reached[copies]
    right = right[~np.isnan(right)]
    scores = np.concatenate([right, found.scores[~same].astype(np.float64)])
    labels = np.arange(len(scores)) < len(right)
    count = len(copies)
    at_p90 = recall_at_precision(scores, labels, count) if count else None
    purity, pure = group_purity(found.groups, truth)
    return TruthReport(
        kinds={kind: KindFound(planted=there[kind], found=hits[kind]) for kind in ALL_KINDS},
        precision=float(same.mean()) if len(same) else None,
        recall=len(right) / count if count else None,
        micro_ap=micro_average_precision(scores, labels, count) if count else None,
        recall_at_p90=at_p90[0] if at_p90 else None, threshold_at_p90=at_p90[1] if at_p90 else None,
        purity=purity, pure_groups=pure,
    )  # fmt: skip


def _scores_of(pairs: I64, found: FoundPairs) -> F64:
    """The scores with which some pairs (t, 2), a < b, were found, (t,); NaN: not found."""
    lowest = dict(found.copies.tolist())
    stand_in = np.array([lowest.get(photo, photo) for photo in pairs.ravel().tolist()], np.int64).reshape(-1, 2)
    stand_in.sort(axis=1)
    photos = np.unique(np.concatenate([found.pairs.ravel(), pairs.ravel(), stand_in.ravel()]))

    def keys(some: I64) -> I64:
        at = np.searchsorted(photos, some)
        return np.asarray(at[:, 0] * len(photos) + at[:, 1], np.int64)

    known = keys(found.pairs)
    order = np.argsort(known)
    known, scores = known[order], found.scores[order].astype(np.float64)
    result = np.where(stand_in[:, 0] == stand_in[:, 1], 1.0, np.nan)
    for some in (stand_in, pairs):
        wanted = keys(some)
        at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        if len(known):
            result = np.where(known[at] == wanted, scores[at], result)
    return np.where(rows_among(pairs, found.judged), np.nan, result)


def score_against_truth(duplicates: "Duplicates", truth: CopyTruth) -> TruthReport:
    """All figures of what `find_duplicates` found."""
    found = FoundPairs(
        pairs=duplicates.pairs, scores=duplicates.scores, copies=duplicates.copies,
        groups=tuple(group.photo_ids for group in duplicates.groups), judged=duplicates.judged,
    )  # fmt: skip
    return score_pairs(found, truth)
