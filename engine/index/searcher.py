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
from engine.index.manifest import read_index_manifest
from engine.index.queries import Questions
from engine.index.result import SearchResult
from engine.index.search import Index, check_queries
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
    """An index, or a layer that is compared row by row."""

    store: Store
    layer: str
    metric: Metric
    kernels: Kernels
    index: Index | None = None

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

    def answer(
        self, asked: Sequence[Questions], spec: SearchSpec, *, exclude_self: bool, progress: Progress = silent
    ) -> Iterator[Answer]:
        """Answers in the order of the questions, a bounded number at a time."""
        total, done = sum(map(len, asked)), 0
        dim = self.store.layer(self.layer).shape[1]
        for questions in asked:
            for start, block in questions.blocks():
                ids = None
                if exclude_self and questions.photo_ids is not None:
                    ids = questions.photo_ids[start : start + len(block)]
                rows = check_queries(block, dim, self.layer, partial(_name, questions, start))
                result = self._search(rows, spec, ids)
                past = (result.photo_ids >= 0) & ~np.isfinite(result.scores)
                if past.any():
                    raise InputError(
                        f"{_name(questions, start, int(past.any(axis=1).argmax()))}: scores by {self.metric} past the "
                        "range of float32. Scale the vectors, or use an index by cosine."
                    )
                yield Answer(questions=questions, start=start, result=result)
                done += len(block)
                progress("search", done, total, unit="queries")

    def _search(
        self, block: npt.NDArray[np.float32], spec: SearchSpec, exclude: npt.NDArray[np.int64] | None
    ) -> SearchResult:
        if self.index:
            return self.index.search(block, spec, exclude=exclude)
        return exact_search(
            self.store, self.layer, block, spec.k, metric=self.metric, kernels=self.kernels, exclude=exclude
        )


def _name(questions: Questions, start: int, i: int) -> str:
    return questions.source(start + i)
