"""Everything once: a sample collection, its store, indices, a benchmark and the duplicates; what is there is reused."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.index.build import BuildReport, build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.bench import BenchSpec, run_bench, write_bench
from engine.jobs.copy_metrics import score_against_truth
from engine.jobs.copy_truth import read_truth
from engine.jobs.dedup import DedupSpec, find_duplicates
from engine.jobs.report import ReportSpec, write_duplicates
from engine.progress import Progress, silent
from engine.store.durable import write_whole
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import describe, synthesize
from engine.store.synth_model import VERSION
from kernels import Device

LAYERS = ("fc7", "fc8")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the demo: what it made, in one line, where it lies, and whether it was there already."""

    name: str
    text: str
    seconds: float
    reused: bool = False
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """What the demo did and where things lie.

    neighbors: (photo id, score) of the queried photo's nearest. bench and duplicates: their documents.
    """

    folder: Path
    steps: list[Step]
    query: int
    neighbors: list[tuple[int, float]]
    bench: dict[str, Any]
    duplicates: dict[str, Any]
    seconds: float

    @property
    def store(self) -> Path:
        """The store."""
        return self.folder / "store"


class _Demo:
    """The steps in order; each leaves its line."""

    def __init__(self, folder: Path, photos: int, device: Device, progress: Progress) -> None:
        self.folder, self.photos, self.device, self.progress = folder, photos, device, progress
        self.steps: list[Step] = []
        self.sample, self.store = folder / "sample", folder / "store"

    def note(self, name: str, started: float, text: str, *, path: Path | None = None, reused: bool = False) -> None:
        seconds = time.perf_counter() - started
        self.steps.append(Step(name=name, text=text, seconds=seconds, path=path, reused=reused))

    def collect(self) -> None:
        started = time.perf_counter()
        there = describe(self.sample)
        wanted = {"photos": self.photos, "seed": 0, "images": True, "version": VERSION}
        reused = there == wanted
        if there is not None and not reused and (self.store / "manifest.json").exists():
            raise EngineError(
                f"{self.sample}: holds another sample than the one asked for ({there['photos']:,} photos, version "
                f"{there['version']}), and {self.store} was made from it. Remove {self.folder}, or name another folder."
            )
        if not reused:
            synthesize(self.sample, photos=self.photos, seed=0, images=True, progress=self.progress)
        text = f"{self.photos:,} photos: .dat files and pictures"
        self.note("synth", started, text, path=self.sample, reused=reused)

    def take_in(self) -> Store:
        started = time.perf_counter()
        if (self.store / "manifest.json").exists():
            store = Store.open(self.store)
            if len(store) != self.photos:
                raise EngineError(
                    f"{self.store}: holds {len(store):,} photos, not {self.photos:,}. "
                    f"Remove {self.folder}, or name another folder."
                )
            self.note("ingest", started, f"{len(store):,} photos", path=self.store, reused=True)
            return store
        report = ingest([self.sample / "features"], self.store, device=self.device, progress=self.progress)
        rate = f"{report.photos / report.seconds:,.0f} files/s, {report.bytes_read / report.seconds / 1e9:.2f} GB/s"
        self.note("ingest", started, f"{report.photos:,} photos, {rate}", path=self.store)
        return Store.open(self.store)

    def build(self, store: Store, layer: str) -> BuildReport:
        started = time.perf_counter()
        report = build_index(store, IndexSpec(layer=layer), device=self.device, progress=self.progress)
        spec = report.manifest.spec
        text = f"{spec.lists:,} lists, {report.bytes_per_photo:,.0f} bytes a photo" if spec.lists else "exact"
        self.note(f"build {layer}", started, text, path=report.path, reused=report.reused)
        return report

    def ask(self, index: Index) -> tuple[int, list[tuple[int, float]]]:
        started = time.perf_counter()
        photo = int(index.store.photo_ids[len(index.store) // 2])
        row = index.store.rows_of(photo)
        found = index.search(index.store.layer(index.layer)[row], SearchSpec(k=10), exclude=[photo])
        pairs = zip(found.photo_ids[0].tolist(), found.scores[0].tolist(), strict=True)
        neighbors = [(a, b) for a, b in pairs if a >= 0]
        self.note("query", started, f"the {len(neighbors)} nearest to photo {photo}")
        return photo, neighbors

    def bench(self, index: Index) -> dict[str, Any]:
        started, out = time.perf_counter(), self.folder / "bench"
        document = _same(out / "bench.json", _made_from(index))
        reused = document is not None
        if document is None:
            report = run_bench(index, _grid(index), self.progress)
            write_bench(report, out)
            document = report.to_dict()
            _mark(out / "bench.json", _made_from(index))
        point = next((point for point in document["points"] if point["default"]), document["points"][0])
        text = f"recall@10 {point['recall']['10']:.3f} at {point['qps']['median']:,.0f} queries/s by default"
        self.note("bench", started, text, path=out / "recall_qps.png", reused=reused)
        return document

    def dedup(self, index: Index) -> dict[str, Any]:
        started, out = time.perf_counter(), self.folder / "duplicates"
        document = _same(out / "summary.json", _made_from(index))
        reused = document is not None
        if document is None:
            found = find_duplicates(index, DedupSpec(), self.progress)
            truth = score_against_truth(found, read_truth(self.sample / "truth.jsonl"))
            write_duplicates(found, index.store, out, ReportSpec(images=self.sample / "images", truth=truth))
            document = json.loads((out / "summary.json").read_bytes())
            _mark(out / "summary.json", _made_from(index))
        text = f"{document['groups']:,} groups, {document['pairs']:,} pairs"
        self.note("dedup", started, text, path=out / "report.html", reused=reused)
        return document


def run_demo(folder: Path, *, photos: int, device: Device, progress: Progress = silent) -> DemoReport:
    """Run every step of the main job in `folder`; a step whose result is there and still fits is not run again."""
    started = time.perf_counter()
    demo = _Demo(folder, photos, device, progress)
    demo.collect()
    store = demo.take_in()
    for layer in LAYERS:
        demo.build(store, layer)
    index = Index.open(store.path / "indices" / LAYERS[0], device=device, store=store)
    query, neighbors = demo.ask(index)
    bench, duplicates = demo.bench(index), demo.dedup(index)
    return DemoReport(
        folder=folder, steps=demo.steps, query=query, neighbors=neighbors, bench=bench, duplicates=duplicates,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _grid(index: Index) -> BenchSpec:
    """A small grid around the default: `mirsearch bench` measures a larger one."""
    probes, rerank = index.settings(SearchSpec(k=10))
    lists = index.manifest.spec.lists or 1
    return BenchSpec(
        queries=500, repeats=2, latency_queries=100,
        probes=tuple(sorted({max(probes // 4, 1), probes, min(probes * 4, lists)})),
        rerank=tuple(sorted({max(min(count, len(index)), 10) for count in (100, rerank, 1000)})),
    )  # fmt: skip


def _made_from(index: Index) -> str:
    """What a result was made from: the index's own checksum, which covers its store's rows, and the removed ones."""
    removed = index.store.manifest.removed
    return index.manifest.digest + (removed.xxh3 if removed else "")


def _same(file: Path, made_from: str) -> dict[str, Any] | None:
    """A result's document, if it is whole and was made from this very index."""
    try:
        if _marker(file).read_text() != made_from:
            return None
        document: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return document


def _mark(file: Path, made_from: str) -> None:
    write_whole(_marker(file), made_from.encode())


def _marker(file: Path) -> Path:
    return file.with_name(f".{file.stem}.made-from")
