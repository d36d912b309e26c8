"""`build --update`: appended photos join their index, and what to do next is said wherever an index lags behind."""

import json
import shutil

import pytest

from engine.index.manifest import read_index_manifest, write_index_manifest
from tests.index.test_tuned import TUNED


@pytest.fixture
def store(collection, tmp_path, run):
    """A store of 1,200 photos with its indices, to which 60 photos were added since."""
    shutil.copytree(collection / "store", tmp_path / "store")
    assert run("synth", tmp_path / "more", "--photos", 1260, "--seed", 6).exit_code == 0
    result = run("ingest", tmp_path / "more" / "features", "--store", tmp_path / "store", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    return tmp_path / "store"


def test_appended_photos_join_all_indices(store, run):
    result = run("query", store, "--photo", "1", "--device", "cpu")
    assert result.exit_code == 1
    assert f"mirsearch build {store} --layer fc7 --update" in " ".join(result.stderr.split())
    stale = json.loads(run("verify", store, "--json").stdout)["stale_indices"]
    assert f"mirsearch build {store} --layer fc7 --update" in json.dumps(stale)
    indices = json.loads(run("build", store, "--update", "--device", "cpu", "--json").stdout)["indices"]
    assert [index["added"] for index in indices] == [60, 60]
    assert [index["rows"] for index in indices] == [1260, 1260]
    assert all(index["drift"]["rows"] == 60 for index in indices)
    last = json.loads(run("info", store, "--json").stdout)
    assert last["photos"] == 1260
    assert run("verify", store).exit_code == 0
    again = run("build", store, "--update", "--layer", "fc7", "--device", "cpu")
    assert "nothing was appended since" in " ".join(again.stdout.split())


def test_an_updated_index_is_up_to_date_though_its_defaults_would_be_others(store, run):
    built = read_index_manifest(store / "indices" / "fc7").spec
    assert run("build", store, "--update", "--device", "cpu").exit_code == 0
    again = run("build", store, "--device", "cpu")
    assert again.exit_code == 0 and again.stdout.count("is up to date (--force builds it anew)") == 2
    assert read_index_manifest(store / "indices" / "fc7").spec == built
    words = ("build", store, "--layer", "fc7", "--device", "cpu", "--json")
    for option, reused in ((("--metric", "cosine"), True), (("--lists", built.lists), True), (("--seed", 4), False),
                           ((), True), (("--force",), False)):  # fmt: skip
        assert json.loads(run(*words, *option).stdout)["indices"][0]["reused"] is reused, option
    assert read_index_manifest(store / "indices" / "fc7").spec.training_rows == 1260 != built.training_rows


def test_what_becomes_of_a_tuned_index_is_said(store, run):
    for name, rows in (("fc7", None), ("fc8", 600)):
        path = store / "indices" / name
        tuned = TUNED.model_copy(update={"rows": rows})
        write_index_manifest(path, read_index_manifest(path).model_copy(update={"tuned": tuned}))
    text = run("build", store, "--update", "--device", "cpu").stdout
    fc7, fc8 = text.split("Index fc8 ")
    assert "what was measured on 1,200 rows is kept" in fc7 and "Next" not in fc7
    assert "what was measured is dropped" in fc8 and f"tune {store} --layer fc8" in " ".join(fc8.split())
    shown = json.loads(run("info", store, "--json").stdout)["indices"]
    assert shown["fc8"]["tuned"] is None
    assert (shown["fc7"]["tuned"]["probes"], shown["fc7"]["tuned"]["rows"]) == (2, 1200)


@pytest.mark.parametrize("option", [("--metric", "cosine"), ("--lists", 8), ("--pq-m", 8), ("--refine", "none"),
                                    ("--rows-per-shard", 2000), ("--force",)])  # fmt: skip
def test_what_an_index_is_stays(collection, run, option):
    result = run("build", collection / "store", "--update", *option)
    assert result.exit_code == 1
    assert f"{option[0]}: --update keeps the index as it was built" in " ".join(result.stderr.split())


def test_only_indices_that_are_there(store, run):
    shutil.rmtree(store / "indices" / "fc8")
    assert "no such index" in run("build", store, "--update", "--layer", "fc8", "--device", "cpu").stderr
    assert "no such index" in run("build", store, "--update", "--name", "other", "--device", "cpu").stderr
    result = run("build", store, "--update", "--device", "cpu", "--json")
    assert [index["path"] for index in json.loads(result.stdout)["indices"]] == [str(store / "indices" / "fc7")]
    assert not (store / "indices" / "fc8").exists()
