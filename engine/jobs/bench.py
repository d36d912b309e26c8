"""Benchmark of an index: recall, throughput, latency, size and build time, over a grid of search settings.

What the figures mean (`BenchReport.to_dict` has them all in one JSON document):

- **Queries** are those that were imported with the layer for the index's metric, with their true neighbours
  (`truth_source`; `truth_agrees`: see `engine.jobs.query_set`); else, or if `own_queries`, distinct photos of the store
  chosen by the seed, each left out of its own answer. **recall@k** is fair to ties and measured against exact search:
  see `engine.jobs.truth`. Recall@1 and @10 come from the answer that is timed (k = 10 by default); recall@100 from a
  search of its own, not timed, in stores of more than 100 photos, where so many true neighbours are known. It re-ranks
  as many candidates as the point says (100 at least), at the default point as many as the index chooses for k = 100:
  `rerank_at_100`.
- **QPS** is all queries in one call, divided by its wall time: the median of the repeats, and the least and greatest.
- **Latency** is one query per call, timed one by one with a monotonic clock after a warm-up, in milliseconds; p50,
  p95 and p99 are nearest-rank percentiles (calls that were really made) of one repeat, then the median of the repeats.
- Repeats go round all points in turn, so a slow spell of the machine falls on all of them.
- **exact** is brute force over all rows, by the same kernels, for at most 64 queries in one call.
- The **Pareto front** holds the points that no other point beats: none is as good in both recall and QPS and better
  in one.
- **Build seconds** and **bytes per photo** are those of the index's manifest (all files of the index, not the rows of
  the store). **Peak memory** is the largest resident set of the benchmarking process up to the end, which counts
  pages of mapped files too.
"""

import json
import math
import os
import platform
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.errors import DependencyError
from engine.index import ivfpq
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.jobs.doctor import cpu_model, examine_machine, memory
from engine.jobs.measure import DEEP_K, BenchPoint, Run, Setting
from engine.jobs.plot import draw_recall_qps
from engine.jobs.query_notice import unused_queries
from engine.jobs.query_set import MOST_QUERIES, imported_truth
from engine.jobs.truth import Truth, TruthSpec, ground_truth
from engine.progress import Progress, silent
from engine.store.durable import disk_errors, write_whole
from engine.version import VERSION
from kernels import Device
from kernels.device import cpu_threads

FORMAT_VERSION = 1
HELD_OUT = 1000  # queries
_Count = Annotated[int, Field(ge=1, le=1 << 20)]


class BenchSpec(BaseModel):
    """How a benchmark is done.

    queries: how many; None: 1,000 photos held out, or as many as were imported, up to 10,000. own_queries: hold photos
    of the store out by the seed, even if queries were imported. k: neighbours of the timed searches. probes, rerank:
    the grid; chosen around the index's own settings when None, which are always a point of it. repeats: timed rounds.
    latency_queries: how many of the queries are timed one by one in each round. recall: instead of a grid, the point
    of this recall of an index that was tuned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    queries: _Count | None = None
    own_queries: bool = False
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    k: _Count = 10
    probes: Annotated[tuple[_Count, ...], Field(min_length=1)] | None = None
    rerank: Annotated[tuple[_Count, ...], Field(min_length=1)] | None = None
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3
    latency_queries: _Count = 200
    recall: Annotated[float, Field(gt=0, le=1)] | None = None

    @field_validator("rerank")
    @classmethod
    def _enough(cls, rerank: tuple[int, ...] | None, other: ValidationInfo) -> tuple[int, ...] | None:
        if rerank is not None and min(rerank) < other.data.get("k", 1):
            raise ValueError(f"rerank {min(rerank)} is less than k {other.data['k']}")
        return rerank

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.recall is not None and (self.probes or self.rerank):
            raise ValueError("recall beside probes or rerank: choose one")
        return self


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A benchmark: the settings, the index, the machine, and its points in the order of the grid, exact last.

    queries: how many there were, and query_source what they are. truth_source, truth_agrees, warnings: of the true
    neighbours; see `Truth`.
    """

    spec: BenchSpec
    queries: int
    truth_k: int
    truth_cached: bool
    query_source: Literal["held out", "imported"]
    truth_source: Literal["computed", "imported"]
    truth_agrees: float | None
    warnings: tuple[str, ...]
    index: dict[str, Any]
    machine: dict[str, Any]
    peak_memory_mib: int
    measured_at: str
    points: tuple[BenchPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """One JSON-able document; no number in it is NaN or infinite."""
        document = asdict(self)
        held_out = "leave-one-out" if self.query_source == "held out" else None
        spec = self.spec.model_dump(mode="json") | {"held_out": held_out}
        points = [point | point.pop("setting") for point in document.pop("points")]
        return {"format": "mirsearch-bench", "version": FORMAT_VERSION} | document | {"spec": spec, "points": points}

    @property
    def asked(self) -> str:
        """The queries and their truth, in a line."""
        if self.query_source == "held out":
            return f"{self.queries:,} photos held out, seed {self.spec.seed}"
        theirs = "with their neighbours" if self.truth_source == "imported" else "neighbours computed"
        return f"{self.queries:,} that were imported, {theirs}"


def run_bench(index: Index, spec: BenchSpec, progress: Progress = silent) -> BenchReport:
    """Measure an index at every point of a grid, and exact search beside it. InputError for an empty store."""
    truth = _truth(index, spec, progress)
    runs = [Run(index, truth, setting, k=spec.k, singles=spec.latency_queries) for setting in settings_of(index, spec)]
    for done, run in enumerate(runs):
        progress("recall", done, len(runs), unit="points", detail=run.name)
        run.measure_recall()
    for repeat in range(spec.repeats):
        for done, run in enumerate(runs):
            progress("timing", repeat * len(runs) + done, spec.repeats * len(runs), unit="points", detail=run.name)
            run.time_once()
    progress("timing", spec.repeats * len(runs), spec.repeats * len(runs), unit="points")
    fewer = fewer_queries(spec.queries, truth)
    return BenchReport(
        spec=spec, queries=len(truth), truth_k=truth.scores.shape[1], truth_cached=truth.cached,
        query_source="held out" if truth.held_out else "imported", truth_source=truth.source,
        truth_agrees=truth.agrees, warnings=(*truth.warnings, *fewer),
        index=describe_index(index), machine=describe_machine(index.device),
        # Kilobytes on Linux: getrusage(2).
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        points=mark_pareto([run.point() for run in runs], spec.k),
    )  # fmt: skip


def fewer_queries(wanted: int | None, truth: Truth) -> tuple[str, ...]:
    """A sentence where there are fewer queries than were wanted."""
    if wanted is None or len(truth) >= wanted:
        return ()
    there = "photos to hold out" if truth.held_out else "imported queries"
    return (f"--queries {wanted:,}: there are {len(truth):,} {there}, and all of them are asked.",)


def _truth(index: Index, spec: BenchSpec, progress: Progress) -> Truth:
    """Imported queries where there are some for the metric of the index and they are wanted; else photos held out."""
    wanted = TruthSpec(
        layer=index.layer, metric=index.manifest.spec.metric, queries=spec.queries or HELD_OUT,
        k=max(spec.k, DEEP_K), seed=spec.seed,
    )  # fmt: skip
    if not spec.own_queries:
        theirs = replace(wanted, queries=spec.queries or MOST_QUERIES)
        truth = imported_truth(index.store, theirs, spec.k, device=index.device, progress=progress)
        if truth is not None:
            return truth
    truth = ground_truth(index.store, wanted, device=index.device, progress=progress)
    why = "" if spec.own_queries else unused_queries(index.store.manifest, index.layer, wanted.metric)
    return replace(truth, warnings=(*truth.warnings, why)) if why else truth


def settings_of(index: Index, spec: BenchSpec) -> list[Setting]:
    """The grid, ascending in probes, then in candidates, the index's own point among it and marked; exact last.

    An index without lists compares all rows whatever it is told: exact search is its only point, and its default.
    Numbers past the lists or rows there are mean the same as all of them, and appear once.
    """
    if not index.shards:
        return [Setting(kind="exact", default=True)]
    own = index.settings(SearchSpec(k=spec.k))
    lists, rows = index.manifest.spec.lists or 1, index.photos
    most = ivfpq.most_probes(index.device, lists)
    grid = (
        {index.settings(SearchSpec(k=spec.k, recall=spec.recall))}
        if spec.recall
        else {
            (min(probes, lists), min(rerank, rows))
            for probes in spec.probes or _around(own[0], min(most, lists))
            for rerank in spec.rerank or (max(100, spec.k), own[1], max(1000, spec.k))
        }
    )
    return [
        *(Setting(kind="index", probes=p, rerank=r, default=(p, r) == own) for p, r in sorted(grid | {own})),
        Setting(kind="exact"),
    ]


def _around(probes: int, most: int) -> tuple[int, ...]:
    """A number and the powers of two about a half, a quarter, twice and four times of it, up to `most`."""
    middle = round(math.log2(probes))
    return probes, *(min(1 << power, most) for power in range(max(middle - 2, 0), middle + 3) if power != middle)


def mark_pareto(points: Sequence[BenchPoint], k: int) -> tuple[BenchPoint, ...]:
    """The points with `pareto` set on those that no other beats in recall@k and QPS: see the module's text."""
    places = [(point.recall[str(k)], point.qps.median) for point in points]

    def beaten(place: tuple[float, float]) -> bool:
        return any(other != place and other[0] >= place[0] and other[1] >= place[1] for other in places)

    return tuple(replace(point, pareto=not beaten(place)) for point, place in zip(points, places, strict=True))


def describe_index(index: Index) -> dict[str, Any]:
    """What was measured: the index's manifest in figures."""
    manifest = index.manifest
    seconds = {
        key.removeprefix("seconds_"): float(value)
        for key, value in manifest.training.items()
        if key.startswith("seconds_")
    }
    size = sum(part.bytes for part in manifest.parts.values())
    return {
        "name": index.path.name,
        "layer": index.layer,
        "metric": manifest.spec.metric,
        "photos": index.photos,
        "rows": len(index),
        "dim": manifest.dim,
        "store_digest": manifest.store_digest,
        "spec": manifest.spec.model_dump(mode="json"),
        "shards": len(manifest.shards),
        "bytes": size,
        "bytes_per_photo": round(size / max(len(index), 1), 2),
        "build_seconds": seconds | {"total": round(sum(seconds.values()), 3)},
        "build": {key: value for key, value in manifest.training.items() if not key.startswith("seconds_")},
    }


def describe_machine(device: Device) -> dict[str, Any]:
    """What it was measured on: device, processor, cores this process may use, versions.

    load: how many processes ran or waited in the last minute, this one among them; far more than the cores means that
    others were at work too, and the timings are theirs as much as ours.
    """
    try:
        faiss: dict[str, Any] | None = ivfpq.describe_build()
    except DependencyError:  # an index without lists needs none
        faiss = None
    return {
        "device": str(device),
        "device_why": device.why,
        "gpus": examine_machine().facts.get("gpus") if device.kind == "cuda" else None,
        "cpu": cpu_model(),
        "cores": cpu_threads(),
        "memory": memory(),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "engine": VERSION,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "faiss": faiss,
    }


def write_bench(report: BenchReport, out: Path) -> dict[str, Path]:
    """Write `bench.json`, `recall_qps.png` and `recall_qps.svg` in a folder; their paths by name.

    The JSON comes first, so that a host without Matplotlib (DependencyError) keeps what was measured.
    """
    document = report.to_dict()
    with disk_errors(out.parent):
        out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / name for name in ("bench.json", "recall_qps.png", "recall_qps.svg")}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(paths["bench.json"], (text + "\n").encode())
    for suffix, data in draw_recall_qps(document).items():
        write_whole(paths[f"recall_qps.{suffix}"], data)
    return paths
