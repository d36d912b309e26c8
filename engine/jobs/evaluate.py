"""How relevant the answers are: retrieval metrics by annotations, of random ranking, exact search and the index.

Does lost recall cost relevance? Queries are photos of the store, chosen by the seed among those that something is known
of and that have something relevant; each is left out of its own answer. Every way ranks `depth` photos for the same
queries, and its metrics (`engine.jobs.retrieval_metrics`), their intervals and their differences from exact search of
the same layer are put side by side, beside the recall of that very answer (fair to ties, `engine.jobs.truth`) and the
speed of the search that gave it: all queries in one call, the median of the repeats.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.errors import InputError
from engine.jobs.bench import describe_index, describe_machine
from engine.jobs.evaluate_plot import draw_relevance
from engine.jobs.evaluate_ways import Layer, Ranker, Way, open_layers
from engine.jobs.measure import Spread, spread
from engine.jobs.relevance import Judged, Relevance, RelevanceSpec, open_relevance
from engine.jobs.retrieval_metrics import Bootstrap, Gain, Interval, per_query
from engine.jobs.truth import check_not_empty, choose_rows, shares
from engine.progress import Progress, silent
from engine.store.durable import disk_errors, write_whole
from engine.store.store import Store
from kernels import Device

FORMAT_VERSION = 1
RECALL_AT = 10
_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class EvaluateSpec(BaseModel):
    """How an evaluation is done.

    queries: photos held out. depth: how far down a ranking is looked at: the R of mAP@R. k: of precision@k, recall@k
    and nDCG@k. gain: of nDCG. probes, rerank: points of the index beside its own; its tuned points, or some about its
    own, when None. repeats: how often each is timed. resamples, confidence: of the intervals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    relevance: RelevanceSpec = RelevanceSpec()
    queries: _Count = 1000
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    depth: _Count = 100
    k: _Count = 10
    gain: Gain = "linear"
    probes: Annotated[tuple[_Count, ...], Field(min_length=1)] | None = None
    rerank: Annotated[tuple[_Count, ...], Field(min_length=1)] | None = None
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3
    resamples: Annotated[int, Field(ge=10, le=1_000_000)] = 2000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _deep_enough(self) -> Self:
        if self.k > self.depth:
            raise ValueError(f"-k {self.k}: --depth {self.depth} is how far down rankings are looked at, and less")
        return self


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The queries of an evaluation. unlabelled: passed over, since nothing is known of them; lonely: since nothing is
    relevant to them.
    """

    judged: Judged
    unlabelled: int
    lonely: int


@dataclass(frozen=True, kw_only=True)
class EvaluatePoint:
    """What one way to rank is worth. minus_exact: less exact search of its layer (random: of the first layer).

    minus_first: exact search less that of the first layer. recall: share of the nearest that were found, by k as text.
    """

    way: Way
    metrics: dict[str, Interval]
    minus_exact: dict[str, Interval] | None = None
    minus_first: dict[str, Interval] | None = None
    recall: dict[str, float] | None = None
    qps: Spread | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """An evaluation: settings, what relevance is made of, and the points: random, then each layer, exact first."""

    spec: EvaluateSpec
    relevance: dict[str, Any]
    queries: dict[str, Any]
    layers: list[dict[str, Any]]
    machine: dict[str, Any]
    measured_at: str
    points: tuple[EvaluatePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """One JSON-able document; no number in it is NaN or infinite."""
        document = asdict(self)
        points = [point.pop("way") | point for point in document.pop("points")]
        spec = {"spec": self.spec.model_dump(mode="json")}
        head = {"format": "mirsearch-evaluate", "version": FORMAT_VERSION}
        return head | document | spec | {"points": points}


@dataclass
class _Measured:
    """One way being measured."""

    ranker: Ranker
    values: dict[str, npt.NDArray[np.float64]]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of(cls, ranker: Ranker, spec: EvaluateSpec) -> Self:
        rows, scores = ranker.rank()
        judged = ranker.judged
        grades = ranker.relevance.grades(judged.rows, rows)
        values = per_query(grades, judged.relevant, judged.ideal, spec.k, spec.gain)
        return cls(ranker, values, scores)


def run_evaluate(
    store: Store,
    names: list[str],
    spec: EvaluateSpec,
    *,
    device: Device,
    weights: list[float] | None = None,
    index_name: str | None = None,
    progress: Progress = silent,
) -> EvaluateReport:
    """Evaluate layers (`fc7`, `fc7+fc8`) of a store; weights: of those in one; index_name: see `open_layers`.

    InputError for an empty store, annotations or layers that are not there, and where no photo can be a query.
    """
    check_not_empty(store)
    layers = open_layers(store, names, device, weights=weights, index_name=index_name)
    relevance = open_relevance(store, spec.relevance, progress)
    asked = choose_queries(store, relevance, spec, progress)
    random = Ranker(
        way=Way(kind="random"), layer=None, relevance=relevance, judged=asked.judged, depth=spec.depth, seed=spec.seed
    )
    rankers = [random] + [
        Ranker(way=way, layer=layer, relevance=relevance, judged=asked.judged, depth=spec.depth)
        for layer in layers
        for way in layer.ways(spec.depth, spec.probes, spec.rerank)
    ]
    measured = []
    for done, ranker in enumerate(rankers):
        progress("rank", done, len(rankers), unit="ways", detail=ranker.way.name)
        measured.append(_Measured.of(ranker, spec))
    _time(rankers, spec.repeats, progress)
    bootstrap = Bootstrap(len(asked.judged.rows), resamples=spec.resamples, seed=spec.seed, confidence=spec.confidence)
    return EvaluateReport(
        spec=spec, relevance=relevance.facts, queries=_describe(asked), layers=[_of_layer(layer) for layer in layers],
        machine=describe_machine(device), measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        points=_points(measured, spec, bootstrap),
    )  # fmt: skip


def choose_queries(store: Store, relevance: Relevance, spec: EvaluateSpec, progress: Progress = silent) -> Asked:
    """Distinct photos in an order given by the seed, the first that can be queries; InputError where none can."""
    order = store.present_rows[choose_rows(store.photos, store.photos, spec.seed)]
    found: list[Judged] = []
    enough = unlabelled = lonely = 0
    for start in range(0, len(order), max(spec.queries, 1000)):
        some = order[start : start + max(spec.queries, 1000)]
        known = relevance.relation.known[some]
        judged = relevance.judge(some[known], spec.depth, progress)
        good = np.flatnonzero(judged.relevant > 0)[: spec.queries - enough]
        enough += len(good)
        found.append(judged.some(good))
        if enough == spec.queries:
            last = int(np.flatnonzero(known)[good[-1]])
            unlabelled += int((~known[:last]).sum())
            lonely += int((judged.relevant[: good[-1]] == 0).sum())
            break
        unlabelled, lonely = unlabelled + int((~known).sum()), lonely + int((judged.relevant == 0).sum())
    if not enough:
        raise InputError(
            f"{store.path}: nothing is relevant to any photo by {spec.relevance.source}"
            f"{' that is not left out by --exclude-same' * bool(relevance.same)}. Choose another --relevance."
        )
    parts = ("rows", "relevant", "ideal", "left_out")
    judged = Judged(**{name: np.concatenate([getattr(part, name) for part in found]) for name in parts})
    return Asked(judged=judged, unlabelled=unlabelled, lonely=lonely)


def _describe(asked: Asked) -> dict[str, Any]:
    relevant = asked.judged.relevant
    return {
        "queries": len(relevant), "passed_over_unlabelled": asked.unlabelled,
        "passed_over_nothing_relevant": asked.lonely,
        "relevant_mean": round(float(relevant.mean()), 3), "relevant_median": float(np.median(relevant)),
        "left_out_mean": round(float(asked.judged.left_out.mean()), 3),
    }  # fmt: skip


def _of_layer(layer: Layer) -> dict[str, Any]:
    index = layer.index.index if layer.index else None
    return {
        "layer": layer.name, "metric": layer.exact.metric, "weights": layer.weights, "indexed": layer.index is not None,
        "index": describe_index(index) if index else None,
    }  # fmt: skip


def _time(rankers: list[Ranker], repeats: int, progress: Progress) -> None:
    """Time the index's points again, in turn; what ranked first has warmed up. Exact search is timed once."""
    timed = [ranker for ranker in rankers if ranker.way.kind == "index"]
    for ranker in timed:
        ranker.seconds.clear()
    for repeat in range(repeats):
        for done, ranker in enumerate(timed):
            progress("timing", repeat * len(timed) + done, repeats * len(timed), unit="points", detail=ranker.way.name)
            ranker.time()


def _points(measured: list[_Measured], spec: EvaluateSpec, bootstrap: Bootstrap) -> tuple[EvaluatePoint, ...]:
    exact = {one.ranker.way.layer: one for one in measured if one.ranker.way.kind == "exact"}
    first = next(iter(exact.values()))
    points = []
    for one in measured:
        way = one.ranker.way
        base = exact.get(way.layer, first)
        same = way.kind == "exact"
        points.append(EvaluatePoint(
            way=way,
            metrics=bootstrap.intervals(one.values),
            minus_exact=None if same else bootstrap.differences(one.values, base.values),
            minus_first=bootstrap.differences(one.values, first.values) if same and one is not first else None,
            recall=_recall(one, base, spec) if way.kind == "index" else None,
            qps=None if way.kind == "random" else spread([len(one.scores) / each for each in one.ranker.seconds]),
        ))  # fmt: skip
    return tuple(points)


def _recall(one: _Measured, exact: _Measured, spec: EvaluateSpec) -> dict[str, float]:
    """By k as text: of the very answers that are judged. A query without a true neighbour missed nothing."""
    found = {k: shares(one.scores, exact.scores, k) for k in sorted({min(RECALL_AT, spec.depth), spec.k, spec.depth})}
    return {str(k): round(float(part.mean()), 10) if len(part) else 1.0 for k, part in found.items()}


def write_evaluation(report: EvaluateReport, out: Path) -> dict[str, Path]:
    """Write `evaluate.json`, `relevance.png` and `relevance.svg` in a folder; their paths by name.

    The JSON comes first, so that a host without Matplotlib (DependencyError) keeps what was measured.
    """
    document = report.to_dict()
    with disk_errors(out.parent):
        out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / name for name in ("evaluate.json", "relevance.png", "relevance.svg")}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(paths["evaluate.json"], (text + "\n").encode())
    for suffix, data in draw_relevance(document).items():
        write_whole(paths[f"relevance.{suffix}"], data)
    return paths
