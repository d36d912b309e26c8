"""Duplicates in a store: every pair of photos above a threshold, and groups of them."""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.fused import FusedIndex
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.jobs import (
    dedup_ceilings,
    dedup_exhaustive,
    dedup_join,
    dedup_nearest,
    dedup_threshold,
)
from engine.jobs.decisions import Decisions
from engine.jobs.dedup_bursts import burst_pairs
from engine.jobs.dedup_ceilings import ceilings_of
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_groups import GROUPINGS, Grouping, grouped
from engine.jobs.dedup_near import NearPairs
from engine.jobs.dedup_normalise import normalised
from engine.jobs.dedup_photos import F32, I64, Photos, indices_of, searcher_of
from engine.jobs.dedup_threshold import ThresholdChoice
from engine.jobs.groups import DuplicateGroup
from engine.jobs.identical import copies_of, equal_rows
from engine.jobs.parted import parted
from engine.progress import Progress, silent
from engine.version import VERSION

Method = Literal["index", "exhaustive"]
# Pairs that score so much less than the threshold may reach it once their scores are normalised; others are not seen.
NORMALISED_BELOW = 0.03


@dataclass(frozen=True, kw_only=True)
class DedupSpec:
    """What a duplicate is and how it is looked for.

    threshold: least cosine of the raw rows, in (0, 1], whatever the metric of the index (of several layers: their
    weighted mean); None is one chosen from the data, see `dedup_threshold`. false_pairs: the rate of unrelated pairs
    for each photo that it is chosen by, instead. method: through the axes of the index, or every row with every other.
    groups: medoid, all are duplicates of the representative; complete, all of each other; components, chains.
    normalise: scores beside what is usual for their photos, see `dedup_normalise`. decisions: pairs that are none.
    """

    threshold: float | None = None
    false_pairs: float | None = None
    method: Method = "index"
    groups: Grouping = "medoid"
    normalise: bool = False
    decisions: Decisions | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold}: expected a cosine above 0 and up to 1, such as 0.95")
        if self.false_pairs is not None and not 0 < self.false_pairs < 1:
            raise InputError(f"--false-pairs {self.false_pairs}: expected a rate between 0 and 1, such as 0.001")
        if self.threshold is not None and self.false_pairs is not None:
            raise InputError("--threshold beside --false-pairs: choose one")
        if self.groups not in GROUPINGS:
            raise InputError(f"--groups {self.groups}: expected one of {', '.join(GROUPINGS)}")


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The duplicates of a store.

    pairs: (m, 2) int64 photo ids, a < b, ascending, each once. scores: (m,) float32, their cosines, 1 for identical
    photos. bursts: (m,) bool, several shots of one owner within minutes, if annotations say so. groups: by size
    descending. copies: (c, 2) int64, each photo whose row has the very same values as that of a lower photo id, and the
    lowest such id. photos: in the store, without the removed ones, which are in nothing here. judged: (j, 2) int64,
    pairs that would be duplicates and were judged to be none: they are in no group and not in `pairs`. resumed: blocks
    of an interrupted run. seconds: by phase. metric: of the index.
    """

    pairs: I64
    scores: F32
    groups: tuple[DuplicateGroup, ...]
    copies: I64
    threshold: float
    photos: int
    seconds: dict[str, float]
    layer: str
    metric: str
    device: str
    threshold_choice: ThresholdChoice | None = None
    bursts: npt.NDArray[np.bool_] | None = None
    judged: I64 = field(default_factory=lambda: np.empty((0, 2), np.int64))
    resumed: int = 0
    method: Method = "index"
    grouping: Grouping = "medoid"
    normalised: bool = False

    @property
    def grouped(self) -> int:
        """How many photos are in groups."""
        return len({photo for group in self.groups for photo in group.photo_ids})

    @property
    def ungrouped(self) -> int:
        """How many photos are in pairs and in no group.

        Those that each is alike to, or of one burst with, are in groups around others, or were judged different from
        somebody there.
        """
        held = np.fromiter((photo for group in self.groups for photo in group.photo_ids), np.int64)
        return len(np.setdiff1d(self.pairs, held))


def find_duplicates(
    where: Index | FusedIndex | Searcher,
    spec: DedupSpec | None = None,
    progress: Progress = silent,
    *,
    unfinished: Path | None = None,
    device: str = "cpu",
) -> Duplicates:
    """All pairs of photos whose score is at least the threshold, and groups of them.

    Rows of the same values are duplicates with score 1 at any threshold, rows of zeros too, although the cosine with a
    zero row is 0 by definition. Through an index nothing is missed either: its axes bound every score, and only a pair
    whose bound reaches the threshold is looked at (the last of the bounds, by 4-bit codes, allows for twice the largest
    error that is seen on a sample). Whatever the metric of the index, scores are cosines.

    unfinished: a folder that keeps what is done, so that a run that was killed goes on with the same call; take it
    away with `dedup_files.remove`. Memory beyond it is bounded by the pairs (InputError past MOST_PAIRS) and 64 bytes
    a photo. device: as which a searcher without an index is reported.
    """
    spec, searcher = spec or DedupSpec(), searcher_of(where)
    photos, clock = Photos.of(searcher), Clock()
    indices = None if spec.method == "exhaustive" else indices_of(searcher)
    with Unfinished(unfinished, job_of(searcher, spec)) as files:
        ceilings = ceilings_of(photos, indices, files, progress)
        lowest = equal_rows(ceilings.sums, photos.ids, photos.present)
        clock.lap("rows")
        nearest = dedup_nearest.nearest_scores(searcher, photos, lowest, progress)
        choice = dedup_threshold.choose(
            nearest, dedup_threshold.default_threshold(photos), given=spec.threshold, rate=spec.false_pairs
        )
        clock.lap("threshold")
        least = choice.threshold - (NORMALISED_BELOW if spec.normalise else 0)
        distinct = np.unique(lowest[lowest >= 0])
        known = NearPairs(photos=photos, indices=indices, ceilings=ceilings, nearest=nearest)
        near, scores = known.find(distinct, least, files, progress)
        resumed = files.resumed
    if spec.normalise and choice.typical is not None:
        scores = normalised(searcher, photos, lowest, near, scores, choice.typical, progress)
    clock.lap("search")
    choice = dedup_threshold.refine(choice, nearest, best_scores(near, scores))
    good = scores.astype(np.float64) >= choice.threshold
    progress("group", 0, 0, unit="pairs")
    told = spec.decisions or Decisions()
    found = grouped(
        photos.ids[near[good]], scores[good], copies_of(lowest, photos.ids),
        partial(burst_pairs, searcher.store, copies=choice.copies), spec.groups, told,
    )  # fmt: skip
    clock.lap("group")
    every = Duplicates(
        **found, threshold=choice.threshold, threshold_choice=choice, photos=searcher.store.photos,
        layer=searcher.layer, metric=searcher.metric, device=_device(searcher, device), method=spec.method,
        grouping=spec.groups, normalised=spec.normalise, resumed=resumed, seconds=clock.seconds,
    )  # fmt: skip
    return parted(every, told)


def job_of(searcher: Searcher, spec: DedupSpec, **more: Any) -> dict[str, Any]:
    """What blocks depend on: only a run that means the same may go on with those of another."""
    store, indices = searcher.store, indices_of(searcher)
    return {
        "job": "dedup",
        "engine": VERSION,
        "blocks": [
            dedup_ceilings.BLOCK_ROWS,
            dedup_ceilings.FIRST,
            dedup_ceilings.LEADING,
            dedup_join.BLOCKS,
            dedup_join.LEAST_WORK,
            *dedup_exhaustive.LINES.values(),
        ],
        "store": store.manifest.state,
        "removed": store.manifest.removed.xxh3 if store.manifest.removed else None,
        "layer": searcher.layer,
        "weights": list(searcher.fused.weights) if searcher.fused else None,
        "indices": [index.manifest.digest for index in indices or ()],
        "kernels": type(searcher.kernels.xp).__name__ + searcher.kernels.xp.__name__,
        "method": spec.method,
        "threshold": spec.threshold,
        "false_pairs": spec.false_pairs,
        "normalise": spec.normalise,
    } | more


def best_scores(pairs: I64, scores: F32) -> npt.NDArray[np.float64]:
    """The best score (p,) of each photo that is in a pair."""
    photos, number = np.unique(pairs, return_inverse=True)
    best = np.full(len(photos), -np.inf)
    np.maximum.at(best, number.reshape(-1), np.repeat(scores.astype(np.float64), 2))
    return best


class Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """The phase that ends now."""
        now = time.perf_counter()
        self.seconds[phase], self._last = now - self._last, now


def _device(searcher: Searcher, otherwise: str) -> str:
    indices = indices_of(searcher)
    return str(indices[0].device) if indices else otherwise
