"""No verb writes its answers into the folder of a store."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.builders import files_below

Run = Callable[..., Result]

WORDS = [
    ("graph", "STORE", "-k", 3, "--device", "cpu", "--out", "STORE/fc7.npy"),
    ("graph", "STORE", "-k", 3, "--device", "cpu", "--out", "STORE/indices/fc7/axes.npy"),
    ("graph", "STORE", "-k", 3, "--device", "cpu", "--out", "STORE/truth"),
    ("query", "STORE", "--photo", 1, "--device", "cpu", "--out", "STORE/indices/x.parquet"),
    ("dedup", "STORE", "--device", "cpu", "--out", "STORE"),
    ("dedup", "STORE", "--device", "cpu", "--query-store", "OTHER", "--out", "OTHER"),
    ("bench", "STORE", "--queries", 5, "--device", "cpu", "--out", "STORE"),
    ("bench", "STORE", "--queries", 5, "--device", "cpu", "--out", "STORE/indices/fc7"),
    ("evaluate", "STORE", "--layer", "fc7", "--relevance", "tags", "--out", "STORE/new"),
    ("annotate", "STORE", "--photo", 1, "--device", "cpu", "--out", "STORE/annotations.parquet"),
    ("annotations", "stats", "STORE", "--out", "STORE"),
    ("export", "STORE", "--format", "dat", "--out", "STORE/dat"),
]


@pytest.fixture(scope="module")
def stores(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    for name in ("store", "other"):
        shutil.copytree(collection / "store", folder / name)
    return folder


@pytest.mark.parametrize("words", WORDS, ids=lambda words: f"{words[0]} {words[-1]}")
def test_the_files_of_a_store_are_never_written_over(run: Run, stores: Path, words: tuple[object, ...]) -> None:
    before = files_below(stores), sorted(stores.rglob("*"))
    places = {"STORE": str(stores / "store"), "OTHER": str(stores / "other")}
    asked = [places.get(str(word), str(word).replace("STORE/", f"{stores / 'store'}/")) for word in words]
    result = run(*asked)
    assert result.exit_code == 1, result.output
    assert "lies in the folder of the store itself. Choose another one." in " ".join(result.stderr.split())
    assert (files_below(stores), sorted(stores.rglob("*"))) == before
