"""Tuning small indices: what is chosen against what was measured, never against the clock."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.errors import IndexUnusableError, InputError, StoreError
from engine.index.build import build_index
from engine.index.manifest import FORMAT_VERSION, read_index_manifest, write_index_manifest
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.truth import TruthSpec, ground_truth, recall_of_answers
from engine.jobs.tune import TuneReport, TuneSpec, _choose, keep, run_tune, smaller_specs
from engine.jobs.tune_walk import Walk, least_recall
from engine.progress import silent
from engine.store.store import Store
from tests.builders import CPU, clustered, files_below, make_store
from tests.index.test_tuned import TUNED, point


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    # Many clusters beside few lists: a single list does not find all.
    return make_store(tmp_path_factory.mktemp("tune") / "store", {"x": clustered(3000, 48, seed=5, clusters=400)})


@pytest.fixture(scope="module")
def report(store: Store) -> TuneReport:
    build_index(store, IndexSpec(layer="x", lists=32, reduced=32), device=CPU)
    return run_tune(store, "x", TuneSpec(recall=0.9, queries=100, rounds=1), device=CPU)


def test_the_walk_goes_from_little_to_all(report: TuneReport) -> None:
    recalls = [point.recall for point in report.tuned.points]
    assert min(recalls) < 0.9 < 0.99 < max(recalls)
    assert not report.built and report.missed is None
    assert len({(point.probes, point.rerank) for point in report.tuned.points}) == len(recalls) <= 60


def test_the_chosen_point_is_the_fastest_that_surely_reached_the_recall(report: TuneReport) -> None:
    good = [point for point in report.tuned.points if point.p99_ms and point.least >= 0.9]
    assert report.tuned.default == max(good, key=lambda point: point.qps)


def test_a_slow_spell_does_not_end_the_walk(store: Store, report: TuneReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Walk, "_exact_seconds", lambda _: 1e-6)
    index = Index.open(report.path, device=CPU, store=store)
    truth = ground_truth(store, TruthSpec(layer="x", metric="cosine", queries=100, k=10), device=CPU)
    monkeypatch.setattr(Walk, "_seconds", lambda *_: 1.5)
    walk = Walk(index, truth, silent)
    walk.up(goal=0.9)
    assert max(trial.least for trial in walk.trials.values()) >= 0.9
    walk = Walk(index, truth, silent)
    walk.up()
    assert len(walk.trials) == 1
    seconds = iter([1000.0])
    monkeypatch.setattr(Walk, "_seconds", lambda *_: next(seconds, 0.001))
    walk = Walk(index, truth, silent)
    walk.up()
    assert max(trial.recall for trial in walk.trials.values()) > 0.99


def test_recall_of_a_point_is_what_a_search_by_it_finds(report: TuneReport, store: Store) -> None:
    index = Index.open(report.path, device=CPU, store=store)
    truth = ground_truth(store, TruthSpec(layer="x", metric="cosine", queries=100, k=10), device=CPU)
    found = index.search(truth.queries, SearchSpec(recall=0.9), exclude=truth.query_ids)
    recall = recall_of_answers(store, truth, found.photo_ids, 10, device=CPU)
    assert recall == pytest.approx(index.manifest.tuned.choose(0.9).recall, abs=1e-5)  # type: ignore[union-attr]


def test_the_front_holds_what_no_other_timed_point_beats(report: TuneReport) -> None:
    timed = [point for point in report.tuned.points if point.p99_ms]
    for one in timed:
        beaten = any(
            other.recall >= one.recall and other.qps >= one.qps and (other.recall, other.qps) != (one.recall, one.qps)
            for other in timed
        )
        assert one.pareto != beaten
    assert not any(point.pareto for point in report.tuned.points if not point.p99_ms)


def test_what_was_found_is_kept_in_the_index(report: TuneReport) -> None:
    manifest = read_index_manifest(report.path)
    assert manifest == report.manifest
    assert (manifest.tuned, manifest.version) == (report.tuned, FORMAT_VERSION)


def test_sampling_error_of_a_recall() -> None:
    shares = np.array([0.8, 1.0] * 50)
    assert least_recall(shares, 10) == pytest.approx(0.9 - 1.645 * 0.1 * np.sqrt(100 / 99) / 10)
    assert least_recall(np.ones(100), 10) == pytest.approx(1 - 3 / 1000)
    assert least_recall(np.array([1.0]), 10) == 0
    assert least_recall(np.zeros(4), 10) == 0


POINTS = (point(1, 20, 0.8, 900, p99=1), point(4, 30, 0.95, 700, p99=2), point(8, 90, 0.99, 100, p99=9))


def test_a_latency_gets_the_best_recall_below_it_or_the_quickest() -> None:
    assert _choose(POINTS, TuneSpec(latency_ms=5)) == (POINTS[1], None)
    best, missed = _choose(POINTS, TuneSpec(latency_ms=0.5))
    assert best is POINTS[0]
    assert missed is not None and "the least is 1 ms (99th percentile) with --probes 1 --rerank 20" in missed


def test_a_recall_that_is_not_reached_gets_the_best() -> None:
    best, missed = _choose(POINTS, TuneSpec(recall=0.995))
    assert best is POINTS[2]
    assert missed is not None and missed.startswith("--recall 0.995 was not reached: the best is 0.9900")


def test_memory_asks_before_it_builds_a_smaller_index_and_names_the_least(store: Store, report: TuneReport) -> None:
    with pytest.raises(InputError, match=r"--memory is 260\.0 KB\. An index that fits: refine .*\. With --rebuild"):
        run_tune(store, "x", TuneSpec(memory=260_000), device=CPU)
    assert read_index_manifest(report.path).spec.refine == "uint4"
    with pytest.raises(InputError, match=r"--memory 2\.0 KB cannot be reached: the least is refine none with"):
        run_tune(store, "x", TuneSpec(memory=2_000, rebuild=True), device=CPU)


def test_memory_builds_an_index_that_fits(store: Store) -> None:
    spec = TuneSpec(memory=260_000, queries=50, rounds=1, recall=0.5)
    report = run_tune(store, "x", spec, name="small", device=CPU)
    assert report.built and report.path.name == "small" and report.size <= 260_000
    assert report.manifest.spec.refine == "none"
    again = run_tune(store, "x", spec, name="small", device=CPU)
    assert not again.built


class _Stop(BaseException):
    pass


def test_a_smaller_index_takes_its_place_only_when_it_was_measured(store: Store) -> None:
    path = build_index(store, IndexSpec(layer="x"), device=CPU, name="large").path
    write_index_manifest(path, read_index_manifest(path).model_copy(update={"tuned": TUNED}))
    before = files_below(path)
    spec = TuneSpec(memory=260_000, queries=50, rounds=1, recall=0.5, rebuild=True)

    def stop(phase: str, done: int, total: int, *, unit: str = "", detail: str = "") -> None:
        if phase == "timing":
            assert (path.parent / "large.part" / "index.json").exists()
            raise _Stop

    with pytest.raises(_Stop):
        run_tune(store, "x", spec, name="large", device=CPU, progress=stop)
    assert files_below(path) == before
    report = run_tune(store, "x", spec, name="large", device=CPU)
    assert report.built and report.path == path and report.size <= 260_000
    assert read_index_manifest(path) == report.manifest and report.manifest.tuned == report.tuned != TUNED
    assert Index.open(path, device=CPU, store=store).manifest == report.manifest
    assert not [left for left in path.parent.iterdir() if left.name.startswith(("large.", ".large.part"))]


def test_a_damaged_row_is_named_by_its_photo(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(store.path, path)
    build_index(Store.open(path), IndexSpec(layer="x"), device=CPU, name="other")
    damaged = np.load(path / "x.npy", mmap_mode="r+")
    damaged[1500, 3] = np.inf
    damaged.flush()
    with pytest.raises(StoreError, match=rf"photo {store.photo_ids[1500]} \(row 1,500 of x\) holds NaN.*verify"):
        run_tune(Store.open(path), "x", TuneSpec(queries=3000, rounds=1), name="other", device=CPU)


def test_smaller_specs_get_smaller(store: Store) -> None:
    from engine.jobs.tune import _size

    sizes = [_size(store, spec, CPU) for spec in smaller_specs(IndexSpec(layer="x", refine="float16"), 48)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 2 * sizes[-1]


def test_an_index_that_was_built_again_meanwhile_is_left_alone(store: Store, report: TuneReport) -> None:
    index = Index.open(report.path, device=CPU, store=store)
    other = index.manifest.model_copy(update={"store_digest": "0" * 16})
    write_index_manifest(report.path, other)
    try:
        with pytest.raises(IndexUnusableError, match="was built again while it was tuned"):
            keep(index, TUNED)
    finally:
        write_index_manifest(report.path, index.manifest)


def test_an_index_without_lists_has_nothing_to_tune(tmp_path_factory: pytest.TempPathFactory) -> None:
    tiny = make_store(tmp_path_factory.mktemp("tiny") / "store", {"x": clustered(50, 8)})
    with pytest.raises(InputError, match="nothing to tune"):
        run_tune(tiny, "x", TuneSpec(), device=CPU)
