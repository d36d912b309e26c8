"""Searching an index: candidates from the shards, then closer and closer comparisons with fewer and fewer rows."""

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, IndexUnusableError, InputError, StoreError
from engine.index import ivfpq, shards
from engine.index.device import settle
from engine.index.exact import compare, exact_search, excluded_rows
from engine.index.filter import Filter
from engine.index.manifest import IndexManifest, build_words, grown, read_index_manifest, stale
from engine.index.opening import check_parts, open_codes, open_reduction, which
from engine.index.reduce import Reduction
from engine.index.result import SearchResult
from engine.index.spec import GPU_MAX_PROBES, SearchSpec, default_rerank
from engine.index.tuned import TUNED_K, TunedPoint
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Codes, Device, Kernels, Step, load
from kernels.device import cpu_threads

LOOKS = 10  # how often an index may be replaced while it is being opened
BLOCK_QUERIES, BLOCK_CANDIDATES = 1024, 1 << 22  # of one thread
SPAN_QUERIES = 4  # fewer are not worth waking a thread for
# A part of the rows whose codes are all compared: 256 bytes for each of them, where the lists of a search for so few
# take 64 bytes for each row of many times as many.
SMALL_PART = 0.05
MANY_DIMENSIONS = 4096  # 4-bit codes of so many lose no more of the nearest than 8-bit ones


@dataclass(frozen=True, kw_only=True)
class Index:
    """An index opened for searching, on one device."""

    path: Path
    store: Store
    manifest: IndexManifest
    device: Device
    kernels: Kernels
    reduction: Reduction | None
    shards: list[Any]
    sketch: Codes | None
    refine: Codes | None

    @classmethod
    def open(cls, path: Path | str, *, device: Device | str = "auto", store: Store | None = None) -> Self:
        """Open `STORE/indices/NAME`; IndexUnusableError when it is absent, damaged, or of another state of the store.

        Every file's length is checked, and the checksum of every file of up to 512 MiB; `mirsearch verify` reads the
        larger ones too, and the store's rows. A build may put another index in its place meanwhile: all files that
        are opened are of one and the same.
        """
        path = Path(path)
        settled = settle(device) if isinstance(device, str) else device
        for _ in range(LOOKS):
            seen = which(path)
            try:
                index = cls._open(path, settled, store)
            except EngineError:
                if which(path) == seen:
                    raise
            else:
                if which(path) == seen:
                    return index
        raise IndexUnusableError(f"{path}: was replaced at every look. Wait for the other mirsearch to end.")

    @classmethod
    def _open(cls, path: Path, settled: Device, store: Store | None) -> Self:
        manifest = read_index_manifest(path)
        store = store or Store.open(path.parent.parent)
        if change := stale(manifest, store.manifest):
            update = grown(manifest, store.manifest, store.photo_ids)
            raise IndexUnusableError(
                f"{path}: built from another state of {store.path}: {change}. "
                f"{'Let the new ones join it' if update else 'Build it again'}: "
                + shlex.join(["mirsearch", *build_words(path, manifest.spec, update=update)])
            )
        check_parts(path, manifest)
        kernels = load(settled)
        try:
            return cls(
                path=path, store=store, manifest=manifest, device=settled, kernels=kernels,
                reduction=open_reduction(path, manifest),
                shards=[ivfpq.load(path / shard.file, settled) for shard in manifest.shards],
                sketch=open_codes(path, "sketch", manifest, kernels),
                refine=open_codes(path, "refine", manifest, kernels),
            )  # fmt: skip
        except StoreError as error:
            raise IndexUnusableError(f"{error} Build the index again.") from error

    def __len__(self) -> int:
        """How many rows, those of removed photos among them."""
        return self.manifest.rows

    @property
    def photos(self) -> int:
        """How many photos an answer may hold."""
        return self.store.photos

    @property
    def layer(self) -> str:
        """The layer that is indexed."""
        return self.manifest.spec.layer

    def settings(self, spec: SearchSpec, within: Filter | None = None) -> tuple[int, int]:
        """The probes and the candidates that a search with this specification uses."""
        lists, photos = self.manifest.spec.lists or 1, self.photos if within is None else within.count
        if spec.recall == 1 or (spec.recall and not self.shards):
            return lists, max(photos, 1)
        point = self._tuned_point(spec)
        if point is None:
            wanted = max(self.manifest.rerank, default_rerank(spec.k, photos, self.manifest.spec.metric))
        else:
            wanted = math.ceil(point.rerank * max(spec.k / TUNED_K, 1))
        chosen = max(min(wanted, ivfpq.most_candidates(self.device, photos)), spec.k)
        rerank = min(spec.rerank or chosen, photos)
        own = self.manifest.probes if point is None else point.probes
        probes = spec.probes or self._probes(own, spec.k, rerank, photos)
        return min(probes, lists), max(rerank, 1)

    def _probes(self, own: int, k: int, rerank: int, photos: int) -> int:
        """Lists for k neighbours and so many candidates of these photos, where `own` serve ten neighbours of all.

        More neighbours lie farther away, and so do the nearest of a part: in more lists, but not in as many times
        more. The lists must hold twice as many rows as are wanted of them. Who wants all rows compared, or nearly as
        many as there are, wants no list left out.
        """
        lists = self.manifest.spec.lists or 1
        if rerank >= photos:
            return lists
        deeper = own * math.sqrt(max(k / TUNED_K, 1) * len(self) / photos)
        wanted = math.ceil(max(deeper, 2 * rerank * lists / photos))
        return min(wanted, self.most_probes)

    @property
    def most_probes(self) -> int:
        """The most lists that a search visits on this device."""
        lists = self.manifest.spec.lists or 1
        return min(lists, GPU_MAX_PROBES) if self.device.kind == "cuda" else lists

    def _tuned_point(self, spec: SearchSpec) -> TunedPoint | None:
        tuned = self.manifest.tuned
        if spec.recall is None:
            return tuned.default if tuned else None
        if tuned is None:
            which = ["--name", self.path.name] if self.path.name != self.layer else ["--layer", self.layer]
            raise InputError(
                f"--recall {spec.recall:g}: nobody knows yet what this index needs for it. Measure it: "
                + shlex.join(["mirsearch", "tune", str(self.store.path), *which, "--recall", f"{spec.recall:g}"])
            )
        return tuned.choose(spec.recall)

    def search(
        self,
        queries: npt.ArrayLike,
        spec: SearchSpec | None = None,
        *,
        exclude: npt.ArrayLike | None = None,
        within: Filter | None = None,
        progress: Progress = silent,
    ) -> SearchResult:
        """The k nearest photos of each query, with exact scores; never one that was removed from the store.

        queries: (n, dim) or (dim,) finite float32. exclude: (n,) photo ids, one for each query, that its answer
        must not contain (−1 for none). within: the photos that answers are made of; see `Filter.of_ids`. Any number
        of queries in bounded memory. InputError for a wrong shape or values that are not finite.
        """
        spec = spec or SearchSpec()
        rows = check_queries(queries, self.manifest.dim, self.layer)
        banned = None if exclude is None else np.atleast_1d(np.asarray(exclude, np.int64))
        within = within or Filter.of_store(self.store)
        probes, rerank = self.settings(spec, within)
        photos = len(self) if within is None else within.count
        if not self.shards or (rerank >= photos and probes >= (self.manifest.spec.lists or 0)):
            metric = self.manifest.spec.metric
            return exact_search(
                self.store, self.layer, rows, spec.k, metric=metric, kernels=self.kernels, exclude=banned,
                within=within, progress=progress,
            )  # fmt: skip
        found = np.full((len(rows), spec.k), -1, np.int64)
        scores = np.full((len(rows), spec.k), -np.inf, np.float32)
        banned_rows = excluded_rows(self.store, banned, len(rows))
        asked = _Asked(spec.k, probes, rerank, within, as_given=spec.probes is not None)
        threads = 1 if self.device.kind == "cuda" else cpu_threads()
        block = max(min(BLOCK_QUERIES, BLOCK_CANDIDATES // asked.width(len(self))), 1) * threads
        for start in range(0, len(rows), block):
            stop = min(start + block, len(rows))

            def answer(a: int, b: int, first: int = start) -> None:
                part = np.s_[first + a : first + b]
                found[part], scores[part] = self._block(rows[part], banned_rows[part], asked)

            if threads > 1:
                ivfpq.in_spans(stop - start, SPAN_QUERIES, answer)
            else:
                answer(0, stop - start)
            progress("search", stop, len(rows), unit="queries")
        return SearchResult.of_rows(self.store, found, scores)

    def _block(
        self, queries: npt.NDArray[np.float32], banned: npt.NDArray[np.int64], asked: "_Asked"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        assert self.reduction is not None
        metric = self.manifest.spec.metric
        reduced = self.reduction.apply(queries, self.kernels)
        if metric == "ip":
            reduced = _of_size_one(reduced)
        candidates, unanswered = self._candidates(reduced, asked)
        if (banned >= 0).any():
            candidates = np.where(candidates == banned[:, None], -1, candidates)
        data = Codes(self.store.layer(self.layer))
        steps = [*self._steps(queries, reduced, asked, candidates.shape[1]), Step(queries, data, asked.k)]
        rows, scores = self.kernels.cascade(candidates, steps, metric)
        if len(unanswered):
            rows[unanswered], scores[unanswered] = compare(
                data.values, queries[unanswered], banned[unanswered], asked.k, metric, self.kernels,
                removed=None if asked.within is None else ~asked.within.mask,
            )  # fmt: skip
        return rows, scores

    def _candidates(
        self, reduced: npt.NDArray[np.float32], asked: "_Asked"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows (q, ≥ rerank) that may be in an answer, and the queries (u,) that the lists cannot answer.

        FAISS has no order for rows that are all alike. Of a small part of the rows all are candidates: to compare
        them takes less time than to find the lists that they lie in.
        """
        within = asked.within
        if within is None:
            least = min(asked.k + 1, asked.rerank)  # one more than the answer, for the query's own photo
            most = asked.probes if asked.as_given else self.most_probes
            visit = shards.Visit(count=asked.rerank, probes=asked.probes, most=most)
            found = shards.enough_candidates(self.shards, reduced, visit, least)
        elif asked.all_of_them(len(self)):
            return np.broadcast_to(within.rows, (len(reduced), within.count)), np.empty(0, np.int64)
        elif ivfpq.filters(self.device):
            # A recall is known for so many candidates: fewer, and it is less where the rows of a filter lie together.
            visit = shards.Visit(count=asked.rerank, probes=asked.probes, most=self.most_probes, bits=within.bits)
            found = shards.enough_candidates(self.shards, reduced, visit, min(asked.rerank, within.count))
        else:
            # One more than the answer: the query's own photo may be among them.
            least, most = min(asked.k + 1, within.count), ivfpq.most_candidates(self.device, len(self))
            removed = shards.Removed(mask=~within.mask, least=least, most=most)
            found, wanting = shards.present_candidates(self.shards, reduced, asked.rerank, asked.probes, removed)
            return found, np.flatnonzero(wanting | (found < 0).all(axis=1))
        return found, np.flatnonzero(found.max(axis=1) < 0)

    def _steps(
        self, queries: npt.NDArray[np.float32], reduced: npt.NDArray[np.float32], asked: "_Asked", given: int
    ) -> Iterator[Step]:
        """From the cheapest comparison to the closest, those that leave fewer of the `given` candidates."""
        closer, exact = kept(asked.k, asked.rerank, None if self.refine is None else self.refine.packed)
        if self.sketch is not None and closer < given:
            yield Step(reduced, self.sketch, closer)
            given = closer
        if self.refine is not None and self.reduction is not None and exact < given:
            # For the cosine the size of a query means nothing, and products of codes cannot overflow.
            yield Step(queries if self.reduction.unit else self.reduction.scaled(queries), self.refine, exact)


def kept(k: int, rerank: int, packed: int | None) -> tuple[int, int]:
    """How many of `rerank` candidates are compared by the codes of the raw rows, and how many of these exactly.

    An eighth and a sixteenth at least, so that more candidates always mean more exact comparisons too. Exactly some
    more than k, since codes may put the last of them in another order. packed: the dimensions of 4-bit codes, or None:
    their error averages out over many dimensions; of few an exact comparison costs little.
    """
    margin = max(k // 5, 2)
    if packed is not None:
        margin = math.ceil(margin * max(MANY_DIMENSIONS / packed, 1.0) ** 0.5)
    return max(5 * k // 2, k + 15, rerank // 8), max(k + margin, rerank // 16)


@dataclass(frozen=True)
class _Asked:
    """What one search is: neighbours, lists, candidates, and the rows that may be found (None: any)."""

    k: int
    probes: int
    rerank: int
    within: Filter | None
    as_given: bool  # no more lists than these, unless a filter leaves too little in them

    def all_of_them(self, rows: int) -> bool:
        """Whether every row that may be found is a candidate."""
        return self.within is not None and self.within.count <= max(SMALL_PART * rows, self.rerank)

    def width(self, rows: int) -> int:
        """Candidates of one query."""
        return max(self.within.count if self.within is not None and self.all_of_them(rows) else self.rerank, 1)


def _of_size_one(reduced: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Reduced queries by their largest magnitude, which changes no order of inner products.

    To a query of zeros all rows are equally close, and FAISS answers it with none: any direction stands for it.
    """
    largest = np.abs(reduced).max(axis=1, keepdims=True)
    sized: npt.NDArray[np.float32] = np.divide(reduced, largest, out=np.zeros_like(reduced), where=largest > 0)
    sized[largest[:, 0] == 0, 0] = 1
    return sized


def check_queries(
    queries: npt.ArrayLike, dim: int, layer: str, name: Callable[[int], str] = "query {}".format
) -> npt.NDArray[np.float32]:
    """Queries as C-ordered (n, dim) float32; InputError when the shape is another or a value is not finite.

    name: what query i is called in the error.
    """
    rows = np.asarray(queries)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind not in "fiu":
        raise InputError(f"queries of shape {rows.shape}, {rows.dtype}: expected (n, {dim}) float32 for {layer}")
    if rows.dtype != np.float32:
        with np.errstate(over="ignore"):  # a float64 past float32's range becomes an infinity, and is refused below
            rows = rows.astype(np.float32)
    rows = np.ascontiguousarray(rows)
    if math.isfinite(np.add.reduce(rows, axis=None, dtype=np.float64)):  # which no finite float32 values exceed
        return rows
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError(f"{name(int(bad[0]))}: holds NaN, infinity or values past float32, expected finite float32")
    return rows
