"""The benchmark of duplicates on a small collection: every part, peers that are there, the page, and going on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import dedup, dedup_figures, dedup_parts, dedup_peer, dedup_report
from benchmarks.dedup_figures import compared, fastest_peer, from_threshold, peer_points, scale_points
from benchmarks.dedup_parts import Setting
from engine.errors import EngineError
from engine.jobs.copy_metrics import FoundPairs
from engine.store import dat
from engine.store.synth_edits import EDIT_KINDS

PHOTOS = 1000


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """All parts, in their order, over fc8, which is learned sooner, and the exact peer."""
    work = tmp_path_factory.mktemp("dedup")
    setting = Setting(work=work, layer="fc8", photos=PHOTOS, python=sys.executable, largest=0, repeats=1)
    setting.out.mkdir()
    names = [*dedup_parts.PARTS, "peer-faiss-flat-all", "peer-faiss-flat-500"]
    for name in names:
        dedup.Job(name=name, setting=setting).run()
    return setting, {name: dedup.Job(name=name, setting=setting).result() for name in names}


def test_the_page_has_what_the_parts_found(done, tmp_path):
    setting, results = done
    assert results["photos"]["photos"] == PHOTOS + 60 and not (setting.work / f"sample-edits-{PHOTOS}").exists()
    document, text = dedup_report.report(setting, results, {"peer-sklearn-500": "not installed"})
    exact = document["truth"]["index"]["kinds"]["exact"]
    assert exact["planted"] == exact["found"] == 24
    assert document["exhaustive"]["index"]["recall"] >= 0.999 and document["exhaustive"]["floor"]["pairs"] > 24
    assert abs(document["exhaustive"]["floor"]["micro_ap"]) <= 0.002
    assert document["truth"]["floor"]["micro_ap"] > document["truth"]["index"]["micro_ap"] > 0
    assert all(document["kinds"][kind]["pairs"] == 12 for kind in EDIT_KINDS)
    assert "| exact duplicates found | 100 % | 24 of 24 | yes |" in text and "not installed" in text
    assert str(setting.work) not in text and str(setting.work) not in json.dumps(document)
    dedup_report.draw(document, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_peer_that_compares_all_finds_what_the_exhaustive_join_does(done):
    setting, results = done
    for name, rows in (("all", PHOTOS + 60), ("500", 500)):
        found = results[f"peer-faiss-flat-{name}"]
        assert found["photos"] == rows and found["settings"][0]["recall"] == 1
        assert found["settings"][0]["pairs"] == found["exact_pairs"] > 0
    assert not list(setting.out.glob("peer-*.npz"))


def test_a_part_that_is_there_is_not_measured_again(done, monkeypatch, capsys):
    setting, _ = done
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("measured again"))
    assert dedup.run_all([dedup.Job(name=name, setting=setting) for name in dedup_parts.PARTS]) == {}
    assert "floor: there already" in capsys.readouterr().out


def test_a_part_that_fails_is_named_and_ends_no_other(done, monkeypatch):
    setting, _ = done
    monkeypatch.setattr(sys, "argv", ["dedup", "--photos", str(PHOTOS), "--layer", "fc8", "--dir", str(setting.work)])
    jobs = [dedup.Job(name=name, setting=setting) for name in ("peer-nobody-500", "index")]
    missing = dedup.run_all(jobs)
    assert list(missing) == ["peer-nobody-500"] and "KeyError: 'nobody'" in missing["peer-nobody-500"]


def test_a_peer_that_is_not_installed_is_said_so(done, monkeypatch):
    setting, _ = done
    monkeypatch.setitem(dedup_peer.PACKAGES, "sklearn", "no-such-package")
    monkeypatch.setattr(sys, "argv", ["dedup_peer", "sklearn", str(setting.rows), "10", "0.9", "out.npz"])
    assert dedup_peer.main() == dedup_peer.ABSENT
    finished = type("Finished", (), {"returncode": dedup_peer.ABSENT, "stderr": ""})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(EngineError, match="sklearn is not installed for python"):
        dedup_parts.peer(setting, "sklearn", 10)


def test_the_whole_command_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(dat, "PHOTOS_PER_FOLDER", 500)
    monkeypatch.setattr(dedup_parts, "PHOTOS_PER_FOLDER", 500)
    setting = Setting(work=tmp_path, layer="fc8", photos=500, python=sys.executable, largest=1000, repeats=1)
    found = dedup_parts.scale(setting, 500)
    assert found["photos"] == 500 and found["build"]["seconds"] > 0 and len(found["runs"]) == 1
    run = found["runs"][0]
    assert run["pairs"] > 0 and run["groups"] > 0 and run["seconds"] > 0 and run["own_bytes"] > 10 << 20
    assert (tmp_path / "sample-1000").is_dir() and not (tmp_path / "duplicates-500").exists()


def part(photos: int, *settings: tuple[str, float, float, float]) -> dict[str, Any]:
    return {"version": "1", "photos": photos, "own_bytes": 1, "settings": [
        {"name": name, "build": build, "search": search, "recall": recall, "pairs": 1}
        for name, build, search, recall in settings
    ]}  # fmt: skip


def test_the_fastest_peer_has_enough_recall_and_the_most_rows_it_had():
    document = {"photos": 100, "parts": {
        "photos": {"photos": 100},
        "peer-slow-10": part(10, ("all", 0, 1, 1.0)),
        "peer-slow-20": part(20, ("all", 0, 5, 1.0)),
        "peer-quick-all": part(100, ("1 probed", 30, 1, 0.9), ("2 probed", 30, 2, 0.99), ("4 probed", 30, 4, 1.0)),
    }}  # fmt: skip
    seconds = {(point["peer"], point["photos"], point["setting"]): point["seconds"] for point in peer_points(document)}
    assert seconds["slow", 10, "all"] == pytest.approx(100) and seconds["slow", 20, "all"] == pytest.approx(125)
    assert seconds["quick", 100, "4 probed"] == 34
    fastest, slow = fastest_peer(document), fastest_peer(document, "slow")
    assert fastest and fastest["name"] == "quick, 2 probed" and slow and slow["seconds"] == pytest.approx(125)
    assert fastest_peer({"photos": 100, "parts": {}}) is None


def test_seconds_of_ours_are_medians_with_the_index():
    document = {"parts": {"build": {"seconds": 10.0}, "index": {"seconds": [3.0, 1.0, 2.0]}}}
    assert dedup_figures.ours_seconds(document) == 12 and dedup_figures.search_seconds(document) == 2
    assert dedup_figures.ours_seconds({"parts": {"index": {"seconds": [1.0]}}}) is None


def test_cost_of_a_photo():
    runs = [{"seconds": seconds, "own_bytes": seconds, "pairs": 5, "groups": 2} for seconds in (3, 1, 2)]
    parts = {name: {"photos": photos, "build": {"seconds": 1.0}, "runs": runs}
             for name, photos in (("scale-1000", 1000), ("scale-200", 200))}  # fmt: skip
    points = scale_points({"parts": parts})
    assert [(p["photos"], p["each"], p["own_bytes"]) for p in points] == [(200, 0.01, 3), (1000, 0.002, 3)]


def test_pairs_beside_those_of_the_exhaustive_join():
    def found(*pairs: tuple[int, int, float]) -> FoundPairs:
        there = np.array(pairs)
        return FoundPairs(pairs=there[:, :2].astype(int), scores=there[:, 2], copies=np.empty((0, 2), np.int64))

    exact = from_threshold(found((1, 2, 0.9), (3, 4, 0.8), (5, 6, 0.7)), 0.8)
    assert compared(found((1, 2, 0.9), (7, 8, 0.9)), exact) == {"pairs": 2, "found": 1, "more": 1, "recall": 0.5}


def test_a_peer_s_pairs_are_unordered_and_of_different_rows():
    pairs = np.array([(2, 1), (1, 2), (3, 3), (4, -1), (0, 5)])
    assert dedup_peer.ordered(pairs).tolist() == [[0, 5], [1, 2]]
    limits, near = np.array([0, 2, 2, 3], np.uint64), np.array([0, 2, 1])
    assert dedup_peer.of_ranges(limits, near).tolist() == [[0, 0], [0, 2], [2, 1]]


def test_parts_are_made_in_the_order_in_which_they_need_each_other(tmp_path: Path):
    options = dedup.options_of(["--photos", "15000", "--few", "10000", "20000", "--scale", "20000", "10000"])
    names = dedup.names_of(options)
    assert names[0] == "photos" and names.index("exhaustive") < names.index("peer-imagededup-10000")
    assert "peer-imagededup-20000" not in names and names[-2:] == ["scale-10000", "scale-20000"]
    with pytest.raises(SystemExit):
        dedup.options_of(["--scale", "12345"])
