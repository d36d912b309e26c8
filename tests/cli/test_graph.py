"""`graph` through the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from engine.cli.console import TimeLeft, _span

Run = Callable[..., Result]


def test_graph_says_what_query_says(run: Run, collection: Path, tmp_path: Path) -> None:
    words = ("graph", collection / "store", "-k", 4, "--device", "cpu", "--out", tmp_path / "graph")
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["layer"], document["metric"], document["device"]) == ("fc7", "cosine", "cpu")
    assert (document["photos"], document["k"], document["absent"], document["reused"]) == (1200, 4, 0, False)
    neighbors, scores = (np.load(tmp_path / "graph" / f"{name}.npy") for name in ("neighbors", "scores"))
    photos = np.load(tmp_path / "graph" / "photo_ids.npy")
    asked = run("query", collection / "store", "--photo", photos[7], "-k", 4, "--device", "cpu", "--json")
    found = json.loads(asked.stdout)["queries"][0]["neighbors"]
    assert [one["photo_id"] for one in found] == neighbors[7].tolist()
    assert np.array([one["score"] for one in found], np.float32).tolist() == scores[7].tolist()
    again = run(*words)
    assert again.exit_code == 0 and "there already" in again.stdout and "1,200 photos" in again.stdout
    other = run(*words, "--exact")
    assert other.exit_code == 1 and other.stderr.count("\n") == 1 and "another exact" in other.stderr


def test_graph_needs_k_of_at_least_one(run: Run, collection: Path, tmp_path: Path) -> None:
    result = run("graph", collection / "store", "-k", 0, "--out", tmp_path / "graph")
    assert result.exit_code == 2 and "Invalid value for -k" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_log_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = iter([100.0, 130.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))

    def reporter(phase: str, done: int, total: int, *, unit: str = "", detail: str = "") -> None:
        said.append(detail)

    left = TimeLeft(reporter)
    left("graph", 0, 4000, unit="photos")
    left("graph", 1000, 4000, unit="photos")
    assert said == ["", "90 s left"]
    assert [_span(600), _span(4 * 3600 + 61)] == ["10 min", "4 h 01 min"]
