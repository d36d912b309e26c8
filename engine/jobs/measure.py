"""Measuring one way to search: its recall, its throughput, its latency. What they mean: `engine.jobs.bench`."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.index.exact import exact_search
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.jobs.truth import Truth, recall_of_answers

EXACT_QUERIES = 64
DEEP_K = 100
WARM_UP = 5

Search = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], SearchResult]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to search: by the index with these probes and candidates, or exactly (then both are None)."""

    kind: Literal["index", "exact"]
    probes: int | None = None
    rerank: int | None = None
    default: bool = False


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A figure of several repeats."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of single queries: medians, over the repeats, of their percentiles. queries: timed per repeat."""

    p50: float
    p95: float
    p99: float
    queries: int


@dataclass(frozen=True, kw_only=True)
class BenchPoint:
    """What was measured of one setting. recall: by k, as text. batch: queries of the call that gives QPS."""

    setting: Setting
    recall: dict[str, float]
    rerank_at_100: int | None
    batch: int
    qps: Spread
    latency_ms: Latency | None
    pareto: bool = False


class Run:
    """One setting being measured: recall once, then time as often as wanted. singles: queries timed one by one."""

    def __init__(self, index: Index, truth: Truth, setting: Setting, *, k: int, singles: int) -> None:
        self.index, self.truth, self.setting, self.k = index, truth, setting, k
        self.batch = min(len(truth), EXACT_QUERIES) if setting.kind == "exact" else len(truth)
        # Brute force one by one takes minutes in a large store; where it is all there is, it is measured.
        self.singles = min(len(truth), singles) if setting.kind == "index" or setting.default else 0
        self.recall: dict[str, float] = {}
        self.rerank_at_100: int | None = None
        self.seconds: list[float] = []
        self.single_ms: list[npt.NDArray[np.float64]] = []

    @property
    def name(self) -> str:
        """For people who wait."""
        if self.setting.kind == "exact":
            return "exact"
        return f"{self.setting.probes} probes, {self.setting.rerank} re-ranked"

    def _search(self, k: int, rerank: int | None) -> Search:
        if self.setting.kind == "exact":
            return lambda queries, own: exact_search(
                self.index.store, self.index.layer, queries, k, metric=self.index.manifest.spec.metric,
                kernels=self.index.kernels, exclude=own,
            )  # fmt: skip
        spec = SearchSpec(k=k, probes=self.setting.probes, rerank=None if rerank is None else max(rerank, k))
        return lambda queries, own: self.index.search(queries, spec, exclude=own)

    def _answers(self, k: int, rerank: int | None) -> npt.NDArray[np.int64]:
        return self._search(k, rerank)(self.truth.queries[: self.batch], self.truth.query_ids[: self.batch]).photo_ids

    def measure_recall(self) -> None:
        """Search once for the timed k, which also warms up, and once for 100 neighbours."""
        store, truth, device = self.index.store, self.truth, self.index.device
        answers = self._answers(self.k, self.setting.rerank)
        for k in sorted({k for k in (1, 10, self.k, DEEP_K) if k <= self.k}):
            self.recall[str(k)] = round(recall_of_answers(store, truth, answers, k, device=device), 10)
        if self.k < DEEP_K < store.photos and truth.scores.shape[1] >= DEEP_K:
            rerank = None if self.setting.default else self.setting.rerank
            answers = self._answers(DEEP_K, rerank)
            self.recall[str(DEEP_K)] = round(recall_of_answers(store, truth, answers, DEEP_K, device=device), 10)
            if self.setting.kind == "index":
                chosen = None if rerank is None else max(rerank, DEEP_K)
                self.rerank_at_100 = self.index.settings(SearchSpec(k=DEEP_K, rerank=chosen))[1]

    def time_once(self) -> None:
        """One call with all queries, then one call for each of some."""
        search = self._search(self.k, self.setting.rerank)
        queries, own = self.truth.queries, self.truth.query_ids
        started = time.perf_counter_ns()
        search(queries[: self.batch], own[: self.batch])
        self.seconds.append(max(time.perf_counter_ns() - started, 1) / 1e9)
        for i in range(min(WARM_UP, self.singles)):
            search(queries[i : i + 1], own[i : i + 1])
        taken = np.empty(self.singles, np.float64)
        for i in range(self.singles):
            started = time.perf_counter_ns()
            search(queries[i : i + 1], own[i : i + 1])
            taken[i] = (time.perf_counter_ns() - started) / 1e6
        self.single_ms.append(taken)

    def point(self) -> BenchPoint:
        """What was measured, not yet compared with the others."""
        return BenchPoint(
            setting=self.setting, recall=self.recall, rerank_at_100=self.rerank_at_100, batch=self.batch,
            qps=spread([self.batch / seconds for seconds in self.seconds]),
            latency_ms=latency(self.single_ms) if self.singles else None,
        )  # fmt: skip


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest of at least one value, to five digits."""
    return Spread(median=_digits(statistics.median(values)), min=_digits(min(values)), max=_digits(max(values)))


def latency(repeats: Iterable[npt.NDArray[np.float64]]) -> Latency:
    """Percentiles of milliseconds (n,) in each repeat, n ≥ 1, by nearest rank; then the medians over the repeats."""
    repeats = list(repeats)
    ranks = [np.percentile(taken, (50, 95, 99), method="inverted_cdf") for taken in repeats]
    p50, p95, p99 = (_digits(float(value)) for value in np.median(ranks, axis=0))
    return Latency(p50=p50, p95=p95, p99=p99, queries=len(repeats[0]))


def _digits(value: float) -> float:
    """Five significant digits: more than any clock here can promise."""
    return float(f"{value:.5g}")
