"""`remove`, `compact` and `verify --repair` as they are typed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from engine.store.store import Store
from tests.builders import files_below, flip_bit

Run = Callable[..., Result]


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def store(collection: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collection / "store", tmp_path / "store"))


def neighbours(run: Run, store: Path, photo: int) -> list[int]:
    words = ("query", store, "--photo", photo, "-k", 8, "--device", "cpu", "--json")
    return [found["photo_id"] for found in document(run(*words))["queries"][0]["neighbors"]]


def test_a_removed_photo_is_in_no_answer_until_it_is_brought_back(run: Run, store: Path) -> None:
    ids = Store.open(store).photo_ids
    before = neighbours(run, store, int(ids[0]))
    gone = before[2]
    report = document(run("remove", store, "--photo", gone, "--json"))
    assert (report["changed"], report["already"], report["removed"], report["photos"]) == (1, 0, 1, 1199)
    after = neighbours(run, store, int(ids[0]))
    assert (gone in after, len(after), after[:2]) == (False, 8, before[:2])
    assert document(run("verify", store, "--json"))["intact"] is True  # its indices too: they are not stale
    result = run("query", store, "--photo", gone, "--device", "cpu")
    assert (result.exit_code, "was removed" in result.stderr) == (1, True)
    assert document(run("remove", store, "-p", gone, "--undo", "--json"))["removed"] == 0
    assert neighbours(run, store, int(ids[0])) == before


@pytest.mark.parametrize("suffix", ["txt", "npy"])
def test_ids_from_a_file(run: Run, store: Path, tmp_path: Path, suffix: str) -> None:
    ids = Store.open(store).photo_ids[[5, 6, 7]]
    file = tmp_path / f"ids.{suffix}"
    if suffix == "npy":
        np.save(file, ids.astype(np.int32))
    else:
        file.write_text("# gone\n" + "\n".join(map(str, ids)) + "\n\n")
    result = run("remove", store, "--ids-file", file, "--photo", ids[0])
    assert (result.exit_code, "3 photos removed, 1,197 are in" in result.stdout) == (0, True)
    again = run("remove", store, "--ids-file", file)
    assert "0 photos removed" in again.stdout and "3 were removed already" in again.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "which photos?"),
        (("--photo", 10**12), f"photo {10**12}: not in"),
        (("--photo", -5), "photo -5: not in"),
        (("--photo", 10**30), "not in"),
        (("--ids-file", "nowhere.txt"), "nowhere.txt: cannot be read"),
        (("--ids-file", "words.txt"), "words.txt, line 2: 'seven' is not a photo id"),
        (("--ids-file", "empty.txt"), "which photos?"),
        (("--ids-file", "bad.npy"), "bad.npy: is no list of photo ids"),
        (("--ids-file", "floats.npy"), "floats.npy: float64 of shape (2,), expected integers"),
    ],
)
def test_what_is_no_photo_is_one_line_and_changes_nothing(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("5\nseven\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY but not really")
    np.save(tmp_path / "floats.npy", np.array([1.0, 2.0]))
    files = files_below(store)
    result = run("remove", store, *words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert says in result.stderr
    assert files_below(store).keys() - {".lock"} == files.keys() - {".lock"}
    assert all(files_below(store)[name] == digest for name, digest in files.items())


def test_compact_frees_the_rows_and_says_that_indices_are_stale(run: Run, store: Path) -> None:
    assert "nothing to do" in run("compact", store).stdout
    ids = Store.open(store).photo_ids
    words = [word for photo in ids[::4] for word in ("--photo", photo)]
    assert run("remove", store, *words).exit_code == 0
    report = document(run("compact", store, "--json"))
    assert (report["photos"], report["dropped"], report["freed"]) == (900, 300, 300 * (8 + 5096 * 4))
    assert report["stale_indices"]
    result = run("query", store, "--photo", ids[1], "--device", "cpu")
    assert (result.exit_code, "mirsearch build" in result.stderr) == (1, True)
    assert run("verify", store).exit_code == 3  # of the indices alone
    shutil.rmtree(store / "indices")
    assert document(run("verify", store, "--json"))["intact"] is True


def test_verify_repair_mends_from_the_sources(run: Run, store: Path, collection: Path) -> None:
    before = files_below(store)
    ids = Store.open(store).photo_ids
    flip_bit(store / "fc7.npy", (4096 + 300 * 16384) * 8)
    flip_bit(store / "fc8.npy", 50 * 8)
    found = run("verify", store)
    assert (found.exit_code, "--repair" in found.stdout) == (3, True)
    assert f"rows 256 to 511 (photos {ids[256]} to {ids[511]}) does not match its checksum" in found.stderr
    result = run("verify", store, "--repair", "--json", "--device", "cpu")
    assert result.exit_code == 3
    without = json.loads(result.stdout)
    assert [item["file"] for item in without["repaired"]] == ["fc8.npy"]
    assert [item["rows"] for item in without["damage"]] == [[256, 512]]
    assert "is not in the sources" in without["damage"][0]["reason"]
    mended = run("verify", store, "--repair", collection / "sample" / "features", "--device", "cpu")
    assert (mended.exit_code, "intact" in mended.stdout, ": mended" in mended.stdout) == (0, True, True)
    assert {name: digest for name, digest in files_below(store).items() if name != ".lock"} == {
        name: digest for name, digest in before.items() if name != ".lock"
    }


def test_sources_without_repair_and_a_damaged_manifest(run: Run, store: Path, collection: Path) -> None:
    sources = collection / "sample" / "features"
    assert run("verify", store, sources).exit_code == 2
    flip_bit(store / "manifest.json", 999)
    result = run("verify", store, sources, "--repair")
    assert result.exit_code == 3
    assert "restore it from a copy" in result.stderr
    assert run("verify", sources, sources, "--repair").exit_code == 1
    assert run("verify", store, collection / "nowhere", "--repair").exit_code == 3
