"""Several layers in one search: the weighted sum of their scores, exact for every candidate of any of their indices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.exact import excluded_rows
from engine.index.filter import Filter
from engine.index.queries import Questions
from engine.index.result import SearchResult
from engine.index.search import Index, check_queries
from engine.index.spec import SearchSpec
from engine.store.store import Store
from kernels import Codes, Device, Kernels, Metric

# Neighbours taken from each index for one of the answer, and at least. Of layers that agree, as those of one network
# do, 4 find all; of 5,000 rows whose two layers know nothing of each other 4 find 0.52, 10 find 0.88, 20 find 0.998.
WIDER, LEAST = 20, 200
BLOCK_CANDIDATES = 1 << 20
# Rows that are compared with all queries of a block while they are in the processor's cache.
EXACT_ROWS, EXACT_QUERIES = 256, 256

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

        Each index gives its nearest; the union is compared exactly in all layers. What no index has among its nearest
        is not found, so each gives several times k. With as many as there are photos the answer is exact.
        """
        spec = spec or SearchSpec()
        rows = self._check(queries)
        banned = None if exclude is None else np.atleast_1d(np.asarray(exclude, np.int64))
        within = within or Filter.of_store(self.store)
        banned_rows = excluded_rows(self.store, banned, len(rows[0]))
        found = np.full((len(rows[0]), spec.k), -1, np.int64)
        scores = np.full((len(rows[0]), spec.k), -np.inf, np.float32)
        photos = len(self.store) if within is None else within.count
        wider = max(min(max(WIDER * spec.k, LEAST), photos), 1)
        together = max(BLOCK_CANDIDATES // (len(rows) * wider), 1) if self.indices else EXACT_QUERIES
        for start in range(0, len(found), together):
            part = np.s_[start : start + together]
            block = [layer[part] for layer in rows]
            if self.indices:
                ids = None if banned is None else banned[part]
                candidates = self._candidates(block, spec, wider, ids, within)
                found[part], scores[part] = self._best(block, candidates, spec.k)
            else:
                found[part], scores[part] = self._compare(block, banned_rows[part], spec.k, within)
        return SearchResult.of_rows(self.store, found, scores)

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

    def _candidates(
        self, queries: Sequence[Scores], spec: SearchSpec, wider: int, exclude: Rows | None, within: Filter | None
    ) -> Rows:
        """The rows (q, ≤ layers × wider) that any index has among its nearest, each once; −1 = none."""
        parts = []
        for index, rows in zip(self.indices or (), queries, strict=True):
            rerank = None if spec.rerank is None else max(spec.rerank, wider)
            more = spec.model_copy(update={"k": wider, "rerank": rerank})
            ids = index.search(rows, more, exclude=exclude, within=within).photo_ids
            there = ids >= 0
            found = np.full(ids.shape, -1, np.int64)
            if there.any():
                found[there] = self.store.rows_of(ids[there])
            parts.append(found)
        union = np.sort(np.hstack(parts), axis=1)
        union[:, 1:][union[:, 1:] == union[:, :-1]] = -1
        return union

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

    def _compare(self, queries: Sequence[Scores], banned: Rows, k: int, within: Filter | None) -> tuple[Rows, Scores]:
        """The same of every row that may be found, some rows at a time."""
        rows = np.full((len(banned), k), -1, np.int64)
        scores = np.full((len(banned), k), -np.inf, np.float32)
        allowed = np.arange(len(self.store)) if within is None else within.rows
        for start in range(0, len(allowed), EXACT_ROWS):
            some = allowed[start : start + EXACT_ROWS]
            found, close = self._best(queries, np.where(some == banned[:, None], -1, some), k)
            rows, scores = _first(np.hstack([rows, found]), np.hstack([scores, close]), k)
        return rows, scores


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


def _first(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """The best k, (q, k), by score, equal ones by row; −1 and −inf after them."""
    there = rows >= 0
    order = np.lexsort((rows, -scores, ~there), axis=1)[:, :k]
    best = np.full((len(rows), k), -1, np.int64), np.full((len(rows), k), -np.inf, np.float32)
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
