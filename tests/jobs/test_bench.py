"""Benchmarks of small stores: figures against hand work and oracles, never against the clock."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from engine.errors import DependencyError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs import bench as module
from engine.jobs.bench import BenchReport, BenchSpec, mark_pareto, run_bench, settings_of, write_bench
from engine.jobs.measure import WARM_UP, BenchPoint, Setting, Spread
from engine.store.store import Store
from engine.store.writer import StoreWriter
from kernels import Device

CPU = Device(kind="cpu", why="asked for")
DIM = 32
QUICK = {"queries": 40, "repeats": 2, "latency_queries": 8}


def make_index(path: Path, n: int, *, lists: int | None = None) -> Index:
    rng = np.random.default_rng(n)
    middles = rng.standard_normal((12, DIM)) * 2
    rows = (middles[rng.integers(12, size=n)] + rng.standard_normal((n, DIM))).astype(np.float32)
    with StoreWriter(path, {"fc8": DIM}) as writer:
        writer.write(writer.reserve(n), np.arange(n) * 2 + 5, {"fc8": rows})
        writer.finish(["test"])
    store = Store.open(path)
    spec = IndexSpec(layer="fc8", lists=lists, pq_m=4, pq_bits=4, reduced=16)
    return Index.open(build_index(store, spec, device=CPU).path, device=CPU, store=store)


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    return make_index(tmp_path_factory.mktemp("bench") / "s", 1200, lists=8)


@pytest.fixture(scope="module")
def report(index) -> BenchReport:
    return run_bench(index, BenchSpec(probes=(1, 8), rerank=(12, 1200), **QUICK))


def point_of(report: BenchReport, probes: int | None, rerank: int | None) -> BenchPoint:
    (point,) = [p for p in report.points if (p.setting.probes, p.setting.rerank) == (probes, rerank)]
    return point


def test_grid_is_what_was_asked_for_and_the_default(index, report):
    own = index.settings(SearchSpec())
    got = {(p.setting.probes, p.setting.rerank) for p in report.points}
    assert got == {(1, 12), (1, 1200), (8, 12), (8, 1200), own, (None, None)}
    assert [(p.setting.probes, p.setting.rerank) for p in report.points if p.setting.default] == [own]
    assert [p.setting.kind for p in report.points] == ["index"] * 5 + ["exact"]


def test_grid_of_its_own_choice(index):
    grid = settings_of(index, BenchSpec())
    assert {s.probes for s in grid} == {2, 4, 8, None}  # the index's own is all 8: twice that is the same
    assert {s.rerank for s in grid} == {100, 300, 1000, None}
    assert sum(s.default for s in grid) == 1
    few = replace(index, manifest=index.manifest.model_copy(update={"probes": 5}))
    assert {s.probes for s in settings_of(few, BenchSpec())} == {1, 2, 5, 8, None}


def test_grid_of_its_own_choice_is_one_that_a_gpu_takes(index):
    manifest = index.manifest.model_copy(
        update={"probes": 4000, "spec": index.manifest.spec.model_copy(update={"lists": 8192})}
    )
    on_cpu, on_gpu = (
        replace(index, manifest=manifest, device=device) for device in (CPU, Device(kind="cuda", gpus=(0,)))
    )
    assert {s.probes for s in settings_of(on_cpu, BenchSpec())} == {1024, 2048, 4096, 8192, None}
    assert {s.probes for s in settings_of(on_gpu, BenchSpec())} == {512, 1024, 2048, None}


def test_numbers_past_what_there_is_are_all_of_it(index):
    grid = settings_of(index, BenchSpec(probes=(8, 50, 1000), rerank=(1200, 5000)))
    assert [(s.probes, s.rerank) for s in grid if s.kind == "index" and not s.default] == [(8, 1200)]


def test_all_probes_and_all_rows_find_everything(report):
    everything = point_of(report, 8, 1200)
    assert everything.recall == {"1": 1.0, "10": 1.0, "100": 1.0}
    assert point_of(report, None, None).recall == {"1": 1.0, "10": 1.0, "100": 1.0}


def test_recall_equals_that_of_a_plain_comparison(index, report):
    rows = index.store.fc8.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    asked = np.random.default_rng(0).choice(1200, 40, replace=False)
    every = unit[asked] @ unit.T
    every[np.arange(40), asked] = -np.inf
    ids = index.store.photo_ids
    for probes, rerank in ((1, 12), (8, 12)):
        for k, spec in (
            (10, SearchSpec(k=10, probes=probes, rerank=rerank)),
            (100, SearchSpec(k=100, probes=probes, rerank=100)),
        ):
            found = index.search(index.store.fc8[asked], spec, exclude=ids[asked]).photo_ids
            true = ids[np.argsort(-every)[:, :k]]
            hits = [len(set(a) & set(b)) / k for a, b in zip(found.tolist(), true.tolist(), strict=True)]
            assert point_of(report, probes, rerank).recall[str(k)] == pytest.approx(np.mean(hits), abs=1e-9)
    assert point_of(report, 1, 12).recall["10"] < 1  # or this test could not fail


def test_recall_at_100_of_the_default_is_what_a_search_for_100_gives(index, report):
    own = point_of(report, *index.settings(SearchSpec()))
    assert own.rerank_at_100 == index.settings(SearchSpec(k=100))[1]
    assert point_of(report, 1, 12).rerank_at_100 == 100
    assert point_of(report, None, None).rerank_at_100 is None


def test_timed_searches_are_those_that_were_promised(index, monkeypatch):
    calls: list[tuple[int, SearchSpec]] = []
    search = Index.search

    def spy(self, queries, spec=None, *, exclude=None, **more):
        assert len(queries) == len(exclude)
        calls.append((len(queries), spec))
        return search(self, queries, spec, exclude=exclude, **more)

    monkeypatch.setattr(Index, "search", spy)
    spec = BenchSpec(probes=(2,), rerank=(50,), queries=30, repeats=3, latency_queries=7)
    run_bench(index, spec)
    grid = [s for s in settings_of(index, spec) if s.kind == "index"]
    assert len(grid) == 2
    untimed, timed = calls[: 2 * len(grid)], calls[2 * len(grid) :]
    assert [(n, s.k) for n, s in untimed] == [(30, 10), (30, 100)] * 2
    assert {s.k for _, s in timed} == {10}
    batches = [(s.probes, s.rerank) for n, s in timed if n == 30]
    assert batches == [(s.probes, s.rerank) for s in grid] * 3  # in turn, not one setting after the other
    assert sum(n == 1 for n, _ in timed) == 3 * len(grid) * (7 + WARM_UP)


def point(recall: float, qps: float, k: int = 10) -> BenchPoint:
    return BenchPoint(
        setting=Setting(kind="index", probes=1, rerank=10), recall={str(k): recall}, rerank_at_100=None, batch=1,
        qps=Spread(median=qps, min=qps, max=qps), latency_ms=None,
    )  # fmt: skip


def test_pareto_front_by_hand():
    places = [(0.9, 100.0), (0.8, 100.0), (0.9, 90.0), (0.95, 50.0), (0.7, 200.0), (0.95, 50.0), (0.94, 49.0)]
    marked = mark_pareto([point(*place) for place in places], 10)
    assert [p.pareto for p in marked] == [True, False, False, True, True, True, False]
    assert [p.pareto for p in mark_pareto([point(0.0, 1.0, 3)], 3)] == [True]


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    if isinstance(value, list):
        return [n for v in value for n in numbers(v)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("rows", [1, 2, 5, 150])
def test_small_stores_without_lists(tmp_path, rows):
    report = run_bench(make_index(tmp_path / "s", rows), BenchSpec(**QUICK))
    (only,) = report.points
    assert only.setting == Setting(kind="exact", default=True) and only.pareto
    assert only.recall == {"1": 1.0, "10": 1.0} | ({"100": 1.0} if rows > 100 else {})
    assert report.queries == min(rows, 40) and only.latency_ms is not None
    paths = write_bench(report, tmp_path / "out")
    document = json.loads(paths["bench.json"].read_bytes())
    assert all(np.isfinite(numbers(document)))


def test_small_store_with_lists(tmp_path):
    report = run_bench(make_index(tmp_path / "s", 60, lists=2), BenchSpec(k=200, **QUICK))
    assert all(p.recall == {"1": 1.0, "10": 1.0, "100": 1.0, "200": 1.0} for p in report.points)
    assert all(p.rerank_at_100 is None for p in report.points)
    json.dumps(report.to_dict(), allow_nan=False)


def test_document_comes_back_from_json(index, report, tmp_path):
    paths = write_bench(report, tmp_path / "a" / "b")
    text = paths["bench.json"].read_text()
    assert json.loads(text) == json.loads(json.dumps(report.to_dict(), allow_nan=False))
    document = json.loads(text, parse_constant=pytest.fail)
    size = sum(file.stat().st_size for file in index.path.iterdir() if file.name != "index.json")
    assert document["index"]["bytes"] == size and document["index"]["bytes_per_photo"] == round(size / 1200, 2)
    seconds = document["index"]["build_seconds"]
    assert seconds["total"] == pytest.approx(sum(v for k, v in seconds.items() if k != "total"), abs=0.01)
    assert {"pca", "train", "add"} < set(seconds)
    assert document["machine"]["device"] == "cpu" and document["machine"]["cores"] >= 1
    assert document["peak_memory_mib"] > 10
    assert {"kind", "probes", "rerank", "default", "recall", "qps", "latency_ms", "pareto"} < set(document["points"][0])
    assert sorted(file.name for file in (tmp_path / "a" / "b").iterdir()) == sorted(paths)


def test_same_seed_same_recall_and_a_kept_truth(index, report):
    again = run_bench(index, BenchSpec(probes=(1, 8), rerank=(12, 1200), **QUICK))
    assert again.truth_cached
    assert [p.recall for p in again.points] == [p.recall for p in report.points]


def test_progress_ends_at_its_total(index):
    calls: dict[str, tuple[int, int]] = {}

    def note(phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        assert 0 <= done <= total
        calls[phase] = (done, total)

    run_bench(index, BenchSpec(probes=(1,), rerank=(10,), queries=5, repeats=2, latency_queries=1), note)
    assert calls["timing"] == (6, 6) and "recall" in calls


def test_json_is_kept_where_there_is_no_matplotlib(report, tmp_path, monkeypatch):
    def refuse(document):
        raise DependencyError("no Matplotlib")

    monkeypatch.setattr(module, "draw_recall_qps", refuse)
    with pytest.raises(DependencyError):
        write_bench(report, tmp_path)
    assert json.loads((tmp_path / "bench.json").read_bytes())["points"]


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"queries": 0}, {"probes": ()}, {"rerank": (5,)}, {"repeats": 0}, {"x": 1}]
)
def test_wrong_specifications_are_refused(wrong):
    with pytest.raises(ValidationError):
        BenchSpec(**wrong)
