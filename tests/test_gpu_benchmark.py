"""The benchmark for GPU hosts, as far as it goes without one: every part on the CPU, the page, and going on."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu, gpu_measure, gpu_parts, gpu_peers, gpu_report
from benchmarks.gpu_measure import Point, Setting, best_of, figure, recall
from engine.errors import EngineError, InputError
from engine.index.exact import exact_search
from kernels import Device

CPU = Device(kind="cpu")
PHOTOS, QUERIES = 1200, 40


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All parts, in their order, over fc8, which is learned sooner."""
    pytest.importorskip("numba")
    patch = pytest.MonkeyPatch()
    patch.setattr(gpu_parts, "GRID", ((4, 20), (30, 200)))
    patch.setattr(gpu_parts, "SINGLE", 20)
    patch.setattr(gpu_parts, "REPEATS", 1)
    patch.setattr(gpu_measure, "REPEATS", 2)
    patch.setattr(gpu_peers, "PROBES", (30,))
    work = tmp_path_factory.mktemp("gpu")
    setting = Setting(work=work, device=CPU, photos=PHOTOS, queries=QUERIES, layer="fc8", seconds=1.0)
    for part in gpu.ALL:
        gpu.Job(part=part, setting=setting, out=work).run()
    patch.undo()
    found = {part: json.loads((work / f"{part}-cpu.json").read_text())["figures"] for part in gpu.ALL}
    return setting, found


def test_every_part_gives_its_figures(done):
    _, found = done
    for part in ("ingest", "build", "exact", "join"):
        assert found[part]["seconds"]["least"] > 0 and found[part]["seconds"]["runs"] >= 1
    assert found["ingest"]["said"]["photos"] == PHOTOS and 0 < found["ingest"]["system_share"]["median"] < 1
    assert found["parity"]["agrees"] and found["parity"]["checks"] > 30
    assert found["decode"]["kernel_share"]["median"] > 0
    assert found["exact"]["recall"] == 1
    assert found["search"]["recall"] >= 0.95 and found["search"]["queries_per_second"]["runs"] == 2
    assert 0 < found["latency"]["p50"]["median"] <= found["latency"]["p99"]["median"]
    assert sum(phase != "whole" for phase in found["build"]["phases"]) >= 4


def test_the_join_finds_the_pairs_that_products_find(done):
    setting, found = done
    rows = np.asarray(setting.store().layer("fc8"), np.float64)
    unit = rows / np.linalg.norm(rows, axis=1)[:, None]
    sure = np.triu(unit @ unit.T, 1) >= gpu_parts.THRESHOLD + 1e-5
    near = np.triu(unit @ unit.T, 1) >= gpu_parts.THRESHOLD - 1e-3
    assert sure.sum() <= found["join"]["pairs"] <= near.sum() and sure.sum() > 0


def test_the_truth_is_that_of_exact_search(done):
    setting, _ = done
    store, queries = setting.store(), gpu_measure.held_out(setting)
    true = exact_search(store, "fc8", queries, 10, metric="cosine", kernels=setting.kernels).scores
    np.testing.assert_allclose(np.load(gpu_measure.truth_path(setting)), true[:, -1], rtol=0, atol=1e-6)


def test_peers_answer_and_absent_ones_are_named(done):
    _, found = done
    peer = found["peers"]["peers"]["FAISS CPU IVF-PQ, our re-ranking"]
    assert peer["recall"] >= 0.95 and peer["queries_per_second"]["median"] > 0
    assert {line.split(":")[0] for line in found["peers"]["absent"]} >= {"CAGRA (FAISS)", "cuVS IVF-PQ, its refine"}


def test_answers_that_name_a_photo_twice_count_once(done):
    setting, _ = done
    data = gpu_peers._data(setting)
    twice = np.zeros((QUERIES, 10), np.int64)
    assert np.isfinite(gpu_peers._scores(data, twice)).sum() == QUERIES


def test_the_page_says_what_was_reached():
    figures = {"seconds": figure([9.0, 8.0, 30.0], "s")}
    asked = {"photos": 1_000_000, "queries": 10, "device": "cuda:0"}
    results = {"build-cuda": figures, "build-cpu": {"seconds": figure([70.0], "s")},
               "exact-cuda": {"seconds": figure([1.0], "s"), "recall": 1.0}}  # fmt: skip
    document = {"asked": asked, "machine": {"gpu": "one"}, "missing": {"join-cuda": "not begun"}, "results": results}
    page = gpu_report.report(document, kind="cuda")
    assert "| build from the store, s | ≤ 10 | 9 (8 – 30; 3) | yes | 70 (70 – 70; 1) |" in page
    assert "| exact, rows on the device, s | ≤ 0.4 | 1 (1 – 1; 1) | no |" in page
    assert "| exact, recall | ≥ 1 | 1 | yes |" in page and "- join-cuda: not begun" in page
    assert "were not compared" in page
    results["parity-cuda"] = {"agrees": True, "checks": 70, "differing": []}
    assert "70 comparisons with the reference, all agree" in gpu_report.report(document, kind="cuda")
    results["parity-cuda"] = {"agrees": False, "checks": 70, "differing": ["rerank: off by 1"]}
    assert "**Answers differ from the reference's**: rerank: off by 1." in gpu_report.report(document, kind="cuda")
    document["asked"] = asked | {"photos": 5000}
    assert "yes" not in gpu_report.report(document, kind="cuda")


def test_the_quickest_of_those_that_are_good_enough():
    points = [Point("a", 0.94, 1.0), Point("b", 0.96, 3.0), Point("c", 0.95, 2.0)]
    assert best_of(points) == points[2] and best_of(points[:1]) is None
    scores = np.array([[0.9, 0.5], [0.9, 0.8]], np.float32)
    assert recall(scores, np.array([0.5, 0.85], np.float32)) == 0.75


def test_what_is_there_is_not_measured_again_and_what_takes_too_long_not_begun(tmp_path, capsys):
    words = ["--out", str(tmp_path), "--device", "cpu", "--photos", "1000", "--queries", "10", "--parts"]
    assert gpu.main([*words, "decode", "--minutes", "0"]) == 1
    assert "decode-cpu: not begun: takes about 10 s, 0 s were left" in capsys.readouterr().out
    assert gpu.main([*words, "decode"]) == 0
    assert gpu.main([*words, "decode", "--minutes", "0"]) == 0
    assert "decode-cpu: there already" in capsys.readouterr().out
    assert gpu.main([*words, "build"]) == 1  # there is no store: one line, and the run goes on
    assert "build-cpu: failed (1): gpu: " in (out := capsys.readouterr().out) and "Add ingest to --parts" in out
    assert gpu.main([*words, "nonsense"]) == 1 and "--parts nonsense" in capsys.readouterr().err


def test_a_part_that_takes_too_long_ends_with_all_that_it_has_started(tmp_path, monkeypatch):
    program = tmp_path / "sleeper"
    program.write_text("#!/bin/sh\nsleep 600 & echo $! > $(dirname $0)/child\nwait\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    setting = Setting(work=tmp_path, device=CPU, photos=10, queries=5)
    options = argparse.Namespace(out=tmp_path)
    assert gpu._in_process(gpu.Job(part="decode", setting=setting, out=tmp_path), options, 1.0).startswith("stopped")
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split(") ")[1][0] == "Z"


def test_the_page_is_there_after_every_part(tmp_path, monkeypatch):
    seen = []

    def ends(job, options, seconds):
        seen.append((tmp_path / "gpu.md").exists())
        return "failed (1): planned"

    monkeypatch.setattr(gpu, "_in_process", ends)
    words = ["--out", str(tmp_path), "--device", "cpu", "--photos", "1000", "--queries", "10"]
    assert gpu.main([*words, "--parts", "decode,build"]) == 1
    assert seen == [False, True] and "- build-cpu: failed (1): planned" in (tmp_path / "gpu.md").read_text()
    assert "- decode-cpu: failed (1): planned" in (tmp_path / "gpu.md").read_text()


def test_another_number_of_photos_is_measured_again(tmp_path):
    setting = Setting(work=tmp_path, device=CPU, photos=10, queries=5)
    job = gpu.Job(part="decode", setting=setting, out=tmp_path)
    (tmp_path / "decode-cpu.json").write_text(json.dumps({"asked": job.asked, "figures": {}}))
    assert job.result() is not None
    (tmp_path / "decode-cpu.json").write_text(json.dumps({"asked": job.asked | {"photos": 11}, "figures": {}}))
    assert job.result() is None
    (tmp_path / "build-cpu.json").write_text(json.dumps({"asked": job.asked, "figures": {}}))
    assert gpu.Job(part="build", setting=setting, out=tmp_path).result() is None  # its index is not there
    with pytest.raises(InputError, match="Add build"):
        setting.index_path()


def test_without_a_gpu_it_is_one_clear_line(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=gpu_parts.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.startswith("gpu: --device cuda: ") and done.stderr.count("\n") == 1


def test_the_time_for_everything_on_a_gpu_with_16_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    setting = Setting(work=tmp_path, device=Device(kind="cuda", gpus=(0,)), photos=1_000_000)
    assert sum(gpu_parts.expected_seconds(part, setting) for part in gpu.ALL) < 600
    with pytest.raises(EngineError):
        setting.store()
