"""Searching an index: candidates from the shards, then closer and closer comparisons with fewer and fewer rows."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, IndexUnusableError, InputError, StoreError
from engine.index import ivfpq, shards
from engine.index.asked import Asked, kept, of_size_one
from engine.index.device import failing_clearly, settle
from engine.index.exact import BRING_ROWS, compare, exact_search, excluded_rows
from engine.index.filter import Filter
from engine.index.manifest import IndexManifest, build_words, grown, read_index_manifest, stale
from engine.index.opening import check_parts, open_codes, open_reduction, which
from engine.index.query_rows import check_on_gpu, check_queries, on_gpu
from engine.index.reduce import Reduction
from engine.index.result import SearchResult
from engine.index.spec import SearchSpec, default_rerank
from engine.index.tuned import TUNED_K, TunedPoint
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels import Codes, Device, Kernels, Step, load
from kernels.device import cpu_threads

LOOKS = 10  # how often an index may be replaced while it is being opened
BLOCK_QUERIES, BLOCK_CANDIDATES = 1024, 1 << 22  # of one thread
SPAN_QUERIES = 4  # fewer are not worth waking a thread for
BLOCK_ON_GPU = 16_384  # queries


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
                reduction=open_reduction(path, manifest, kernels),
                shards=ivfpq.load_all([path / shard.file for shard in manifest.shards], settled),
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
        own, wanted = (
            self.manifest.probes,
            max(self.manifest.rerank, default_rerank(spec.k, photos, self.manifest.spec.metric)),
        )
        if point := self._tuned_point(spec):
            # Measured over all photos, it promises nothing of a part of them, which may lie together: never less there.
            least = (own, wanted) if photos < self.photos else (0, 0)
            own = max(point.probes, least[0])
            wanted = max(math.ceil(point.rerank * max(spec.k / TUNED_K, 1)), least[1])
        chosen = max(min(wanted, ivfpq.most_candidates(self.device, photos)), spec.k)
        rerank = min(spec.rerank or chosen, photos)
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
        return ivfpq.most_probes(self.device, self.manifest.spec.lists or 1)

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

        queries: (n, dim) or (dim,) finite float32. Of an index on CUDA also CuPy arrays, or others on a GPU that have
        CUDA's array interface or DLPack: the result's arrays then are CuPy's. exclude: (n,) photo ids, one for each
        query, that its answer must not contain (−1 for none). within: the photos that answers are made of; see
        `Filter.of_ids`. Any number of queries in bounded memory. InputError for a wrong shape or values that are not
        finite.
        """
        spec = spec or SearchSpec()
        there = on_gpu(queries)
        rows = self._check_on_gpu(queries) if there else check_queries(queries, self.manifest.dim, self.layer)
        banned = None if exclude is None else np.atleast_1d(np.asarray(exclude, np.int64))
        within = within or Filter.of_store(self.store)
        probes, rerank = self.settings(spec, within)
        photos = len(self) if within is None else within.count
        if not self.shards or (rerank >= photos and probes >= (self.manifest.spec.lists or 0)):
            metric = self.manifest.spec.metric
            result = exact_search(
                self.store, self.layer, self.kernels.to_host(rows), spec.k, metric=metric, kernels=self.kernels,
                exclude=banned, within=within, progress=progress, rows=self._raw(len(rows)).values,
            )  # fmt: skip
            return result.to(self.kernels.to_device) if there else result
        most = probes if spec.probes else self.most_probes
        asked = Asked(spec.k, probes, rerank, most, within)
        banned_rows = None if banned is None else excluded_rows(self.store, banned, len(rows))
        found, scores = self._in_blocks(rows, banned_rows, asked, progress)
        if not there:
            return SearchResult.of_rows(self.store, found, scores)
        found, scores = self.kernels.to_device(found), self.kernels.to_device(scores)
        ids = self.kernels.xp.where(found >= 0, self._photo_ids[found], -1)
        return SearchResult(photo_ids=ids, scores=scores)

    def _check_on_gpu(self, queries: Any) -> Any:
        if self.device.kind == "cpu":
            raise InputError("queries on a GPU, and an index on the CPU: open it with device='cuda', or give NumPy's")
        return check_on_gpu(self.kernels.xp, self.kernels.to_device(queries), self.manifest.dim, self.layer)

    @cached_property
    def _photo_ids(self) -> Any:
        """The store's photo ids (n,) where the kernels work."""
        return self.kernels.to_device(self.store.photo_ids)

    @cached_property
    def _rows_there(self) -> Codes:
        """The rows as they are, on the GPU if they fit there."""
        return self.kernels.resident(Codes(self.store.layer(self.layer)))

    def _raw(self, queries: int) -> Codes:
        """The rows as they are. Not for a few queries alone are all of them brought to a GPU."""
        if self.device.kind == "cuda" and (queries >= BRING_ROWS or "_rows_there" in self.__dict__):
            return self._rows_there
        return Codes(self.store.layer(self.layer))

    def _in_blocks(
        self, rows: Any, banned: npt.NDArray[np.int64] | None, asked: Asked, progress: Progress
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows and scores (q, k) of all queries: so many at a time that memory is bounded, on all cores."""
        found = np.empty((len(rows), asked.k), np.int64)
        scores = np.empty((len(rows), asked.k), np.float32)
        on_cpu, raw = self.device.kind == "cpu", self._raw(len(rows))
        threads = cpu_threads() if on_cpu else 1
        queries = BLOCK_QUERIES if on_cpu else BLOCK_ON_GPU
        block = max(min(queries, BLOCK_CANDIDATES // asked.width(len(self))), 1) * threads
        for start in range(0, len(rows), block):
            stop = min(start + block, len(rows))

            def answer(a: int, b: int, first: int = start) -> None:
                part = np.s_[first + a : first + b]
                some = None if banned is None else banned[part]
                found[part], scores[part] = self._block(rows[part], some, asked, raw)

            if threads > 1:
                ivfpq.in_spans(stop - start, SPAN_QUERIES, answer)
            else:
                with failing_clearly(self.device, "search"):
                    answer(0, stop - start)
            progress("search", stop, len(rows), unit="queries")
        return found, scores

    def _block(
        self, queries: Any, banned: npt.NDArray[np.int64] | None, asked: Asked, raw: Codes
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The answers of some queries. Where the lists hold too few rows, more lists; where none, all rows."""
        rows, scores, missed = self._answer(queries, banned, asked, raw)
        if missed is None and rows[:, -1].min(initial=0) >= 0:
            return rows, scores
        while asked.within is None and asked.probes < asked.most and rows[:, -1].min(initial=0) < 0:
            short = np.flatnonzero(rows[:, -1] < 0)
            asked = replace(asked, probes=min(shards.WIDER * asked.probes, asked.most))
            some = None if banned is None else banned[short]
            rows[short], scores[short], _ = self._answer(queries[short], some, asked, raw)
        nothing = rows[:, 0] < 0 if missed is None else missed | (rows[:, 0] < 0)
        if nothing.any():
            unanswered = np.flatnonzero(nothing)
            some = np.full(len(unanswered), -1) if banned is None else banned[unanswered]
            rows[unanswered], scores[unanswered] = compare(
                self.store.layer(self.layer), self.kernels.to_host(queries[unanswered]), some, asked.k,
                self.manifest.spec.metric, self.kernels,
                removed=None if asked.within is None else ~asked.within.mask,
            )  # fmt: skip
        return rows, scores

    def _answer(
        self, queries: Any, banned: npt.NDArray[np.int64] | None, asked: Asked, raw: Codes
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.bool_] | None]:
        """Rows and scores of what the lists hold, and whether the lists cannot answer a query (q,); None: they can.

        On a GPU everything stays there until the end, and nothing waits for it before.
        """
        assert self.reduction is not None
        kernels, metric = self.kernels, self.manifest.spec.metric
        queries = kernels.to_device(queries)
        reduced = self.reduction.apply(queries, kernels)
        if metric == "ip":
            reduced = of_size_one(kernels.xp, reduced)
        candidates, missed = self._candidates(reduced, asked)
        if banned is not None and (banned >= 0).any():
            candidates = kernels.xp.where(candidates == kernels.to_device(banned)[:, None], -1, candidates)
        steps = [*self._steps(queries, reduced, asked, candidates.shape[1]), Step(queries, raw, asked.k)]
        rows, scores = kernels.cascade(candidates, steps, metric)
        return kernels.to_host(rows), kernels.to_host(scores), missed

    def _candidates(self, reduced: Any, asked: Asked) -> tuple[Any, npt.NDArray[np.bool_] | None]:
        """Rows (q, ≥ rerank) that may be in an answer, and which queries the lists cannot answer (q,), if known.

        Of a small part of the rows all are candidates: to compare them takes less time than to find the lists that
        they lie in.
        """
        within, xp = asked.within, self.kernels.xp
        if within is None:
            return shards.candidates(self.shards, reduced, asked.rerank, asked.probes), None
        if asked.all_of_them(len(self)):
            rows = self.kernels.to_device(within.rows)
            return xp.broadcast_to(rows, (len(reduced), within.count)), None
        if ivfpq.filters(self.device):
            # A recall is known for so many candidates: fewer, and it is less where the rows of a filter lie together.
            visit = shards.Visit(count=asked.rerank, probes=asked.probes, most=self.most_probes, bits=within.bits)
            least = min(asked.rerank, within.count)
            return shards.enough_candidates(self.shards, reduced, visit, least), None
        # One more than the answer: the query's own photo may be among them.
        least, most = min(asked.k + 1, within.count), ivfpq.most_candidates(self.device, len(self))
        removed = shards.Removed(mask=self.kernels.to_device(~within.mask), least=least, most=most)
        found, wanting = shards.present_candidates(self.shards, reduced, asked.rerank, asked.probes, removed)
        return found, self.kernels.to_host(wanting)

    def _steps(self, queries: Any, reduced: Any, asked: Asked, given: int) -> Iterator[Step]:
        """From the cheapest comparison to the closest, those that leave fewer of the `given` candidates."""
        closer, exact = kept(asked.k, asked.rerank, None if self.refine is None else self.refine.packed)
        if self.sketch is not None and closer < given:
            yield Step(reduced, self.sketch, closer)
            given = closer
        if self.refine is not None and self.reduction is not None and exact < given:
            # For the cosine the size of a query means nothing, and products of codes cannot overflow.
            unit = self.reduction.unit
            yield Step(queries if unit else self.reduction.scaled(queries, self.kernels.xp), self.refine, exact)
