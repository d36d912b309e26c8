"""`verify` and `info` as they are typed: what a stranger reads when a store is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.store.change import remove
from engine.store.ingest import ingest
from engine.store.store import Store
from tests.builders import CPU, clustered, files_below, flip_bit, make_store, write_photo, write_photos

Run = Callable[..., Result]


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 photos and two files that were set aside, in `in`; their store, an index and two removed photos."""
    folder = tmp_path_factory.mktemp("care")
    write_photos(folder / "in", range(10, 310))
    for photo in (1000, 1001):
        write_photo(folder / "in", photo, b"damaged")
    ingest([folder / "in"], folder / "store", device=CPU)
    build_index(Store.open(folder / "store"), IndexSpec(layer="fc7", refine="none"), device=CPU)
    remove(folder / "store", [13, 14])
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


def without_lock(store: Path) -> dict[str, str]:
    return {name: digest for name, digest in files_below(store).items() if name != ".lock"}


def test_rows_are_named_and_mended_from_the_sources(run: Run, store: Path, made: Path) -> None:
    before, ids = without_lock(store), Store.open(store).photo_ids
    flip_bit(store / "fc7.npy", (4096 + 280 * 16384) * 8)
    flip_bit(store / "fc8.npy", 50 * 8)
    found = run("verify", store)
    assert found.exit_code == 3
    assert f"verify {store} SOURCE... --repair" in found.stdout
    where = f"{store / 'fc7.npy'}: rows 256 to 299 (photos {ids[256]} to {ids[299]})"
    assert f"{where}: do not match their checksum\n" in found.stderr
    result = run("verify", store, "--repair", "--json", "--device", "cpu")
    assert result.exit_code == 3
    without = json.loads(result.stdout)
    assert [item["file"] for item in without["repaired"]] == ["fc8.npy"]
    assert [item["rows"] for item in without["damage"]] == [[256, 300]]
    assert "no SOURCE was named" in without["damage"][0]["reason"]
    mended = run("verify", store, "--repair", made / "in", "--device", "cpu")
    assert (mended.exit_code, f"{where}: mended\n" in mended.stdout) == (0, True)
    assert without_lock(store) == before


FILES = ["manifest.json", "photo_ids.npy", "fc7.npy", "removed.npy", "quarantine.jsonl", "indices/fc7/index.json"]


@pytest.mark.parametrize("words", [(), ("--repair",)])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut", "absent"])
def test_every_line_has_the_path_once_and_ends_in_one_way(
    run: Run, store: Path, name: str, change: str, words: tuple[str, ...]
) -> None:
    data = (store / name).read_bytes()
    (store / name).unlink()
    if change == "cut":
        (store / name).write_bytes(data[:-5])
    result = run("verify", store, *words, "--device", "cpu")
    lines = [line for line in result.output.splitlines() if str(store / name) in line]
    assert lines
    for line in lines:
        assert line.count(str(store / name)) == 1
        assert not any(wrong in line for wrong in ("..", ".:", ": :", "  ", "None", " 1 files", "(s)", "(es)")), line
    if name == "manifest.json":
        assert "Next:" not in result.stdout  # no command helps


def test_sources_without_repair_and_a_damaged_manifest(run: Run, store: Path, made: Path) -> None:
    assert run("verify", store, made / "in").exit_code == 2
    assert run("verify", store, "--forget-removed").exit_code == 2
    flip_bit(store / "manifest.json", 999)
    for words in ([], [made / "in", "--repair"], [made / "nowhere", "--repair"]):
        result = run("verify", store, *words)
        assert result.exit_code == 3
        assert f"{store / 'manifest.json'}: " in result.stderr and "restore it from a copy" in result.stderr
        assert "indices" not in result.stderr and "--repair" not in result.stdout
    (damage,) = json.loads(run("verify", store, "--json").stdout)["damage"]
    assert damage["path"] == str(store / "manifest.json")
    assert run("verify", made / "in", made / "in", "--repair").exit_code == 1


def test_what_was_lost_is_said_and_the_store_is_intact(run: Run, store: Path) -> None:
    (store / "quarantine.jsonl").unlink()
    (store / "removed.npy").unlink()
    assert "SOURCE" not in run("verify", store).stdout
    result = run("verify", store, "--repair", "--device", "cpu")
    assert (result.exit_code, result.stdout.count("mended")) == (3, 0)
    assert "begun anew with 0 lines that could be read; it had 2" in result.stderr
    assert "marked 2 photos as removed" in result.stderr and "--forget-removed" in result.stderr
    found = document(run("verify", store, "--repair", "--forget-removed", "--device", "cpu", "--json"))
    assert (found["intact"], list(found["lost"]), found["repaired"]) == (True, ["removed.npy"], [])
    assert Store.open(store).photos == 300


def test_an_index_of_an_earlier_state_is_no_damage(run: Run, store: Path, tmp_path: Path) -> None:
    ingest([write_photos(tmp_path / "more", [500])], store, device=CPU)
    result = run("verify", store)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"{store}: intact")
    assert result.stderr.startswith("Index fc7 is of an earlier state of the store: it had 300 rows then and has 301")
    assert result.stderr.rstrip().endswith(f"mirsearch build {store} --layer fc7 --update")
    found = document(run("verify", store, "--json"))
    assert (found["intact"], list(found["stale_indices"])) == (True, ["fc7"])


def test_what_was_imported_is_mended_from_no_sources(run: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"fc7": clustered(20, 8)}).path
    flip_bit(store / "fc7.npy", 4100 * 8)
    assert f"verify {store} --repair\n" in run("verify", store).stdout
    result = run("verify", store, "--repair", "--device", "cpu")
    assert "did not come from .dat files. Restore them from a copy, or import again\n" in result.stderr


def test_a_damaged_index_names_the_build(run: Run, store: Path) -> None:
    flip_bit(store / "indices" / "fc7" / "index.json", 999)
    result = run("verify", store)
    assert result.exit_code == 3
    assert f"build {store} --layer fc7" in result.stdout and "--repair" not in result.stdout


def test_info_counts_one_file_as_one(run: Run, tmp_path: Path) -> None:
    write_photo(write_photos(tmp_path / "in", range(3)), 9, b"damaged")
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert "set aside   1 file (1 × 7 bytes, expected 20,400)" in run("info", tmp_path / "store").stdout
