"""`tune` and `query --recall` as they are typed."""

import json
from collections.abc import Callable

import pytest
import typer
from typer.testing import Result

from engine.cli.options import parse_size
from engine.index.manifest import read_index_manifest, write_index_manifest
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store
from tests.index.test_tuned import TUNED

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("cli") / "store", {"x": clustered(2000, 32, seed=5)})


def test_tune_builds_measures_and_query_takes_its_recall(run: Run, store: Store) -> None:
    words = ("tune", store.path, "--recall", 0.9, "--queries", 60, "--rounds", 1, "--device", "cpu")
    text = run(*words)
    assert text.exit_code == 0 and "built now" in text.stdout and "--recall 0.9" in text.stdout.split("Next:")[1]
    document = json.loads(run(*words, "--json").stdout)
    assert not document["built"] and document["missed"] is None and document["chosen"] in document["points"]
    query = ("query", store.path, "--photo", 1000, "--device", "cpu", "--json")
    found = json.loads(run(*query, "--recall", 0.9).stdout)
    assert len(found["queries"][0]["neighbors"]) == 10
    missed = run(*query, "--recall", 0.9999)
    assert missed.exit_code == 1 and "0.9999 was not reached: the best is" in missed.stderr
    bench = run("bench", store.path, "--recall", 0.9, "--queries", 20, "--repeats", 1, "--device", "cpu", "--json")
    points = {(point["probes"], point["rerank"]) for point in json.loads(bench.stdout)["points"]}
    settings = Index.open(store.path / "indices" / "x", device=CPU).settings(SearchSpec(recall=0.9))
    assert points == {settings, (None, None)} and settings[1] == document["chosen"]["rerank"]


def test_what_is_not_reached_ends_with_three_and_the_nearest_is_kept(run: Run, store: Store) -> None:
    words = ("tune", store.path, "--latency-ms", 1e-6, "--queries", 30, "--rounds", 1, "--device", "cpu")
    result = run(*words)
    assert result.exit_code == 3 and "was not reached: the least is" in result.stderr
    assert "chosen" in result.stdout


def test_build_says_what_a_tuned_index_does_and_when_that_is_lost(run: Run, store: Store) -> None:
    words = ("build", store.path, "--name", "again", "--layer", "x", "--device", "cpu")
    path, line = store.path / "indices" / "again", "2 probes, 40 candidates re-ranked: tuned 2026-01-01"
    assert line not in run(*words).stdout
    write_index_manifest(path, read_index_manifest(path).model_copy(update={"tuned": TUNED}))
    same = run(*words).stdout
    assert "is up to date" in same and line in same and "tune " not in same.split("Next:")[1]
    assert line in run("info", store.path).stdout
    anew = run(*words, "--force").stdout
    assert line not in anew and "what was measured of the index before is dropped" in anew
    assert f"tune {store.path} --name again" in " ".join(anew.split())


def test_two_goals_are_one_too_many(run: Run, store: Store) -> None:
    result = run("tune", store.path, "--recall", 0.9, "--latency-ms", 2)
    assert result.exit_code == 1 and "choose one" in result.stderr


@pytest.mark.parametrize(
    ("text", "count"), [("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("2000", 2000), ("3k", 3000), ("64KiB", 1 << 16)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text, "memory") == count


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "0", "5 photos", "1e9", "5XB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"expected a size") as error:
        parse_size(text, "memory")
    assert (error.value.exit_code, error.value.param_hint) == (2, "--memory")


def test_estimate_prints_every_group_and_one_document(run: Run, store: Store) -> None:
    text = run("estimate", "--photos", 2000, "--layers", "fc8")
    assert text.exit_code == 0
    assert all(f"{group}, for 2,000 photos" in text.stdout for group in ("Disk", "Memory", "GPU memory", "Time"))
    document = json.loads(run("estimate", store.path, "--json").stdout)
    assert (document["photos"], document["layers"]) == (2000, {"x": 32})
    assert {figure["unit"] for figure in document["figures"]} == {"bytes", "seconds"}
    both = run("estimate", store.path, "--photos", 5)
    assert both.exit_code == 1 and "give one of them" in both.stderr


def test_rebuild_without_a_memory_is_refused(run: Run, store: Store) -> None:
    result = run("tune", store.path, "--rebuild")
    assert result.exit_code == 1 and "--rebuild: for an index that is larger than --memory" in result.stderr


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_a_least_score_is_a_finite_number(run: Run, store: Store, score: str) -> None:
    result = run("query", store.path, "--photo", 1, "--min-score", score, "--device", "cpu")
    assert result.exit_code == 2 and f"--min-score: {score}: expected a finite number" in result.stderr


def test_queries_past_the_photos_and_lists_past_the_rows_are_named(run: Run, store: Store) -> None:
    made = run("build", store.path, "--name", "cut", "--layer", "x", "--lists", 5000, "--device", "cpu")
    assert made.exit_code == 0 and "--lists 5000: 2,000 photos are kept in 50 lists" in made.stderr
    words = ("--name", "cut", "--queries", 3000, "--device", "cpu")
    said = "--queries 3,000: there are 2,000 photos to hold out, and all of them are asked."
    assert said in run("tune", store.path, *words, "--rounds", 1).stderr
    assert said in run("bench", store.path, *words, "--repeats", 1, "--probes", 4, "--rerank", 50).stderr
