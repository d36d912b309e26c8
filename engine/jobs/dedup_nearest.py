"""The scores of photos with their nearest neighbours, none of which is an exact copy."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.index.searcher import Searcher
from engine.index.spec import SearchSpec
from engine.jobs.dedup_photos import F32, I64, Photos
from engine.progress import Progress, silent

SAMPLE, SEED = 2000, 0
NEIGHBORS, SPARE = 16, 8
TENTH = 9  # the place of the neighbour whose score is a photo's typical one
TOGETHER = 1024  # photos that are looked at at once
DEEPER, MOST = 4, 1024  # neighbours, where copies of one photo are many
# Neighbours by distance or inner product are compared by cosine: so many times more of them.
_MORE = {"cosine": 1, "l2": 4, "ip": 8}


@dataclass(frozen=True, kw_only=True)
class NearestScores:
    """Of a sample of photos: scores (s, 16) float64 of their neighbours, best first, −inf = absent, none a copy.

    pairs, known: (p, 2) and (p,), photo numbers and exact scores of all that was compared.
    """

    scores: npt.NDArray[np.float64]
    pairs: I64
    known: F32


def nearest_scores(searcher: Searcher, photos: Photos, lowest: I64, progress: Progress = silent) -> NearestScores:
    """The neighbours of a sample of the first store's photos; lowest: (n,) the class of each, −1 for removed ones."""
    mine = lowest[: len(searcher.store)]
    distinct = np.unique(mine[mine >= 0])
    chosen = np.sort(np.random.default_rng(SEED).choice(distinct, min(SAMPLE, len(distinct)), replace=False))
    return neighbor_scores(searcher, photos, lowest, chosen, progress)


def neighbor_scores(
    searcher: Searcher, photos: Photos, lowest: I64, rows: I64, progress: Progress = silent
) -> NearestScores:
    """The neighbours of these rows of the first store, of photos that are copies of each other one.

    As the index finds them; of one by distance or inner product, the best by cosine of 4 or 8 times as many.
    """
    most = searcher.store.photos - 1
    k = min((NEIGHBORS + SPARE) * _MORE[searcher.metric], most)
    every = [_none()]
    for start in range(0, len(rows) if k > 0 else 0, TOGETHER):
        some = rows[start : start + TOGETHER]
        every.append(_scored(photos, lowest, some, _neighbors(searcher, some, k)))
        wider = k
        while (short := np.flatnonzero(np.isinf(every[-1].scores[:, -1]))).size and wider < min(most, MOST):
            wider = min(DEEPER * wider, most, MOST)  # copies have taken the places of others
            again = _scored(photos, lowest, some[short], _neighbors(searcher, some[short], wider))
            every[-1].scores[short] = again.scores
        progress("look at neighbours", start + len(some), len(rows), unit="photos")
    scores = np.concatenate([part.scores for part in every])
    if k <= 0:
        scores = np.full((len(rows), NEIGHBORS), -np.inf)
    return NearestScores(
        scores=scores,
        pairs=np.concatenate([part.pairs for part in every]),
        known=np.concatenate([part.known for part in every]),
    )


def _none() -> NearestScores:
    return NearestScores(
        scores=np.empty((0, NEIGHBORS)), pairs=np.empty((0, 2), np.int64), known=np.empty(0, np.float32)
    )


def _scored(photos: Photos, lowest: I64, rows: I64, near: I64) -> NearestScores:
    """The exact scores of neighbours (q, k), −1 = absent, but of one of each class alone, and none of the own class."""
    classes = np.where(near >= 0, lowest[near], -1)
    good = (classes >= 0) & (classes != lowest[rows][:, None])
    pairs = np.stack([np.repeat(rows, good.sum(axis=1)), near[good]], axis=1)
    known = photos.scores(pairs)
    # The first of each class: copies of one photo say the same.
    order = np.argsort(np.where(good, classes, -1), axis=1, kind="stable")
    ordered = np.take_along_axis(np.where(good, classes, -1), order, axis=1)
    again = np.zeros(near.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    every = np.full(near.shape, -np.inf)
    every[good] = known
    every = -np.sort(-np.where(again, -np.inf, every), axis=1)[:, :NEIGHBORS]
    scores = np.full((len(rows), NEIGHBORS), -np.inf)
    scores[:, : min(near.shape[1], NEIGHBORS)] = every
    return NearestScores(scores=scores, pairs=pairs, known=known)


def _neighbors(searcher: Searcher, rows: I64, k: int) -> I64:
    """Row numbers (q, k) of neighbours, −1 = absent."""
    store = searcher.store
    layers = searcher.fused.layers if searcher.fused else (searcher.layer,)
    queries = np.hstack([np.asarray(store.layer(layer)[rows], np.float32) for layer in layers])
    found = searcher.search(queries, SearchSpec(k=k), exclude=store.photo_ids[rows]).photo_ids
    near = np.full(found.shape, -1, np.int64)
    if (found >= 0).any():
        near[found >= 0] = store.rows_of(found[found >= 0])
    return near
