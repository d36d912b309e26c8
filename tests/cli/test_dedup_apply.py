"""`dedup --keep --decisions` and `dedup apply` on the command line, one after the other as a person does it."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.store.store import Store
from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def store(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of its own: photos are removed from it."""
    from shutil import copytree

    path: Path = copytree(collection / "store", tmp_path_factory.mktemp("own") / "store")
    return path


def document(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def groups_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "groups.jsonl").read_text().splitlines()]


def test_from_a_search_to_removed_photos_and_back(run: Run, store: Path, collection: Path, tmp_path: Path) -> None:
    images, out, told = collection / "sample" / "images", tmp_path / "out", tmp_path / "decisions.json"
    found = document(run("dedup", store, "--out", out, "--images", images, "--keep", "largest", "--json"))
    assert found["keep"] == "largest" and found["groups"] > 10
    groups = groups_of(out)
    exact = next(group for group in groups if group["kind"] == "exact")
    near = next(group for group in groups if group["kind"] == "copy" and len(group["photo_ids"]) == 2)
    decisions = [
        {"photo_ids": exact["photo_ids"], "verdict": "all-different"},
        {"photo_ids": near["photo_ids"][::-1], "verdict": "different"},
    ]
    told.write_text(json.dumps({"version": 1, "decisions": decisions}))

    shown = run("dedup", "apply", out)
    assert shown.exit_code == 0 and "may go" in shown.stdout and "--remove" in shown.stdout
    assert Store.open(store).photos == 1200
    going = document(run("dedup", "apply", out, "--decisions", told, "--json"))
    assert going["removed"] == 0 and going["settled"] == 2 and going["by_kind"] == len(groups) - 2
    assert document(run("dedup", "apply", out, "--kinds", "none", "--json"))["drop"] == 0

    far = tmp_path / "far.json"
    far.write_text(json.dumps({"version": 1, "decisions": [{"photo_ids": [1, 77_777], "verdict": "same"}]}))
    line = f"1 photo decided on is not in {store}: 77777."
    for words in (("apply", out), (store, "--layer", "fc8", "--out", tmp_path / "said")):
        result = run("dedup", *words, "--decisions", far)
        assert result.exit_code == 0 and line in " ".join(result.stderr.split())
    assert document(run("dedup", "apply", out, "--decisions", far, "--json"))["doubts"] == [line]

    done = run("dedup", "apply", out, "--decisions", told, "--remove")
    assert done.exit_code == 0 and f"{going['drop']:,} photos removed" in done.stdout
    assert Store.open(store).photos == 1200 - going["drop"]
    assert run("remove", store, "--undo", "--ids-file", out / "removed.txt").exit_code == 0
    assert Store.open(store).photos == 1200

    again = document(run("dedup", store, "--out", tmp_path / "again", "--decisions", told, "--json"))
    assert again["decisions"] == 2 and again["pairs_judged_different"] >= 2
    for judged in (exact["photo_ids"], near["photo_ids"]):
        assert not [group for group in groups_of(tmp_path / "again") if len({*group["photo_ids"]} & {*judged}) > 1]


def test_photos_are_removed_before_anybody_can_stop_reading(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("dedup", store, "--out", out).exit_code == 0
    going = document(run("dedup", "apply", out, "--json"))["drop"]
    before = Store.open(store).photos

    def closed(*_: object) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr("engine.cli.dedup_apply.say_facts", closed)
        assert run("dedup", "apply", out, "--remove").exit_code
    assert 0 < going == before - Store.open(store).photos
    assert run("remove", store, "--undo", "--ids-file", out / "removed.txt").exit_code == 0


def test_a_report_whose_store_is_elsewhere_asks_for_it(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.chdir(store.parent)
    assert run("dedup", store.name, "--out", out).exit_code == 0
    monkeypatch.chdir(tmp_path)
    result = run("dedup", "apply", out)
    assert result.exit_code == 1
    assert "is about store, which is not there. Name it with --store." in " ".join(result.stderr.split())
    assert run("dedup", "apply", out, "--store", store).exit_code == 0


def test_what_cannot_be_is_said_in_one_line(run: Run, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, expected in [
        (("--keep", "largest"), "--images DIR"),
        (("--keep", "oldest"), "has none"),
        (("--decisions", tmp_path / "absent.json"), "no such file"),
    ]:
        result = run("dedup", store, "--out", out, *words)
        assert result.exit_code == 1 and expected in result.stderr and result.stderr.count("\n") == 1, words
    assert run("dedup", "apply", tmp_path / "absent").exit_code == 1
    assert run("dedup", "apply", "").exit_code == 1
    assert run("dedup", "apply", out, "--kinds", "alike").exit_code == 2
    assert run("dedup", "apply").exit_code == 2
    assert "error" in json.loads(run("dedup", "apply", tmp_path / "absent", "--json").stdout)


def test_help_tells_of_both(run: Run) -> None:
    assert "dedup apply" in " ".join(run("dedup", "--help").stdout.split())
    assert "--remove" in run("dedup", "apply", "--help").stdout and "STORE" not in run("dedup", "apply", "-h").stdout
