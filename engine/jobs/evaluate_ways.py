"""Ways to rank photos that `evaluate` puts side by side: at random, exactly, by an index at one of its points."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.errors import IndexUnusableError, InputError
from engine.index.filter import Filter
from engine.index.fused import FusedIndex, one_metric
from engine.index.manifest import check_layer_of, read_index_manifest
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.index.spec import SearchSpec
from engine.index.tuned import timed
from engine.jobs.relevance import Judged, Relevance
from engine.store.store import Store
from kernels import Device, Metric, load

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Found = tuple[I64, F32]  # rows (q, k), best first, −1 = none, and their scores
Kind = Literal["random", "exact", "index"]

# Shares of the default probes that are looked at beside it, so that relevance is seen where recall is lost.
GRID = (1 / 64, 1 / 16, 1 / 4, 4)
MOST_TUNED = 6


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to rank. layer: "" for random. probes, rerank: of an index; None: it chooses. default: its own point."""

    kind: Kind
    layer: str = ""
    probes: int | None = None
    rerank: int | None = None
    default: bool = False

    @property
    def name(self) -> str:
        """For people who wait."""
        if self.kind != "index":
            return f"{self.layer} {self.kind}".strip()
        point = f"{self.probes} probes" if self.probes else "its own settings"
        return f"{self.layer}, {point}" + (f", {self.rerank:,} re-ranked" if self.rerank else "")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer, or several as one, that can be searched exactly and, where there is an index, through it.

    weights: of several layers. index: what is searched through; None where there is none, or where it compares all
    photos, as the index of a small store does.
    """

    name: str
    store: Store
    exact: Searcher
    index: Searcher | None
    weights: tuple[float, ...] | None = None

    def queries(self, rows: I64) -> F32:
        """The vectors (q, dim) of some rows; those of several layers side by side."""
        parts = self.exact.fused.layers if self.exact.fused else (self.name,)
        return np.hstack([np.asarray(self.store.layer(part)[rows], np.float32) for part in parts])

    def ways(self, depth: int, probes: Sequence[int] | None, rerank: Sequence[int] | None) -> list[Way]:
        """Exact search, then the index at its own point and others, ascending: see `points`."""
        found = [Way(kind="exact", layer=self.name)]
        if self.index is None:
            return found
        own = self._own(depth)
        grid = self._grid(own, depth, probes, rerank)
        marked = [
            Way(kind="index", layer=self.name, probes=p, rerank=r, default=(p, r) == own)
            for p, r in sorted({*grid, own}, key=lambda point: (point[0], point[1] or 0))
        ]
        return found + marked

    @property
    def _indices(self) -> Sequence[Index]:
        assert self.index is not None
        if self.index.index is not None:
            return [self.index.index]
        return self.index.fused.indices or () if self.index.fused else ()

    def _own(self, depth: int) -> tuple[int, int | None]:
        """The index's own point for so many neighbours. Of several, each has its own candidates."""
        settings = [index.settings(SearchSpec(k=depth)) for index in self._indices]
        return (settings[0][0], settings[0][1]) if len(settings) == 1 else (max(probes for probes, _ in settings), None)

    def _grid(
        self, own: tuple[int, int | None], depth: int, probes: Sequence[int] | None, rerank: Sequence[int] | None
    ) -> list[tuple[int, int | None]]:
        lists = min(index.most_probes for index in self._indices)
        photos = self.store.photos
        if probes or rerank:
            reranks: Sequence[int | None] = rerank or [own[1]]
            return [
                (min(p, lists), None if r is None else min(max(r, depth), photos))
                for p in probes or [own[0]]
                for r in reranks
            ]
        if len(self._indices) == 1 and (tuned := self._indices[0].manifest.tuned):
            reached = sorted({point.least for point in timed(tuned.points) if point.pareto})
            chosen = np.unique(np.linspace(0, max(len(reached) - 1, 0), MOST_TUNED).round()).astype(int).tolist()
            wanted = [reached[i] for i in chosen if i < len(reached) and 0 < reached[i] < 1]
            return [self._indices[0].settings(SearchSpec(k=depth, recall=recall)) for recall in wanted]
        around = {min(max(round(own[0] * share), 1), lists) for share in GRID}
        few = [] if own[1] is None else [(own[0], depth)]
        return [*((p, own[1]) for p in around), *few]


def layer_names(store: Store, text: str) -> list[str]:
    """The names of `fc7,fc8,fc7+fc8`, each once; of `all`: every layer, and all as one where their metric is the same.

    InputError names the layers that there are where one is none of them.
    """
    if text != "all":
        names = list(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in names:
            for part in name.split("+"):
                store.layer(part)
        return names
    names = sorted(store.layers)
    metrics = {_metric(store, name) for name in names}
    return [*names, "+".join(names)] if len(names) > 1 and len(metrics) == 1 else names


def _metric(store: Store, layer: str) -> Metric:
    """Of the index of a layer; the cosine where there is none, as for every exact search."""
    try:
        return read_index_manifest(store.path / "indices" / layer).spec.metric
    except IndexUnusableError:
        return "cosine"


def open_layers(
    store: Store, names: Sequence[str], device: Device, *, weights: Sequence[float] | None, index_name: str | None
) -> list[Layer]:
    """Layers, each by its name or as `fc7+fc8`; index_name: of the index of the one layer, if not the layer's.

    InputError for a layer that is not there and for layers whose metrics differ; IndexUnusableError for an index that
    is there and cannot be used. A layer without an index is searched exactly alone.
    """
    if index_name and len(names) > 1:
        raise InputError(f"--name {index_name}: of one layer; {', '.join(names)} are several. Leave --name out.")
    kernels = load(device)
    opened: list[Layer] = []
    indices: dict[str, Index] = {}

    def index_of(layer: str) -> Index | None:
        folder = store.path / "indices" / (index_name or layer)
        if layer not in indices and (index_name or folder.exists()):
            check_layer_of(folder, layer)
            indices[layer] = Index.open(folder, device=device, store=store)
        return indices.get(layer)

    for name in names:
        parts = name.split("+")
        found = [index_of(part) for part in parts]
        usable = [index for index in found if index is not None and index.shards]
        if len(parts) == 1:
            folder = store.path / "indices" / (index_name or name)
            exact = Searcher.exact(store, name, folder, kernels)
            store.layer(name)
            through = Searcher.of_index(usable[0]) if usable else None
            opened.append(Layer(name=name, store=store, exact=exact, index=through))
            continue
        metrics = {part: _metric(store, part) for part in parts}
        fused = FusedIndex.exact(store, parts, weights, one_metric(metrics), kernels)
        through = Searcher.of_fused(FusedIndex.of_indices(usable, weights)) if len(usable) == len(parts) else None
        opened.append(
            Layer(name=name, store=store, exact=Searcher.of_fused(fused), index=through, weights=fused.weights)
        )
    return opened


@dataclass(kw_only=True)
class Ranker:
    """Ranks allowed photos for some queries in one way; none of a query's own owner, album or burst where so asked.

    seconds: of each call that answered all queries with `depth` photos, those left out among them.
    """

    way: Way
    layer: Layer | None
    relevance: Relevance
    judged: Judged
    depth: int
    seed: int = 0
    seconds: list[float] = field(default_factory=list)

    def search(self, at: I64, k: int) -> Found:
        """The rows (m, k), −1 = none, and scores of the queries at these places, whoever took the photos."""
        if self.layer is None:
            return self._random(at, k)
        searcher = self.layer.exact if self.way.kind == "exact" else self.layer.index
        assert searcher is not None
        rerank = None if self.way.rerank is None else max(self.way.rerank, k)
        spec = SearchSpec(k=k, probes=self.way.probes, rerank=rerank)
        store, rows = self.layer.store, self.judged.rows[at]
        result = searcher.search(self.layer.queries(rows), spec, exclude=store.photo_ids[rows], within=self._within)
        there = result.photo_ids >= 0
        found = np.full(there.shape, -1, np.int64)
        if there.any():
            found[there] = store.rows_of(result.photo_ids[there])
        return found, result.scores

    @property
    def _within(self) -> Filter | None:
        """Only where not every photo of the store may be found: searches leave removed ones out themselves."""
        allowed = self.relevance.allowed
        assert self.layer is not None
        return None if int(allowed.sum()) == self.layer.store.photos else Filter(mask=allowed)

    def _random(self, at: I64, k: int) -> Found:
        """Distinct photos, others for each query, the same for a seed however many are asked together."""
        rows = np.full((len(at), k), -1, np.int64)
        allowed = np.flatnonzero(self.relevance.allowed)
        for i, query in enumerate(at.tolist()):
            random = np.random.default_rng((self.seed, query))
            drawn = allowed[random.choice(len(allowed), min(k + 1, len(allowed)), replace=False)]
            others = drawn[drawn != self.judged.rows[query]][:k]
            rows[i, : len(others)] = others
        return rows, np.where(rows >= 0, 0, -np.inf).astype(np.float32)

    def time(self) -> Found:
        """All queries at once, timed; by exact search some at a time, since each product wants room."""
        every = np.arange(len(self.judged.rows))
        started = time.perf_counter()
        found = self.search(every, self.depth)
        self.seconds.append(max(time.perf_counter() - started, 1e-9))
        return found

    def rank(self) -> Found:
        """The `depth` best photos (q, depth) that may be answers.

        Where some are left out of an answer, it is asked for again with so many more that enough remain.
        """
        rows, scores = self.time()
        if not self.relevance.same:
            return rows, scores
        rows, scores = self._without(np.arange(len(rows)), rows, scores)
        short = np.flatnonzero((rows[:, -1] < 0) & (self.judged.left_out > 0))
        wanted = self.depth + self.judged.left_out[short]
        doublings = np.ceil(np.log2(wanted / self.depth)).astype(np.int64)
        most = max(int(self.relevance.allowed.sum()), self.depth)
        for doubling in np.unique(doublings).tolist():
            group = short[doublings == doubling]
            width = min(self.depth << doubling, most)
            together = max((1 << 24) // width, 1)
            for part in np.array_split(group, math.ceil(len(group) / together)):
                rows[part], scores[part] = self._without(part, *self.search(part, width))
        return rows, scores

    def _without(self, at: I64, rows: I64, scores: F32) -> Found:
        """The first `depth` (m, depth) that are not banned, in their order; −1 and −inf after them."""
        out = self.relevance.banned(self.judged.rows[at], rows) | (rows < 0)
        order = np.argsort(out, axis=1, kind="stable")[:, : self.depth]
        gone = np.take_along_axis(out, order, axis=1)
        kept = np.where(gone, -1, np.take_along_axis(rows, order, axis=1))
        return kept, np.where(gone, np.float32(-np.inf), np.take_along_axis(scores, order, axis=1))
