"""Scores beside what is usual for their photos: a pair counts for more where its photos are seldom like any other.

s′(a, b) = s(a, b) − (t(a) + t(b)) / 2 + t̄, where t(x) is the score of the tenth neighbour of x that is no copy of it,
identical ones counted once, and t̄ its mean over a sample, which leaves scores where they were on the whole. M. Douze
et al., "The 2021 Image Similarity Dataset and Challenge", arXiv:2106.09672, subtract the score of the n-th neighbour
(n = 10, factor 1) in a background set from that of a query; here the store is its own background, and both photos are
queries.
"""

import numpy as np
import numpy.typing as npt

from engine.index.searcher import Searcher
from engine.jobs.dedup_nearest import TENTH, neighbor_scores
from engine.jobs.dedup_photos import F32, I64, Photos
from engine.progress import Progress, silent


def normalised(
    searcher: Searcher,
    photos: Photos,
    lowest: I64,
    pairs: I64,
    scores: F32,
    typical: float,
    progress: Progress = silent,
) -> F32:
    """The normalised scores (m,) of pairs (m, 2) of row numbers with these scores."""
    rows, number = np.unique(pairs, return_inverse=True)
    usual = typical_scores(searcher, photos, lowest, rows, typical, progress)[number].reshape(-1, 2)
    return np.asarray(scores - usual.mean(axis=1) + typical, np.float32)


def typical_scores(
    searcher: Searcher, photos: Photos, lowest: I64, rows: I64, typical: float, progress: Progress = silent
) -> npt.NDArray[np.float64]:
    """The score (r,) of the tenth neighbour of each row; `typical` where there are not so many."""
    tenth = neighbor_scores(searcher, photos, lowest, rows, progress).scores[:, TENTH]
    return np.where(np.isfinite(tenth), tenth, typical)
