"""Several layers in one search: the weighted sum of their scores, exact for every candidate of any of their indices.

Candidates are taken as in the threshold algorithm of R. Fagin, A. Lotem and M. Naor, "Optimal aggregation algorithms
for middleware", PODS 2001 (J. Comput. Syst. Sci. 66, 2003, section 4). Each index gives its nearest, best first. A
photo that none of them has given scores at most as much in each layer as the last that was given there, so at most the
weighted sum of those last scores. A query whose k-th best reaches that bound is answered; only the others go deeper.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index import ivfpq
from engine.index.exact import closest, doubtful, excluded_rows
from engine.index.filter import Filter
from engine.index.queries import Questions
from engine.index.query_rows import check_queries
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.store.store import Store
from kernels import Codes, Device, Kernels, Metric

# Neighbours taken from each index for one of the answer: at first, and in the end. Of 5,000 rows of the sample, whose
# layers agree as those of one network do, 99 of 100 queries are certain at a depth of 14 for k = 10. Where the layers
# know nothing of each other, half are at 143 and 99 of 100 at 227; the depth grows as the root of the rows.
FIRST, DEEPER, LAST, LEAST = 2, 4, 64, 16
BLOCK_CANDIDATES, BLOCK_QUERIES = 1 << 20, 1024
# Of an exact search: bytes of the rows of all layers in one product, and rows that are compared one by one with all
# queries of a block while they are in the processor's cache.
BLOCK_BYTES, BLOCK_ROWS = 64 << 20, 8192
FEW_ROWS, FEW_QUERIES = 256, 256

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FusedIndex:
    """Layers of a store that are searched as one, all by one metric.

    A photo's score is Σ weight · score over the layers, each of the raw float32 rows: of cosines, inner products, or
    minus squared distances. indices: one for each layer; None, and every photo is compared.
    """

    store: Store
    layers: tuple[str, ...]
    weights: tuple[float, ...]
    metric: Metric
    kernels: Kernels
    indices: tuple[Index, ...] | None = None

    @classmethod
    def open(
        cls,
        store: Store | Path | str,
        names: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        device: Device | str = "auto",
    ) -> Self:
        """Open the indices `names` of a store; weights: one for each, equal unless given.

        InputError when they are of one layer or of several metrics, or for weights that cannot be; see `Index.open`.
        """
        opened = store if isinstance(store, Store) else Store.open(store)
        indices = [Index.open(opened.path / "indices" / name, device=device, store=opened) for name in names]
        return cls.of_indices(indices, weights)

    @classmethod
    def of_indices(cls, indices: Sequence[Index], weights: Sequence[float] | None = None) -> Self:
        """Search through indices of one store; InputError as `open`."""
        metrics = {index.layer: index.manifest.spec.metric for index in indices}
        checked = check_weights([index.layer for index in indices], weights)
        first = indices[0]
        return cls(
            store=first.store, layers=tuple(metrics), weights=checked, metric=one_metric(metrics),
            kernels=first.kernels, indices=tuple(indices),
        )  # fmt: skip

    @classmethod
    def exact(
        cls, store: Store, layers: Sequence[str], weights: Sequence[float] | None, metric: Metric, kernels: Kernels
    ) -> Self:
        """Compare every photo: no index is needed. InputError as `open`."""
        for layer in layers:
            store.layer(layer)
        return cls(
            store=store, layers=tuple(layers), weights=check_weights(layers, weights), metric=metric, kernels=kernels
        )

    def search(
        self,
        queries: Mapping[str, npt.ArrayLike],
        spec: SearchSpec | None = None,
        *,
        exclude: npt.ArrayLike | None = None,
        within: Filter | None = None,
    ) -> SearchResult:
        """The k photos of the greatest fused score for each query, best first, ties by row.

        queries: for each layer (n, dim) finite float32, row i of all of them is query i. exclude, within: as
        `Index.search`. spec: of the search of each index, but that it gives more than k.

        With indices: every score is exact. Each index gives its nearest, all of them are compared exactly in all
        layers, and where a photo that none gave might still be among the k best, each gives more: 2 k + 16 at first, 4
        times as many at each step, at last 64 k or 1,024 (no more than there are, or the device can give). A query
        that the bound settles has the k best of all photos, if each index gave its true nearest; what an index misses,
        as approximate ones do, this search may miss too. A query that is not settled at last has the best of what was
        given. With k as many as there are photos, and without indices, the answer is exact. Of photos that score alike
        as the k-th, any may be left out.
        """
        spec = spec or SearchSpec()
        rows = self._check(queries)
        banned = None if exclude is None else np.atleast_1d(np.asarray(exclude, np.int64))
        asked = _Asked(spec, rows, banned, excluded_rows(self.store, banned, len(rows[0])),
                       within or Filter.of_store(self.store))  # fmt: skip
        return SearchResult.of_rows(self.store, *(self._deeper(asked) if self.indices else self._exact(asked)))

    def _deeper(self, asked: "_Asked") -> tuple[Rows, Scores]:
        """The best of what the indices give, deeper and deeper for the queries that are not settled."""
        k, photos = asked.spec.k, max(len(self.store) if asked.within is None else asked.within.count, 1)
        found, scores = _nothing(len(asked), k)
        most = min((ivfpq.most_candidates(index.device, photos) for index in self.indices or ()), default=photos)
        depth, last = FIRST * k + LEAST, max(min(max(LAST * k, LAST * LEAST), most), min(k, photos))
        waiting = np.arange(len(asked))
        while len(waiting):
            depth = min(depth, last)
            together = max(min(BLOCK_CANDIDATES // (len(self.layers) * depth), BLOCK_QUERIES), 1)
            unsettled = [np.empty(0, np.int64)]
            for start in range(0, len(waiting), together):
                at = waiting[start : start + together]
                some = asked.some(at)
                candidates, bound = self._candidates(some, depth)
                found[at], scores[at] = self._best(some.queries, candidates, k)
                unsettled.append(at[~(scores[at, -1] >= bound)])  # so that a bound that is no number settles nothing
            waiting = np.concatenate(unsettled) if depth < last else unsettled[0]
            depth *= DEEPER
        return found, scores

    @property
    def dims(self) -> tuple[int, ...]:
        """How many dimensions each layer has."""
        return tuple(self.store.layer(layer).shape[1] for layer in self.layers)

    def split(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Queries (n, Σ dims), the layers side by side as `joined` has them, layer by layer."""
        return dict(zip(self.layers, np.split(rows, np.cumsum(self.dims)[:-1], axis=1), strict=True))

    def _check(self, queries: Mapping[str, npt.ArrayLike]) -> list[Scores]:
        if set(queries) != set(self.layers):
            raise InputError(f"queries of {', '.join(queries) or 'no layer'}: expected {' and '.join(self.layers)}")
        rows = [check_queries(queries[layer], self.store.layer(layer).shape[1], layer) for layer in self.layers]
        if len(set(map(len, rows))) > 1:
            counts = ", ".join(f"{len(part):,} of {layer}" for layer, part in zip(self.layers, rows, strict=True))
            raise InputError(f"{counts}: expected as many queries of each layer, row i of all is query i")
        return rows

    def _candidates(self, asked: "_Asked", depth: int) -> tuple[Rows, npt.NDArray[np.float64]]:
        """The rows (q, ≤ layers × depth) that any index has among its nearest, each once, −1 = none; and what another
        row can score at most (q,), where each index gave its true nearest.
        """
        parts, bound = [], np.zeros(len(asked))
        for index, weight, rows in zip(self.indices or (), self.weights, asked.queries, strict=True):
            rerank = None if asked.spec.rerank is None else max(asked.spec.rerank, depth)
            more = asked.spec.model_copy(update={"k": depth, "rerank": rerank})
            result = index.search(rows, more, exclude=asked.banned, within=asked.within)
            there = result.photo_ids >= 0
            found = np.full(there.shape, -1, np.int64)
            if there.any():
                found[there] = self.store.rows_of(result.photo_ids[there])
            parts.append(found)
            lowest = np.where(there, result.scores, np.inf).min(axis=1)
            with np.errstate(invalid="ignore"):
                bound += weight * np.where(there.any(axis=1), lowest, -np.inf).astype(np.float64)
        union = np.sort(np.hstack(parts), axis=1)
        union[:, 1:][union[:, 1:] == union[:, :-1]] = -1
        return union, bound

    def _best(self, queries: Sequence[Scores], candidates: Rows, k: int) -> tuple[Rows, Scores]:
        """The best k of distinct candidates (q, r; −1 = none), and their exact scores."""
        rows = np.sort(candidates, axis=1)
        total = np.zeros(rows.shape)
        for layer, weight, asked in zip(self.layers, self.weights, queries, strict=True):
            codes = Codes(self.store.layer(layer))
            at, scores = self.kernels.rerank(asked, rows, codes, self.metric, rows.shape[1])
            aligned = np.take_along_axis(scores, np.argsort(at, axis=1, kind="stable"), axis=1)
            with np.errstate(invalid="ignore"):
                total += weight * np.where(rows >= 0, aligned, 0).astype(np.float64)
        total[np.isnan(total)] = np.inf  # infinite scores that cannot be added: first of all, so that they are seen
        with np.errstate(over="ignore"):
            return _first(rows, total.astype(np.float32), k)

    def _exact(self, asked: "_Asked") -> tuple[Rows, Scores]:
        """The best of all rows that may be found: by matrix products, and by one where a product is in doubt."""
        found, scores = _nothing(len(asked), asked.spec.k)
        if not len(asked.rows(self.store)):
            return found, scores
        together = max(min(BLOCK_CANDIDATES // asked.spec.k, BLOCK_QUERIES), 1)
        for start in range(0, len(asked), together):
            at = np.arange(start, min(start + together, len(asked)))
            found[at], scores[at], unsure = self._products(asked.some(at))
            again = at[unsure]
            for few in (again[i : i + FEW_QUERIES] for i in range(0, len(again), FEW_QUERIES)):
                found[few], scores[few] = self._one_by_one(asked.some(few))
        return found, scores

    def _products(self, asked: "_Asked") -> tuple[Rows, Scores, npt.NDArray[np.bool_]]:
        """The best rows by products of all layers at once, their exact scores, and whether a row may be missed (q,).

        Vectors of all layers side by side, each times the root of its weight (of unit length before, for cosines):
        their inner product, or minus their squared distance, is the fused score.
        """
        k, allowed = asked.spec.k, asked.rows(self.store)
        size = max(min(BLOCK_ROWS, BLOCK_BYTES // (4 * sum(self.dims))), 1)
        layers = [self.store.layer(layer) for layer in self.layers]

        def blocks() -> Iterator[tuple[Rows, Scores]]:
            for start in range(0, len(allowed), size):
                some = allowed[start : start + size]
                whole = some[-1] - some[0] + 1 == len(some)
                place = np.s_[some[0] : some[-1] + 1] if whole else some
                yield some, self._weighted([layer[place] for layer in layers])

        metric: Metric = "l2" if self.metric == "l2" else "ip"
        with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is in doubt
            joint = self._weighted(asked.queries)
            near = closest(blocks, joint, asked.banned_rows, k, metric, self.kernels)
        found, scores = self._best(asked.queries, near.rows, max(k, near.rows.shape[1]))
        return found[:, :k], scores[:, :k], doubtful(near, found, scores, k)

    def _weighted(self, rows: Sequence[Scores]) -> Scores:
        unit = self.metric == "cosine"
        parts = [
            np.float32(np.sqrt(weight)) * (self.kernels.normalize(part) if unit else np.asarray(part))
            for weight, part in zip(self.weights, rows, strict=True)
        ]
        return np.hstack(parts)

    def _one_by_one(self, asked: "_Asked") -> tuple[Rows, Scores]:
        """The best of all rows that may be found, each compared with each query."""
        rows, scores = _nothing(len(asked), asked.spec.k)
        allowed = asked.rows(self.store)
        for start in range(0, len(allowed), FEW_ROWS):
            some = allowed[start : start + FEW_ROWS]
            every = np.where(some == asked.banned_rows[:, None], -1, some)
            found, close = self._best(asked.queries, every, asked.spec.k)
            rows, scores = _first(np.hstack([rows, found]), np.hstack([scores, close]), asked.spec.k)
        return rows, scores


@dataclass(frozen=True)
class _Asked:
    """Queries of all layers, (q, dim) each; banned, banned_rows: (q,) what each must not be answered with."""

    spec: SearchSpec
    queries: Sequence[Scores]
    banned: Rows | None
    banned_rows: Rows
    within: Filter | None

    def __len__(self) -> int:
        return len(self.banned_rows)

    def some(self, at: Rows) -> "_Asked":
        """The queries at these places."""
        banned = None if self.banned is None else self.banned[at]
        return replace(
            self, queries=[rows[at] for rows in self.queries], banned=banned, banned_rows=self.banned_rows[at]
        )

    def rows(self, store: Store) -> Rows:
        """The rows that may be found."""
        return np.arange(len(store)) if self.within is None else self.within.rows


class _SideBySide:
    """Vectors of several layers as one array (n, Σ dims), put together when they are looked at."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers

    def __len__(self) -> int:
        return len(self._layers[0])

    def __getitem__(self, rows: Any) -> Any:
        return np.hstack([layer[rows] for layer in self._layers])


def joined(layers: Sequence[Questions]) -> Questions:
    """The same photos or files as questions of several layers: vectors (n, Σ dims), the layers side by side."""
    return replace(layers[0], data=_SideBySide([questions.data for questions in layers]))


def _nothing(queries: int, k: int) -> tuple[Rows, Scores]:
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def _first(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """The best k, (q, k), by score, equal ones by row; −1 and −inf after them."""
    there = rows >= 0
    order = np.lexsort((rows, -scores, ~there), axis=1)[:, :k]
    best = _nothing(len(rows), k)
    best[0][:, : order.shape[1]] = np.take_along_axis(rows, order, axis=1)
    best[1][:, : order.shape[1]] = np.take_along_axis(np.where(there, scores, -np.inf), order, axis=1)
    return best


def one_metric(metrics: Mapping[str, Metric]) -> Metric:
    """The metric of all layers; InputError when it is not the same."""
    if len(set(metrics.values())) > 1:
        found = ", ".join(f"{layer} by {metric}" for layer, metric in metrics.items())
        raise InputError(f"{found}: scores of several metrics cannot be added. Build the indices by one metric.")
    return next(iter(metrics.values()))


def check_weights(layers: Sequence[str], weights: Sequence[float] | None) -> tuple[float, ...]:
    """One weight for each layer, equal ones that sum to 1 unless given; InputError when they cannot be."""
    named = "+".join(layers)
    if len(layers) < 2 or len(set(layers)) < len(layers):
        raise InputError(f"{named}: expected several layers, each once")
    if weights is None:
        return (1 / len(layers),) * len(layers)
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != len(layers):
        raise InputError(f"weights {shown}: expected {len(layers)}, one for each of {named}")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise InputError(f"weights {shown}: expected finite numbers of at least 0, not all of them 0")
    return tuple(map(float, weights))
