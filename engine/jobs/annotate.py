"""Tags for a photo from those of its neighbours: weighted votes, less what chance would give.

Every neighbour votes for its tags with a weight; a tag's share v is the weight of the neighbours that have it by that
of all. The score is v − p by `prior`, p being what a random photo would give: the tag's share of the tagged photos (X.
Li, C. Snoek and M. Worring, "Learning social tag relevance by neighbor voting", IEEE Trans. Multimedia 11, 2009). It is
v times the inverse document frequency by `idf`, (v − p) times it by `both`, and v by `plain`. Weights fall from 1 for
the nearest to 0 for one that scores as the next after the last (S. Dudani, "The distance-weighted k-nearest-neighbor
rule", IEEE Trans. SMC 6, 1976), which serves any metric. Tags of one photo alone, of too many, and of cameras are never
given: see `engine.jobs.relevance`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import InputError
from engine.index.filter import Filter
from engine.index.queries import Questions
from engine.index.query_rows import check_queries
from engine.index.searcher import Searcher
from engine.index.spec import SearchSpec
from engine.jobs.relevance import useful_tags
from engine.jobs.relevance_relation import F64, I64, rows_to_csr
from engine.jobs.relevance_terms import MOST_SHARE, Terms
from engine.progress import Progress, silent
from engine.store.annotations.table import Annotations
from engine.store.store import Store

Votes = Literal["both", "prior", "idf", "plain"]
QUERIES_AT_ONCE = 1024


class AnnotateSpec(BaseModel):
    """How tags are predicted.

    neighbours: that vote. tags: to give each photo, at most. votes: what is made of them: see the module's text.
    probes, rerank: of the search. most_share: tags of more than this share of the tagged photos say nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    neighbours: Annotated[int, Field(ge=1, le=1 << 16)] = 50
    tags: Annotated[int, Field(ge=1, le=1 << 16)] = 5
    votes: Votes = "prior"
    probes: Annotated[int, Field(ge=1)] | None = None
    rerank: Annotated[int, Field(ge=1)] | None = None
    most_share: Annotated[float, Field(gt=0, le=1)] = MOST_SHARE

    def search(self, k: int) -> SearchSpec:
        """The search for so many neighbours."""
        return SearchSpec(k=k, probes=self.probes, rerank=None if self.rerank is None else max(self.rerank, k))


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A tag that a photo may have. share: of the neighbours' weight. photos: of the store that have the tag."""

    tag: str
    score: float
    share: float
    photos: int


@dataclass(frozen=True, kw_only=True)
class Voter:
    """The tags of a store, ready to be voted for."""

    tags: Terms
    votes: Votes
    frequency: I64

    @classmethod
    def of_store(cls, store: Store, votes: Votes, most_share: float) -> "Voter":
        """InputError when the store has no annotations, or no tag that two photos have."""
        table = Annotations.open(store).table(["tags", "camera"])
        tags, _ = useful_tags(table, most_share)
        if store.removed is not None:
            tags = Terms(counts=_without(tags.counts, store.removed), names=tags.names)
        if not tags.known.any():
            raise InputError(f"{store.path}: no two photos have a tag in common, there is nothing to learn from")
        return cls(tags=tags, votes=votes, frequency=tags.frequency())

    def shares(self, rows: I64, scores: npt.NDArray[np.float32]) -> Any:
        """The share of each tag, a SciPy CSR array (q, tags), by neighbours rows (q, k) with their scores, best first,
        −1 = none. The last of each sets the scale alone if there is no absent one.
        """
        weights = distance_weights(scores)
        query, place = np.nonzero((rows >= 0) & (weights > 0))
        shape = len(rows), self.tags.counts.shape[0]
        matrix = rows_to_csr(query, rows[query, place], weights[query, place], shape)
        votes = (matrix @ self.tags.counts).tocsr()
        votes.sort_indices()
        return votes

    def scores(self, shares: Any) -> Any:
        """The score of each tag that has a vote: the same places as the shares (q, tags), filled anew."""
        prior = self.frequency / max(int(self.tags.known.sum()), 1)
        values = shares.data.copy()
        if self.votes in ("both", "prior"):
            values -= prior[shares.indices]
        if self.votes in ("both", "idf"):
            values *= self.tags.idf()[shares.indices]
        return type(shares)((values, shares.indices, shares.indptr), shape=shares.shape)

    def guesses(self, rows: I64, scores: npt.NDArray[np.float32], most: int) -> list[list[Guess]]:
        """The tags of the greatest scores above 0 for each query, best first; of equal ones the more frequent first."""
        shares = self.shares(rows, scores)
        graded = self.scores(shares)
        found = []
        for start, stop in zip(graded.indptr[:-1].tolist(), graded.indptr[1:].tolist(), strict=True):
            tags, values, part = graded.indices[start:stop], graded.data[start:stop], shares.data[start:stop]
            order = np.lexsort((tags, -self.frequency[tags], -values))[:most]
            found.append([
                Guess(
                    tag=self.tags.names[tags[i]], score=round(float(values[i]), 6), share=round(float(part[i]), 6),
                    photos=int(self.frequency[tags[i]]),
                )
                for i in order.tolist() if values[i] > 0
            ])  # fmt: skip
        return found


def _without(counts: Any, removed: npt.NDArray[np.bool_]) -> Any:
    """The counts (n, terms) with none in removed rows."""
    kept = counts.copy()
    kept.data[np.repeat(removed, np.diff(kept.indptr))] = 0
    kept.eliminate_zeros()
    return kept


def distance_weights(scores: npt.NDArray[np.float32]) -> F64:
    """Weights (q, k) ≥ 0 that sum to 1 from scores (q, k), best first, absent = −inf: see the module's text.

    The last score that is there has the weight 0, unless all are equal, when all weigh the same.
    """
    there = np.isfinite(scores)
    values = np.where(there, scores, 0).astype(np.float64)
    first = np.where(there, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    last = np.where(there, values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    span = first - last
    with np.errstate(invalid="ignore"):
        weights = np.where(span > 0, (values - last) / np.where(span > 0, span, 1), 1.0) * there
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1), np.float64)


def annotate(
    searcher: Searcher, asked: list[Questions], spec: AnnotateSpec, progress: Progress = silent
) -> Iterator[tuple[Questions, int, list[Guess]]]:
    """(questions, number of the query, its tags) for all queries in order; photos of the store never vote themselves.

    InputError when no photo of the store has tags.
    """
    progress("read annotations", 0, 0)
    voter = Voter.of_store(searcher.store, spec.votes, spec.most_share)
    tagged = Filter(mask=voter.tags.known)
    k = min(spec.neighbours + 1, tagged.count)  # one more sets the scale of the weights
    done, total = 0, sum(map(len, asked))
    for questions in asked:
        for first, block in questions.blocks():
            for start in range(0, len(block), QUERIES_AT_ONCE):
                at = first + start
                rows = check_queries(block[start : start + QUERIES_AT_ONCE], searcher.dim, searcher.layer)
                own = None if questions.photo_ids is None else questions.photo_ids[at : at + len(rows)]
                result = searcher.search(rows, spec.search(k), exclude=own, within=tagged)
                there = result.photo_ids >= 0
                neighbours = np.full(there.shape, -1, np.int64)
                if there.any():
                    neighbours[there] = searcher.store.rows_of(result.photo_ids[there])
                for i, guesses in enumerate(voter.guesses(neighbours, result.scores, spec.tags)):
                    yield questions, at + i, guesses
                done += len(rows)
                progress("annotate", done, total, unit="photos")
