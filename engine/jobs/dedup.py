"""Duplicates in a store: every photo searched in the index, pairs of high cosine, and groups."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.jobs.groups import DuplicateGroup, equal_rows, expand, group_photos
from engine.progress import Progress, silent
from kernels import Codes

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

# Between the near duplicates and the bursts of the sample collection: benchmarks/results/sample_statistics.md. Scores
# of unlike photos lie closer together in fc8 (to 0.966 by chance, bursts to 0.971), so its threshold is higher.
THRESHOLDS = {"fc7": 0.95, "fc8": 0.975}
OTHER_LAYERS = 0.95
BLOCK_QUERIES, BLOCK_ENTRIES = 1024, 1 << 22
# Near-identical rows have near-identical codes: they share a list, or lie in lists next to each other, and are among
# the first candidates.
PROBES, CANDIDATES_PER_NEIGHBOR = 16, 4
# Past this, IVF-PQ on CUDA answers no more; the few photos that ask for so many are compared with all rows.
MOST_CANDIDATES = 2048
# Neighbours by distance or inner product are re-ranked by cosine: take this many times more of them. The largest inner
# products belong to long rows, whatever their direction.
WIDER = {"cosine": 1, "l2": 4, "ip": 8}
# About 300 bytes each while they are grouped. Where there are more, nearly everything is like everything else.
MOST_PAIRS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class DedupSpec:
    """What a duplicate is and how it is looked for.

    threshold: least cosine of the raw rows, in (0, 1], whatever the metric of the index; None is the default of the
    layer (fc7 0.95, fc8 0.975, others 0.95). neighbors: how many are looked at first; a photo whose neighbours are all
    duplicates is searched again with twice as many. search: probes and candidates (its k is not used).
    """

    threshold: float | None = None
    neighbors: int = 32
    search: SearchSpec | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold}: expected a cosine above 0 and up to 1, such as 0.95")
        if self.neighbors < 1:
            raise InputError(f"--neighbors {self.neighbors}: expected 1 or more")

    def threshold_for(self, layer: str) -> float:
        """The threshold that holds for a layer."""
        return self.threshold if self.threshold is not None else THRESHOLDS.get(layer, OTHER_LAYERS)


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The duplicates of a store.

    pairs: (m, 2) int64 photo ids, a < b, ascending, each once. scores: (m,) float32, their cosines. groups: by size
    descending. copies: (c, 2) int64, each photo whose row has the very same bytes as that of a lower photo id, and the
    lowest such id. photos: in the store, without the removed ones, which are in nothing here. searched_again: photos
    whose first neighbours were all duplicates. seconds: by phase. layer, metric, device: of the index.
    """

    pairs: I64
    scores: F32
    groups: tuple[DuplicateGroup, ...]
    copies: I64
    threshold: float
    photos: int
    searched_again: int
    seconds: dict[str, float]
    layer: str
    metric: str
    device: str

    @property
    def grouped(self) -> int:
        """How many photos are in groups."""
        return sum(len(group.photo_ids) for group in self.groups)


def find_duplicates(index: Index, spec: DedupSpec | None = None, progress: Progress = silent) -> Duplicates:
    """All pairs of photos with a cosine of at least the threshold, and groups of them.

    Rows of the same bytes are duplicates with score 1 at any threshold, rows of zeros too, although the cosine with a
    zero row is 0 by definition. Each distinct row is searched once. Memory is bounded by the pairs (InputError past
    MOST_PAIRS) and one block of queries. Exhaustive where the index has no lists; through lists, every pair of an exact
    join was found among 20,000 photos of the sample collection, in both layers, at the default thresholds and at 0.9
    (fc7) and 0.95 (fc8). An index for inner products may miss pairs of short rows: build one for cosine.
    """
    spec = spec or DedupSpec()
    store, layer, threshold = index.store, index.layer, spec.threshold_for(index.layer)
    started = time.perf_counter()
    lowest = equal_rows(store, layer, progress)
    copied = np.flatnonzero((lowest >= 0) & (lowest != np.arange(len(store))))
    summed = time.perf_counter()
    near, near_scores, searched_again = _Join(index, spec, lowest, progress).run()
    joined = time.perf_counter()
    progress("group", 0, 0, unit="pairs")
    ids = store.photo_ids
    copies = np.stack([ids[copied], ids[lowest[copied]]], axis=1)
    copies = copies[np.argsort(copies[:, 0])]
    distinct = np.sort(ids[near], axis=1)
    groups = group_photos(distinct, near_scores, copies)
    pairs, scores = expand(distinct, near_scores, copies)
    ended = time.perf_counter()
    return Duplicates(
        pairs=pairs, scores=scores, groups=groups, copies=copies, threshold=threshold, photos=store.photos,
        searched_again=searched_again, layer=layer, metric=index.manifest.spec.metric, device=str(index.device),
        seconds={"checksums": summed - started, "search": joined - summed, "group": ended - joined},
    )  # fmt: skip


class _Join:
    """The search of every distinct row of a layer among all rows; of removed photos neither."""

    def __init__(self, index: Index, spec: DedupSpec, lowest: I64, progress: Progress) -> None:
        self.index, self.spec, self.lowest, self.progress = index, spec, lowest, progress
        self.threshold = spec.threshold_for(index.layer)
        self.most = max(index.photos - 1, 0)
        self._keys: list[I64] = []
        self._scores: list[F32] = []
        self._count = 0

    def run(self) -> tuple[I64, F32, int]:
        """Pairs (m, 2) of distinct rows, each the lowest of its class; scores (m,); how many were searched again."""
        waiting, k, again = np.unique(self.lowest[self.lowest >= 0]), min(self.spec.neighbors, self.most), 0
        while len(waiting) and k:
            full = [self._block(rows, k) for rows in self._blocks(waiting, k)]
            waiting = np.concatenate(full)
            again = again or len(waiting)
            k = min(2 * k, self.most) if k < self.most else 0
        keys = np.concatenate([np.empty(0, np.int64), *self._keys])
        scores = np.concatenate([np.empty(0, np.float32), *self._scores])
        keys, first = np.unique(keys, return_index=True)  # most pairs were found from both sides
        return np.stack(np.divmod(keys, len(self.index)), axis=1), scores[first], again

    def _blocks(self, rows: I64, k: int) -> Iterator[I64]:
        size = max(1, min(BLOCK_QUERIES, BLOCK_ENTRIES // k))
        phase = "search" if k <= self.spec.neighbors else f"search {k:,} neighbors"
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
            self.progress(phase, min(start + size, len(rows)), len(rows), unit="photos")

    def _block(self, rows: I64, k: int) -> I64:
        """Search rows for k neighbours each and keep their pairs; the rows that must be searched again."""
        near, scores = self._neighbors(rows, k)
        # Wider than float32, so that no reported score is below the threshold as the user wrote it.
        close = scores.astype(np.float64) >= self.threshold
        cut = (close | (near < 0)).all(axis=1) if k < self.most else np.zeros(len(rows), np.bool_)
        close[cut] = False
        who, place = np.nonzero(close)
        a, b = rows[who], self.lowest[near[who, place]]
        other = a != b
        low, high = np.minimum(a, b)[other], np.maximum(a, b)[other]
        keys, first = np.unique(low * len(self.index) + high, return_index=True)
        self._keys.append(keys)
        self._scores.append(scores[who, place][other][first])
        self._count += len(keys)
        if self._count > 2 * MOST_PAIRS:  # most pairs are found from both sides
            raise InputError(
                f"--threshold {self.threshold:g}: more than {MOST_PAIRS:,} pairs of {self.index.layer} have such a "
                "cosine, too many to be duplicates. Give a higher one."
            )
        return rows[cut]

    def _neighbors(self, rows: I64, k: int) -> tuple[I64, F32]:
        """Row numbers (q, k) of neighbours, −1 = absent, and their cosines (q, k)."""
        index, asked = self.index, self._settings(k)
        store, metric = index.store, index.manifest.spec.metric
        queries = np.ascontiguousarray(store.layer(index.layer)[rows])
        own = store.photo_ids[rows]
        if asked is None:
            found = exact_search(
                store, index.layer, queries, k, metric="cosine", kernels=index.kernels, exclude=own
            )  # fmt: skip
        else:
            found = index.search(queries, asked, exclude=own)
        near = np.full(found.photo_ids.shape, -1, np.int64)
        here = found.photo_ids >= 0
        near[here] = store.rows_of(found.photo_ids[here])
        if asked is None or metric == "cosine":
            return near, found.scores
        return index.kernels.rerank(queries, near, Codes(store.layer(index.layer)), "cosine", k)

    def _settings(self, k: int) -> SearchSpec | None:
        """How to search the index for k neighbours by cosine; None: compare with all rows instead."""
        index, user = self.index, self.spec.search
        wanted = min(WIDER[index.manifest.spec.metric] * k, self.most)
        candidates = max(CANDIDATES_PER_NEIGHBOR * wanted, user.rerank if user and user.rerank else 0)
        probes = user.probes if user and user.probes else max(PROBES, index.manifest.probes // 4)
        if not index.shards or candidates >= index.photos:
            return None
        if index.device.kind == "cuda" and candidates > MOST_CANDIDATES:
            return None
        return SearchSpec(k=wanted, probes=probes, rerank=candidates)
