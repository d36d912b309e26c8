"""`dedup` as it is typed: its methods and layers, what it says, a kill and what comes after, and odd collections."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.jobs import dedup_ceilings, dedup_exhaustive, dedup_join
from engine.jobs.dedup_files import FOLDER
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store

Run = Callable[..., Any]
ANSWERS = ("groups.jsonl", "pairs.parquet", "keep.txt", "drop.txt")


def test_methods_and_groups_of_the_command_line(run: Run, collection: Path, tmp_path: Path) -> None:
    store, found = collection / "store", {}
    for name, words in {
        "index": (), "exhaustive": ("--exhaustive",), "complete": ("--groups", "complete"),
        "components": ("--groups", "components"),
    }.items():  # fmt: skip
        words = (*words, "--layer", "fc8", "--threshold", "0.96", "--device", "cpu", "--json")
        result = run("dedup", store, "--out", tmp_path / name, *words)
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)
        assert not (tmp_path / name / FOLDER).exists()
    for name in ANSWERS:
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "exhaustive" / name).read_bytes()
    assert found["index"]["pairs"] > 30
    assert len({answer["pairs"] for answer in found.values()}) == 1


def test_the_threshold_is_said_and_may_be_chosen_by_a_rate(run: Run, collection: Path, tmp_path: Path) -> None:
    words = ("dedup", collection / "store", "--layer", "fc7", "--device", "cpu")
    plain = run(*words, "--out", tmp_path / "a")
    assert plain.exit_code == 0 and "threshold" in plain.stdout and "photos/s" in plain.stdout
    loose, strict = (
        json.loads(run(*words, "--false-pairs", rate, "--out", tmp_path / str(rate), "--json").stdout)["threshold"]
        for rate in (0.1, 0.0001)
    )
    assert loose < strict
    both = run(*words, "--false-pairs", 0.1, "--threshold", 0.9, "--out", tmp_path / "b")
    assert both.exit_code == 1 and "choose one" in both.stderr


def test_several_layers_by_the_mean_of_their_scores(run: Run, collection: Path, tmp_path: Path) -> None:
    words = ("dedup", collection / "store", "--layer", "fc7+fc8", "--weights", "3,1", "--threshold", 0.95, "--json")
    results = [
        run(*words, "--device", "cpu", "--out", tmp_path / str(len(more)), *more) for more in ((), ("--exhaustive",))
    ]
    assert [result.exit_code for result in results] == [0, 0]
    store = Store.open(collection / "store")
    table = pq.read_table(tmp_path / "0" / "pairs.parquet")
    for name in ANSWERS:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()
    a, b = (store.rows_of(table[column].to_numpy()) for column in ("photo_id_a", "photo_id_b"))
    expected = np.zeros(len(a))
    for layer, weight in (("fc7", 0.75), ("fc8", 0.25)):
        x, y = (store.layer(layer)[rows].astype(np.float64) for rows in (a, b))
        expected += weight * (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    assert len(a) > 20 and expected.min() >= 0.95 - 1e-6
    np.testing.assert_allclose(table["score"].to_numpy(), expected, atol=1e-6)


def test_new_against_old(run: Run, collection: Path, tmp_path: Path) -> None:
    old = Store.open(collection / "store")
    rows = {name: np.asarray(old.layer(name)[:40]) * np.float32(1.001) for name in ("fc7", "fc8")}
    rows["fc8"][30:] = old.fc8[30:40]
    rows["fc8"][:10] = np.random.default_rng(0).standard_normal((10, 1000))
    make_store(tmp_path / "new", rows, np.arange(40) + 9_000)
    words = ("dedup", old.path, "--layer", "fc8", "--query-store", tmp_path / "new", "--device", "cpu")
    result = run(*words, "--out", tmp_path / "out", "--threshold", 0.99, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["known"], summary["new"], summary["query_photos"]) == (30, 10, 40)
    assert (tmp_path / "out" / "new.txt").read_text().split() == [str(9_000 + i) for i in range(10)]
    assert run(*words, "--out", tmp_path / "said").stdout.count("30 of 40 photos") == 1
    mixed = run(*words[:4], "--out", tmp_path / "out", "--device", "cpu")
    assert mixed.exit_code == 1 and mixed.stderr.count("\n") == 1 and "holds known.txt, new.txt" in mixed.stderr
    assert not (tmp_path / "out" / "groups.jsonl").exists()
    itself = run("dedup", old.path, "--layer", "fc8", "--query-store", old.path, "--out", tmp_path / "x")
    assert itself.exit_code == 1 and "is the store that is searched" in itself.stderr
    assert not (tmp_path / "x").exists()


SMALL = """
from engine.jobs import dedup_ceilings, dedup_exhaustive, dedup_join
dedup_ceilings.BLOCK_ROWS, dedup_join.LEAST_WORK, dedup_exhaustive.LINES = 40, 500, {"numpy": 10}
from engine.cli.main import main
main()
"""


def start(*words: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SMALL, *map(str, words)], stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, cwd=Path(__file__).parents[2])  # fmt: skip


@pytest.mark.parametrize("method", [(), ("--exhaustive",)])
def test_killed_and_started_again_it_gives_the_same_bytes(
    run: Run, tmp_path: Path, method: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as soon as its journal has grown, whatever it was doing then."""
    monkeypatch.setattr(dedup_ceilings, "BLOCK_ROWS", 40)
    monkeypatch.setattr(dedup_join, "LEAST_WORK", 500)
    monkeypatch.setattr(dedup_exhaustive, "LINES", {"numpy": 10})
    store = make_store(tmp_path / "store", {"x": clustered(1200, 16, seed=3).astype(np.float32)})
    build_index(store, IndexSpec(layer="x", lists=8), device=CPU)
    words = ("dedup", store.path, "--threshold", 0.9, "--device", "cpu", *method)
    assert run(*words, "--out", tmp_path / "whole").exit_code == 0
    out, journal = tmp_path / "killed", tmp_path / "killed" / FOLDER / "dedup.journal"
    process = start(*words, "--out", out)
    until = time.monotonic() + 120
    while (
        process.poll() is None
        and time.monotonic() < until
        and not (journal.exists() and journal.stat().st_size > 2_000)
    ):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (out / "report.html").exists()
    assert journal.exists()
    assert run(*words, "--out", out).exit_code == 0
    for name in ANSWERS:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / FOLDER).exists()


def test_a_hundred_thousand_identical_photos(run: Run, tmp_path: Path) -> None:
    rows = clustered(100_600, 8, seed=2).astype(np.float32)
    rows[300:100_300] = rows[300]
    rows[100_400] = rows[300] * np.float32(1.01)
    store = make_store(tmp_path / "store", {"x": rows}, np.arange(len(rows)), block_rows=8192)
    build_index(store, IndexSpec(layer="x"), device=CPU)
    words = ("dedup", store.path, "--threshold", 0.99999, "--device", "cpu", "--json")
    result = run(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    groups = [json.loads(line) for line in (tmp_path / "out" / "groups.jsonl").read_text().splitlines()]
    assert groups[0]["representative"] == 300
    assert set(range(300, 100_300)) | {100_400} <= set(groups[0]["photo_ids"])
    assert json.loads(result.stdout)["pairs"] < 210_000


@pytest.mark.parametrize("rows", [np.ones((1, 16)), np.eye(16), np.zeros((5, 16))], ids=["one", "unlike", "zeros"])
def test_small_and_odd_collections(run: Run, tmp_path: Path, rows: Any) -> None:
    store = make_store(tmp_path / "store", {"x": rows.astype(np.float32)}, np.arange(len(rows)))
    build_index(store, IndexSpec(layer="x"), device=CPU)
    for words in ((), ("--exhaustive",), ("--normalise",), ("--groups", "complete"), ("--groups", "components")):
        out = tmp_path / "-".join(("out", *words))
        result = run("dedup", store.path, "--out", out, "--device", "cpu", "--json", *words)
        assert result.exit_code == 0, result.output
        summary = json.loads(result.stdout)
        expected = (10, 1) if len(rows) == 5 else (0, 0)
        assert (summary["pairs"], summary["groups"]) == expected
        assert summary["threshold"] == 0.95


def test_an_index_of_another_state_is_refused(run: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"x": clustered(50, 16).astype(np.float32)})
    build_index(store, IndexSpec(layer="x"), device=CPU)
    make_store(tmp_path / "other", {"x": clustered(60, 16, seed=9).astype(np.float32)})
    (tmp_path / "other" / "indices").mkdir()
    (store.path / "indices" / "x").rename(tmp_path / "other" / "indices" / "x")
    result = run("dedup", tmp_path / "other", "--out", tmp_path / "out", "--device", "cpu")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1) and "another state" in result.stderr
    assert run("dedup", tmp_path / "other", "--exhaustive", "--out", tmp_path / "out", "--device", "cpu").exit_code == 0


@pytest.mark.parametrize("option", ["groups", "keep"])
def test_words_that_an_option_does_not_know_are_wrong_usage(
    run: Run, collection: Path, tmp_path: Path, option: str
) -> None:
    result = run("dedup", collection / "store", f"--{option}", "chains", "--out", tmp_path / "out")
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and f"--{option}" in said and "'chains': expected one of" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [("--keep", "first"), ("--groups", "medoid"), ("--normalise",), ("--images", "."), ("--decisions", "d.json"),
     ("--truth", "t.jsonl")],
)  # fmt: skip
def test_what_does_nothing_beside_a_query_store_is_wrong_usage(
    run: Run, collection: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    result = run("dedup", collection / "store", "--query-store", tmp_path, "--out", tmp_path / "out", *words)
    said = " ".join(result.stderr.split())
    assert result.exit_code == 2 and words[0] in said and "does nothing beside --query-store" in said
    assert not (tmp_path / "out").exists()


def test_the_truth_is_read_before_the_search(
    run: Run, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*_: Any, **__: Any) -> None:
        raise AssertionError("searched before the truth was read")

    monkeypatch.setattr("engine.jobs.dedup.find_duplicates", searched)
    truth = tmp_path / "truth.jsonl"
    for text, expected in [
        ("", "holds no planted pair"),
        ("{\n", "line 1: expected"),
        ('{"kind": "exact", "photo_id": 777777, "of": 888888}\n', "of its 1 planted pair is of photos of this store"),
    ]:
        truth.write_text(text)
        result = run("dedup", collection / "store", "--truth", truth, "--out", tmp_path / "out", "--device", "cpu")
        assert result.exit_code == 1 and expected in " ".join(result.stderr.split()), result.stderr
        assert not (tmp_path / "out").exists()


def test_photos_in_pairs_alone_are_counted(run: Run, tmp_path: Path) -> None:
    """Of a chain of four, the first three are a group around the second, and the fourth is like the third alone."""
    angles = np.radians([0, 10, 20, 30])
    rows = np.stack([np.cos(angles), np.sin(angles), *np.zeros((6, 4))], axis=1)
    store = make_store(tmp_path / "store", {"x": rows.astype(np.float32)}, np.arange(4))
    words = ("dedup", store.path, "--exhaustive", "--threshold", 0.98, "--device", "cpu")
    summary = json.loads(run(*words, "--out", tmp_path / "out", "--json").stdout)
    assert (summary["pairs"], summary["photos_in_groups"], summary["photos_in_pairs_alone"]) == (3, 3, 1)
    listed = [(tmp_path / "out" / name).read_text().split() for name in ("keep.txt", "drop.txt")]
    assert listed == [["1"], ["0", "2"]]
    said = run(*words, "--out", tmp_path / "out").stdout
    assert "1 photo of pairs, in neither keep.txt nor drop.txt" in " ".join(said.split())
    assert "1 group of duplicates, 3 of 4 photos" in said


def test_one_is_one(run: Run, tmp_path: Path) -> None:
    several = re.compile(r"\b1 photos(?!/s)")  # "1 photos/s" is what a slow machine says
    for name in ("store", "new"):
        make_store(tmp_path / name, {"x": np.ones((1, 8), np.float32)}, np.arange(1))
    words = ("dedup", tmp_path / "store", "--exhaustive", "--device", "cpu", "--out")
    alone = " ".join(run(*words, tmp_path / "a").stdout.split())
    assert "0 groups of duplicates, 0 of 1 photo" in alone and not several.search(alone)
    both = " ".join(run(*words, tmp_path / "b", "--query-store", tmp_path / "new").stdout.split())
    assert "1 of 1 photo of" in both and " is in " in both and not several.search(both)
