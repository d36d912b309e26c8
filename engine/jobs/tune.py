"""Finding the settings of an index that reach a recall, a latency or a size, by measuring, and keeping them in it.

**Recall** is recall@10 of held-out photos, fair to ties (`engine.jobs.truth`). A setting reaches a recall when what was
measured, less its sampling error (`engine.jobs.tune_walk.least_recall`), is at least that. Of those the fastest in
batch is taken. **Latency** is the 99th percentile of single queries: the setting of best recall below it is taken.
**Memory** is the size of the index's files, which fast searches keep in memory; the rows of the store stay on the disk.
What no setting reaches gets the nearest that there is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.errors import IndexUnusableError, InputError
from engine.index.build import alone, build_index, staged
from engine.index.manifest import (
    FORMAT_VERSION,
    IndexManifest,
    check_layer_of,
    read_index_manifest,
    write_index_manifest,
)
from engine.index.search import Index
from engine.index.sizes import total_bytes
from engine.index.spec import MAX_REDUCED, IndexSpec
from engine.index.tuned import Tuned, TunedPoint, best_recall, not_reached, timed
from engine.jobs.finite import check_finite
from engine.jobs.truth import TruthSpec, ground_truth
from engine.jobs.tune_walk import LEVELS, Trial, Walk
from engine.progress import Progress, silent
from engine.store.store import Store
from engine.words import sized
from kernels import Device

DEFAULT_RECALL = 0.95
HALVINGS = 3


class TuneSpec(BaseModel):
    """What is wanted, and how it is measured.

    recall: at least this, as fast as possible. latency_ms: at most this for a single query, as good as possible; not
    both. memory: bytes that the index may take. None of them: a recall of 0.95. queries: photos held out. rounds: how
    often each good setting is timed. rebuild: whether an index that is too large may be built again, smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    recall: Annotated[float, Field(gt=0, lt=1)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    memory: Annotated[int, Field(ge=1)] | None = None
    queries: Annotated[int, Field(ge=1, le=1 << 20)] = 500
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0
    rounds: Annotated[int, Field(ge=1, le=1000)] = 3
    rebuild: bool = False

    @model_validator(mode="after")
    def _one_goal(self) -> "TuneSpec":
        if self.recall and self.latency_ms:
            raise ValueError("a recall beside a latency: choose one, the other is measured")
        return self

    @property
    def goal(self) -> float | None:
        """The recall that is wanted; None where it is a latency."""
        return None if self.latency_ms else self.recall or DEFAULT_RECALL


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """What was found. missed: the line about what could not be reached, or None. built: the index was made for it."""

    path: Path
    manifest: IndexManifest
    tuned: Tuned
    missed: str | None
    built: bool

    @property
    def size(self) -> int:
        """Bytes of all files of the index."""
        return sum(part.bytes for part in self.manifest.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """One JSON-able document."""
        return {
            "index": self.path.name,
            "layer": self.manifest.spec.layer,
            "bytes": self.size,
            "built": self.built,
            "missed": self.missed,
            "chosen": self.tuned.default.model_dump(mode="json"),
            "spec": self.manifest.spec.model_dump(mode="json"),
        } | self.tuned.model_dump(mode="json", exclude={"chosen"})


def run_tune(
    store: Store, layer: str, spec: TuneSpec, *, name: str | None = None, device: Device, progress: Progress = silent
) -> TuneReport:
    """Measure the index of a layer and keep in it what was found; it is built with the defaults if it is not there.

    InputError for an index that compares every row, and for one that is larger than `memory` unless `rebuild`: then a
    smaller one is built and measured beside it, and takes its place at the end. StoreError names the photo of a
    damaged row.
    """
    folder = store.path / "indices" / (name or layer)
    check_layer_of(folder, layer)
    smaller = _settle_index(store, layer, folder, spec, device, progress)
    if isinstance(smaller, IndexSpec):
        with staged(store, smaller, folder, device=device, progress=progress) as part:
            index = Index.open(part, device=device, store=store)
            tuned, missed = _found(index, spec, progress)
            manifest = _write(index, tuned)
    else:
        index = Index.open(folder, device=device, store=store)
        tuned, missed = _found(index, spec, progress)
        manifest = keep(index, tuned)
    return TuneReport(path=folder, manifest=manifest, tuned=tuned, missed=missed, built=bool(smaller))


def _found(index: Index, spec: TuneSpec, progress: Progress) -> tuple[Tuned, str | None]:
    """What is measured of an index, and the line about what could not be reached, or None."""
    store, layer, device = index.store, index.layer, index.device
    if not index.shards:
        raise InputError(
            f"{index.path}: has no lists, every row is compared: its recall is 1, there is nothing to tune"
        )
    truth_spec = TruthSpec(layer=layer, metric=index.manifest.spec.metric, queries=spec.queries, k=10, seed=spec.seed)
    truth = ground_truth(store, truth_spec, device=device, progress=progress)
    check_finite(store, layer, truth.query_ids, truth.queries)
    walk = Walk(index, truth, progress)
    points = _measure(walk, spec)
    chosen, missed = _choose(points, spec)
    tuned = Tuned(
        device=str(device), rows=len(index), queries=len(truth), seed=spec.seed,
        points=points, chosen=points.index(chosen),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    return tuned, missed


def _measure(walk: Walk, spec: TuneSpec) -> tuple[TunedPoint, ...]:
    walk.up(spec.goal)
    walk.refine(sorted({*LEVELS, *([spec.goal] if spec.goal else [])}))
    walk.time(walk.contenders(), spec.rounds)
    if spec.latency_ms:
        for _ in range(HALVINGS):
            if between := _between(walk, spec.latency_ms):
                walk.time(between, spec.rounds)
    return walk.points()


def _between(walk: Walk, latency_ms: float) -> list[Trial]:
    """New trials halfway between the best setting that is quick enough and the next better one."""
    points = timed(walk.points())
    quick = [point for point in points if (point.p99_ms or 0) <= latency_ms]
    if not quick:
        return []
    best = best_recall(tuple(quick))
    better = [point for point in points if point.recall > best.recall and (point.p99_ms or 0) > latency_ms]
    if not better:
        return []
    after = min(better, key=lambda point: point.p99_ms or 0)
    place = round((best.probes * after.probes) ** 0.5), round((best.rerank * after.rerank) ** 0.5)
    return [] if place in walk.trials else [walk.look(place)]


def _choose(points: tuple[TunedPoint, ...], spec: TuneSpec) -> tuple[TunedPoint, str | None]:
    """The point for what is wanted, or the nearest, and then the line that says so."""
    if spec.goal is not None:
        good = [point for point in timed(points) if point.least >= spec.goal]
        if good:
            return max(good, key=lambda point: point.qps), None
        best = best_recall(points)
        return best, not_reached(spec.goal, best)
    limit = spec.latency_ms or 0
    quick = tuple(point for point in timed(points) if (point.p99_ms or 0) <= limit)
    if quick:
        return best_recall(quick), None
    best = min(timed(points), key=lambda point: point.p99_ms or 0)
    return best, (
        f"--latency-ms {limit:g} was not reached: the least is {best.p99_ms:g} ms (99th percentile) with "
        f"{best.options}, at a recall of {best.recall:.4f}."
    )


def keep(index: Index, tuned: Tuned) -> IndexManifest:
    """Write what was found into `index.json`; IndexUnusableError when the index was built anew meanwhile."""
    with alone(index.path):
        now = read_index_manifest(index.path)
        if (now.parts, now.store_digest) != (index.manifest.parts, index.manifest.store_digest):
            raise IndexUnusableError(f"{index.path}: was built again while it was tuned. Tune it again.")
        return _write(index, tuned)


def _write(index: Index, tuned: Tuned) -> IndexManifest:
    manifest = index.manifest.model_copy(update={"tuned": tuned, "version": FORMAT_VERSION})
    write_index_manifest(index.path, manifest)
    return read_index_manifest(index.path)


def _settle_index(
    store: Store, layer: str, folder: Path, spec: TuneSpec, device: Device, progress: Progress
) -> bool | IndexSpec:
    """See that there is an index, and whether one was built; or the smaller one that is to take its place."""
    there = (folder / "index.json").exists()
    manifest = read_index_manifest(folder) if there else None
    if manifest and (spec.memory is None or sum(part.bytes for part in manifest.parts.values()) <= spec.memory):
        return False
    wanted = manifest.spec if manifest else IndexSpec(layer=layer)
    if spec.memory is not None:
        wanted = _fitting(store, wanted, spec.memory, device)
        if manifest and not spec.rebuild:
            size = sum(part.bytes for part in manifest.parts.values())
            raise InputError(
                f"{folder}: {sized(size)}, and --memory is {sized(spec.memory)}. An index that fits: "
                f"{_says(store, wanted, device)}. With --rebuild it takes the place of this one, with another --name "
                "it is built beside it."
            )
        if manifest:
            return wanted.resolved(rows=store.photos, dim=manifest.dim, device=device.kind)
    build_index(store, wanted, device=device, name=folder.name, progress=progress)
    return True


def smaller_specs(spec: IndexSpec, dim: int) -> Iterator[IndexSpec]:
    """Specifications that take less and less memory: coarser codes of the raw rows, none, then fewer dimensions."""
    yield spec
    known = get_args(IndexSpec.model_fields["refine"].annotation)
    kinds = [kind for kind in ("uint8", "uint4", "none") if kind in known]
    after = kinds.index(spec.refine) + 1 if spec.refine in kinds else 0
    for kind in kinds[after:]:
        yield spec.model_copy(update={"refine": kind})
    for part in (2, 4):
        fewer = max(min(spec.reduced or MAX_REDUCED, dim) // part, 1)
        yield spec.model_copy(update={"refine": "none", "reduced": fewer, "pq_m": None})


def _fitting(store: Store, spec: IndexSpec, memory: int, device: Device) -> IndexSpec:
    """The first of `smaller_specs` that fits; InputError names the smallest."""
    dim = store.layer(spec.layer).shape[1]
    sizes = [(_size(store, each, device), each) for each in smaller_specs(spec, dim)]
    for size, each in sizes:
        if size <= memory:
            return each
    size, least = min(sizes, key=lambda pair: pair[0])
    raise InputError(
        f"--memory {sized(memory)} cannot be reached: the least is {_says(store, least, device)}. "
        f"Give --memory {-(-size // 1000)}KB or more."
    )


def _size(store: Store, spec: IndexSpec, device: Device) -> int:
    dim = store.layer(spec.layer).shape[1]
    resolved = spec.resolved(rows=store.photos, dim=dim, device=device.kind)
    return total_bytes(resolved, rows=len(store), dim=dim)


def _says(store: Store, spec: IndexSpec, device: Device) -> str:
    resolved = spec.resolved(rows=store.photos, dim=store.layer(spec.layer).shape[1], device=device.kind)
    return f"refine {spec.refine} with {resolved.reduced} dimensions, {sized(_size(store, spec, device))}"
