"""`remove` and `compact` as they are typed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from engine.store.store import Store
from tests.builders import files_below

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
        (("--ids-file", "empty.txt"), "empty.txt: holds no photo id"),
        (("--ids-file", "empty.txt", "--photo", 5), "empty.txt: holds no photo id"),
        (("--ids-file", "none.npy"), "none.npy: holds no photo id"),
        (("--ids-file", "large.npy"), "large.npy: 18446744073709551615 is not a photo id"),
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
    np.save(tmp_path / "none.npy", np.zeros(0, np.int64))
    np.save(tmp_path / "large.npy", np.array([1, 2**64 - 1], np.uint64))
    files = files_below(store)
    result = run("remove", store, *words)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert says in result.stderr
    assert files_below(store).keys() - {".lock"} == files.keys() - {".lock"}
    assert all(files_below(store)[name] == digest for name, digest in files.items())


def test_ids_as_an_editor_on_windows_saves_them(run: Run, store: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf5\r\n6\r\n")
    assert document(run("remove", store, "--ids-file", tmp_path / "ids.txt", "--json"))["changed"] == 2


def test_one_photo_is_no_plural(run: Run, store: Path) -> None:
    removed = run("remove", store, "--photo", 5).stdout
    assert removed.startswith(f"1 photo removed, 1,199 are in {store}\n") and "marked  1 photo in all" in removed
    assert "unchanged  1 was removed already" in run("remove", store, "--photo", 5).stdout
    back = run("remove", store, "--photo", 5, "--undo").stdout
    assert back == f"1 photo brought back, 1,200 are in {store}\n"
    assert "unchanged  1 was not removed" in run("remove", store, "--photo", 5, "--undo").stdout
    run("remove", store, "--photo", 5)
    assert "dropped  1 removed photo\n" in run("compact", store).stdout


@pytest.mark.parametrize("options", [[], ["--replace"]])
def test_ingest_says_which_photos_stay_removed(run: Run, store: Path, collection: Path, options: list[str]) -> None:
    run("remove", store, "--photo", 5, "--photo", 6)
    words = ("ingest", collection / "sample" / "features", "--store", store, "--device", "cpu", *options)
    said = run(*words).stdout
    assert said.startswith(f"0 new photos in {store}, 1,198 in all (and 2 removed)\n")
    assert "1,198 files of photos that the store has already" in said
    assert f"2 files of removed photos; `mirsearch remove {store} --undo`" in said
    report = document(run(*words, "--json"))
    assert (report["total"], report["removed"], report["known"], report["passed_over"]) == (1198, 2, 1198, 2)


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
    found = document(run("verify", store, "--json"))
    assert (found["intact"], sorted(found["stale_indices"])) == (True, ["fc7", "fc8"])
    shutil.rmtree(store / "indices")
    assert document(run("verify", store, "--json"))["intact"] is True
