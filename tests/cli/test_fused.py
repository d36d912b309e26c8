"""`query --layer fc7+fc8` through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from engine import Store

Run = Callable[..., Result]


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def cosines(store: Store, layer: str, row: int) -> np.ndarray:
    rows = np.asarray(store.layer(layer), np.float64)
    return np.asarray(rows @ rows[row] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[row]))


def test_both_layers_answer_one_query(run: Run, collection: Path, tmp_path: Path) -> None:
    store = Store.open(collection / "store")
    words = ("query", collection / "store", "--layer", "fc7+fc8", "--weights", "0.7,0.3", "--device", "cpu", "--json")
    found = document(run(*words, "--photo", 7, "-k", 5))
    assert (found["layer"], found["weights"], found["metric"]) == ("fc7+fc8", [0.7, 0.3], "cosine")
    scores = 0.7 * cosines(store, "fc7", 7) + 0.3 * cosines(store, "fc8", 7)
    for query in (found["queries"][0], document(run(*words, "--photo", 7, "-k", 5, "--exact"))["queries"][0]):
        assert query["photo_id"] == 7 and 7 not in [one["photo_id"] for one in query["neighbors"]]
        for one in query["neighbors"]:
            assert one["score"] == pytest.approx(scores[store.rows_of(one["photo_id"])[0]], abs=1e-6)
    assert [one["score"] for one in query["neighbors"]] == pytest.approx(np.sort(scores)[::-1][1:6].tolist(), abs=1e-6)
    # A `.dat` file holds both layers, and a list of ids names photos as --photo does.
    file = next((collection / "sample" / "features").rglob("7.dat"))
    by_file = document(run(*words, "--dat", file, "-k", 6))["queries"][0]
    assert by_file["source"] == str(file)
    assert by_file["neighbors"][0]["photo_id"] == 7 and by_file["neighbors"][1:] == found["queries"][0]["neighbors"]
    (tmp_path / "ids.txt").write_text("7\n8\n")
    listed = document(run(*words, "--ids-file", tmp_path / "ids.txt", "-k", 5))["queries"]
    assert listed[0] == found["queries"][0] and listed[1]["photo_id"] == 8
    out = document(run(*words, "--photo", 7, "-k", 5, "--out", tmp_path / "found.parquet"))
    assert out["weights"] == [0.7, 0.3] and out["rows"] == 5
    assert pq.read_schema(tmp_path / "found.parquet").metadata[b"weights"] == b"[0.7, 0.3]"


def test_filter_and_least_score_hold_for_both(run: Run, collection: Path, tmp_path: Path) -> None:
    store = Store.open(collection / "store")
    np.save(tmp_path / "some.npy", store.photo_ids[::3])
    scores = (cosines(store, "fc7", 7) + cosines(store, "fc8", 7)) / 2
    scores[7], allowed = -1, np.arange(len(store)) % 3 == 0
    least = float(np.sort(scores[allowed])[-40]) - 1e-6
    words = ("query", collection / "store", "--layer", "fc7+fc8", "--photo", 7, "--device", "cpu", "--json")
    for how in ([], ["--exact"]):
        found = document(run(*words, "--within", tmp_path / "some.npy", "--min-score", least, *how))
        ids = [one["photo_id"] for one in found["queries"][0]["neighbors"]]
        assert sorted(ids) == store.photo_ids[allowed & (scores >= least)].tolist() and len(ids) == 40
        assert found["weights"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--layer", "fc7+fc8", "--weights", "1"], "expected 2, one for each of fc7+fc8"),
        (["--layer", "fc7+fc8", "--name", "fc7"], "--name fc7"),
        (["--layer", "fc7+fc8", "--vectors", "some.npy"], "--vectors some.npy"),
        (["--layer", "fc7+fc7"], "each once"),
        (["--layer", "fc7+fc9"], "layer 'fc9'"),
        (["--layer", "fc7", "--weights", "0.7,0.3"], "--weights 0.7,0.3"),
    ],
)
def test_what_cannot_be_is_one_line(run: Run, collection: Path, words: list[str], says: str) -> None:
    result = run("query", collection / "store", "--photo", 7, "--device", "cpu", *words)
    assert result.exit_code == 1 and says in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.output
