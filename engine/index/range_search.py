"""All photos that score at least so much: searches for more and more neighbours, until the last of them scores less."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from engine.index.result import SearchResult

# search(queries' places (m,), k): the k nearest of some of the queries.
Search = Callable[[npt.NDArray[np.int64], int], SearchResult]
FIRST, WIDER = 32, 4
BLOCK = 1 << 20  # neighbours held at once


def range_search(search: Search, queries: int, least: float, most: int) -> Iterator[tuple[int, SearchResult]]:
    """The neighbours of each query that score at least `least`, best first, `most` at most; (first query, result).

    Results come in order, each of consecutive queries and as wide as the longest of them: absent = −1 and −inf.
    """
    for start in range(0, queries, BLOCK // FIRST):
        at = np.arange(start, min(start + BLOCK // FIRST, queries))
        yield from _some(search, at, least, min(FIRST, most), most)


def _some(
    search: Search, at: npt.NDArray[np.int64], least: float, k: int, most: int
) -> Iterator[tuple[int, SearchResult]]:
    """Search for k, and for more where all k score enough: so few queries at once that they fit."""
    found = search(at, k)
    wanting = (found.scores[:, -1] >= least) & (k < most)
    if not wanting.any():
        yield int(at[0]), _trimmed(found, least)
        return
    wider = min(WIDER * k, most)
    together = max(BLOCK // wider, 1)
    ends = [0]  # runs of queries that are done, or that want more and fit together
    for i in range(1, len(at)):
        if wanting[i] != wanting[i - 1] or (wanting[i] and i - ends[-1] == together):
            ends.append(i)
    for begin, end in zip(ends, [*ends[1:], len(at)], strict=True):
        if wanting[begin]:
            yield from _some(search, at[begin:end], least, wider, most)
        else:
            done = SearchResult(photo_ids=found.photo_ids[begin:end], scores=found.scores[begin:end])
            yield int(at[begin]), _trimmed(done, least)


def _trimmed(found: SearchResult, least: float) -> SearchResult:
    enough = (found.scores >= least) & (found.photo_ids >= 0)
    width = max(int(enough.sum(axis=1).max(initial=0)), 1)
    ids, scores = np.where(enough, found.photo_ids, -1), np.where(enough, found.scores, -np.inf)
    return SearchResult(photo_ids=ids[:, :width], scores=scores[:, :width].astype(np.float32))
