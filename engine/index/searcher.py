"""Answering named queries from an index or exactly, block by block: the work behind `mirsearch query`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from engine.errors import IndexUnusableError, InputError
from engine.index.exact import exact_search
from engine.index.filter import Filter
from engine.index.fused import FusedIndex
from engine.index.manifest import read_index_manifest
from engine.index.queries import Questions
from engine.index.query_rows import check_queries
from engine.index.range_search import range_search
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Kernels, Metric


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answers to the queries from `start` on of one set of questions."""

    questions: Questions
    start: int
    result: SearchResult


@dataclass(frozen=True, kw_only=True)
class Searcher:
    """An index, or a layer that is compared row by row; or several layers at once, whose queries lie side by side."""

    store: Store
    layer: str
    metric: Metric
    kernels: Kernels
    index: Index | None = None
    fused: FusedIndex | None = None

    @classmethod
    def of_index(cls, index: Index) -> Self:
        """Search through an index."""
        metric = index.manifest.spec.metric
        return cls(store=index.store, layer=index.layer, metric=metric, kernels=index.kernels, index=index)

    @classmethod
    def exact(cls, store: Store, layer: str, folder: Path, kernels: Kernels) -> Self:
        """Compare with every row, by the metric of the index in `folder` if there is one, else by cosine."""
        try:
            metric: Metric = read_index_manifest(folder).spec.metric
        except IndexUnusableError:
            metric = "cosine"
        return cls(store=store, layer=layer, metric=metric, kernels=kernels)

    @classmethod
    def of_fused(cls, fused: FusedIndex) -> Self:
        """Search several layers at once."""
        return cls(
            store=fused.store, layer="+".join(fused.layers), metric=fused.metric, kernels=fused.kernels, fused=fused
        )

    @property
    def dim(self) -> int:
        """How long a query is."""
        return sum(self.fused.dims) if self.fused else self.store.layer(self.layer).shape[1]

    def search(
        self,
        rows: npt.NDArray[np.float32],
        spec: SearchSpec,
        *,
        exclude: npt.NDArray[np.int64] | None = None,
        within: Filter | None = None,
    ) -> SearchResult:
        """The nearest photos of queries (q, dim); exclude: (q,) photo ids, −1 for none. See `Index.search`."""
        if self.fused:
            return self.fused.search(self.fused.split(rows), spec, exclude=exclude, within=within)
        if self.index:
            return self.index.search(rows, spec, exclude=exclude, within=within)
        return exact_search(
            self.store, self.layer, rows, spec.k, metric=self.metric, kernels=self.kernels, exclude=exclude,
            within=within,
        )  # fmt: skip

    def answer(
        self,
        asked: Sequence[Questions],
        spec: SearchSpec,
        *,
        exclude_self: bool,
        within: Filter | None = None,
        min_score: float | None = None,
        progress: Progress = silent,
    ) -> Iterator[Answer]:
        """Answers in the order of the questions, a bounded number at a time.

        within: the photos that answers are made of. min_score: all photos that score at least so much, `spec.k` of
        them at most.
        """
        total, done = sum(map(len, asked)), 0
        for questions in asked:
            for start, block in questions.blocks():
                ids = None
                if exclude_self and questions.photo_ids is not None:
                    ids = questions.photo_ids[start : start + len(block)]
                rows = check_queries(block, self.dim, self.layer, partial(_name, questions, start))
                ask = _Block(self, rows, ids, spec, within)
                for first, result in ask.results(min_score):
                    past = (result.photo_ids >= 0) & ~np.isfinite(result.scores)
                    if past.any():
                        name = _name(questions, start, first + int(past.any(axis=1).argmax()))
                        raise InputError(
                            f"{name}: scores by {self.metric} past the range of float32. Scale the vectors, or use an "
                            "index by cosine."
                        )
                    yield Answer(questions=questions, start=start + first, result=result)
                    progress("search", done + first + len(result), total, unit="queries")
                done += len(block)


@dataclass(frozen=True)
class _Block:
    """Some queries and how they are answered."""

    searcher: Searcher
    rows: npt.NDArray[np.float32]
    exclude: npt.NDArray[np.int64] | None
    spec: SearchSpec
    within: Filter | None

    def results(self, min_score: float | None) -> Iterator[tuple[int, SearchResult]]:
        """(first query, result), in order."""
        if min_score is None:
            yield 0, self.search(np.arange(len(self.rows)), self.spec.k)
            return
        photos = self.searcher.store.photos if self.within is None else self.within.count
        yield from range_search(self.search, len(self.rows), min_score, min(self.spec.k, photos))

    def search(self, at: npt.NDArray[np.int64], k: int) -> SearchResult:
        rows, exclude = self.rows[at], None if self.exclude is None else self.exclude[at]
        rerank = None if self.spec.rerank is None else max(self.spec.rerank, k)
        spec = self.spec.model_copy(update={"k": k, "rerank": rerank})
        return self.searcher.search(rows, spec, exclude=exclude, within=self.within)


def _name(questions: Questions, start: int, i: int) -> str:
    return questions.source(start + i)
