"""`ingest`, and `ingest --build`: the store and its indices by one command."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from engine.errors import EngineError, IndexUnusableError
from engine.index import stream
from engine.index.build import build_index
from engine.store import ingest as module
from engine.store.store import Store
from tests.builders import CPU, files_below, write_photo, write_photos

Run = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "in", range(30))


def test_one_command_makes_what_two_make(run: Run, collection: Path, tmp_path: Path) -> None:
    """Over enough photos that there is something to train."""
    features = collection / "sample" / "features"
    result = run("ingest", features, "--store", tmp_path / "one", "--build", "fc7,fc8", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "Index fc7 over 1,200 photos built" in result.stdout and "Index fc8 over 1,200 photos" in result.stdout
    assert f"query {tmp_path / 'one'} --layer fc7 --photo 0" in result.stdout
    one, two = files_below(tmp_path / "one"), files_below(collection / "store")
    kept = {name for name in one if "index.json" not in name and "lock" not in name and name != "manifest.json"}
    assert len(kept) > 12 and {name: one[name] for name in kept} == {name: two.get(name) for name in kept}


def test_the_document_has_the_indices_and_the_stages(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("ingest", photos, "--store", tmp_path / "store", "--device", "cpu", "--json")
    found = json.loads(run(*words, "--build", "fc8").stdout)
    assert (found["photos"], found["stages"], found["bound"]) == (30, {}, None)
    assert [Path(index["path"]).name for index in found["indices"]] == ["fc8"] and found["indices"][0]["rows"] == 30
    again = json.loads(run(*words, "--build", "fc8,fc8").stdout)
    assert (again["known"], [index["reused"] for index in again["indices"]]) == (30, [True])
    assert "indices" not in json.loads(run(*words).stdout)


def test_grown_the_index_covers_the_new_photos(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("--store", tmp_path / "store", "--build", "fc7", "--device", "cpu", "--json")
    run("ingest", photos, *words)
    more = write_photos(tmp_path / "more", range(50, 60))
    found = json.loads(run("ingest", more, *words).stdout)
    assert (found["photos"], found["indices"][0]["rows"]) == (10, 40)


@pytest.mark.parametrize(("given", "wrong"), [("fc6", "'fc6'"), ("fc7,", "''"), ("all", "'all'"), ("fc7,FC8", "'FC8'")])
def test_a_layer_that_no_file_has_is_wrong_usage(
    run: Run, photos: Path, tmp_path: Path, given: str, wrong: str
) -> None:
    result = run("ingest", photos, "--store", tmp_path / "store", "--build", given)
    assert result.exit_code == 2
    assert f"{wrong} is no layer of a .dat file, expected fc7 or fc8" in " ".join(
        result.stderr.replace("│", "").split()
    )
    assert not (tmp_path / "store").exists(), "before anything was read"


def test_refused_files_do_not_keep_the_index_from_being_built(run: Run, photos: Path, tmp_path: Path) -> None:
    write_photo(photos, 31, b"cut short")
    result = run("ingest", photos, "--store", tmp_path / "store", "--build", "fc7", "--device", "cpu", "--json")
    assert result.exit_code == 3 and json.loads(result.stdout)["indices"][0]["rows"] == 30


def test_a_build_that_fails_leaves_the_photos(run: Run, photos: Path, tmp_path: Path, monkeypatch) -> None:
    store, build, built = tmp_path / "store", build_index, []

    def failing(opened, spec, **how):
        if spec.layer == "fc8":
            raise IndexUnusableError("planted.")
        built.append(spec.layer)
        return build(opened, spec, **how)

    monkeypatch.setattr(stream, "build_index", failing)
    result = run("ingest", photos, "--store", store, "--build", "fc7,fc8", "--device", "cpu")
    assert result.exit_code == 1 and built == ["fc7"] and len(Store.open(store)) == 30
    said = "planted. The photos are in {0} and stay there; it goes on with `mirsearch build {0} --layer fc8`."
    assert str(result.exception) == said.format(store) or said.format(store) in " ".join(result.stderr.split())
    monkeypatch.undo()
    assert run("build", store, "--layer", "fc8", "--device", "cpu").exit_code == 0


def test_the_error_names_every_index_that_is_left(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"--layer fc7` and `mirsearch build .*absent --layer fc8`\.$"):
        stream.Following(tmp_path / "absent", ["fc7", "fc8"], CPU).build_next(["fc7", "fc8"])


def test_stages_are_said_with_what_bounds_them(run: Run, photos: Path, tmp_path: Path, monkeypatch) -> None:
    shares = {"read": 0.25, "upload": 0.031, "write": 0.97}
    timed = module.ingest
    monkeypatch.setattr(module, "ingest", lambda *given, **how: replace(timed(*given, **how), stages=shares))
    words = ("ingest", photos, "--store", tmp_path / "store", "--device", "cpu")
    assert "busy read 25%, upload 3%, write 97%: bounded by write" in " ".join(run(*words).stdout.split())
    found = json.loads(run(*words, "--json").stdout)
    assert (found["stages"], found["bound"]) == (shares, "write")


def test_edited_copies_are_added_and_found_in_the_truth(run: Run, tmp_path: Path) -> None:
    result = run("synth", tmp_path / "sample", "--photos", 100, "--seed", 3, "--edits", "--json")
    assert result.exit_code == 0, result.output
    report, files = json.loads(result.stdout), files_below(tmp_path / "sample" / "features")
    edited = sum(
        report["pairs"].get(kind, 0) for kind in ("recompressed", "recoloured", "mirrored", "overlaid", "cropped")
    )
    assert edited > 0 and len(files) == 100 + edited and report["bytes"] == 20_400 * len(files)
    lines = (tmp_path / "sample" / "truth.jsonl").read_text().splitlines()
    assert len(lines) == sum(report["pairs"].values())
    plain = run("synth", tmp_path / "sample", "--photos", 100, "--seed", 3)
    assert plain.exit_code == 1 and "with edited copies, and one without them is asked for" in plain.stderr
    assert files_below(tmp_path / "sample" / "features") == files
    assert run("synth", tmp_path / "sample", "--photos", 100, "--seed", 3, "--edits").exit_code == 0
    assert files_below(tmp_path / "sample" / "features") == files
