"""Labels of others, in every form that is read, and what is wrong with files that are not."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.jobs.relevance import RelevanceSpec, open_relevance
from engine.jobs.relevance_labels import read_labels
from tests.builders import make_store

LABELS = {1000: ["sky", "sea"], 1007: ["sky"], 1014: ["sea"], 1021: ["sea", "sky", "boat"]}


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", {"x": np.eye(6, dtype=np.float32)})


def write(path: Path, kind: str) -> Path:
    if kind == "folder":
        path.mkdir()
        (path / "README.txt").write_text("Not ids.\n")
        for label in ("sky", "sea", "boat"):
            ids = [photo for photo, labels in LABELS.items() if label in labels]
            (path / f"{label}.txt").write_text("".join(f"{photo}\n" for photo in [*ids, 999_999]))
        return path
    file = path.with_suffix(f".{kind}")
    if kind == "csv":
        lines = ["photo_id,labels", *(f'{photo},"{",".join([""])}",{",".join(ls)}' for photo, ls in LABELS.items())]
        file.write_text("\n".join([*lines, "999999,sky", ""]))
    elif kind == "tsv":
        lines = [f"{photo}\t{label}" for photo, labels in LABELS.items() for label in labels]
        file.write_text("\n".join([*lines, "999999\tsky"]))
    elif kind == "jsonl":
        entries = [{"photo_id": photo, "labels": labels} for photo, labels in LABELS.items()]
        file.write_text("\n".join(map(json.dumps, [*entries, {"photo_id": 999_999, "label": "sky"}])) + "\n\n")
    else:
        pq.write_table(pa.table({"photo_id": [*LABELS, 999_999], "labels": [*LABELS.values(), ["sky"]]}), file)
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
def test_labels_are_read_from(kind, store, tmp_path):
    path = write(tmp_path / "labels", kind)
    labels = read_labels(path, store)
    assert labels.elsewhere == 1
    found = {
        int(store.photo_ids[row]): {labels.terms.names[i] for i in labels.terms.counts[[row]].indices}
        for row in range(6)
    }
    assert found == {int(photo): set(LABELS.get(int(photo), [])) for photo in store.photo_ids}
    relevance = open_relevance(store, RelevanceSpec(source="labels", labels=path))
    assert relevance.grades(np.array([3]), np.array([[0, 1, 2, 4, -1]])).tolist() == [[2, 1, 1, 0, 0]]
    assert np.flatnonzero(relevance.allowed).tolist() == [0, 1, 2, 3]
    everyone = open_relevance(store, RelevanceSpec(source="labels", labels=path, candidates="all"))
    assert everyone.allowed.all()


def test_one_label_a_row_of_parquet(store, tmp_path):
    pq.write_table(pa.table({"photo_id": [1000, 1000, 1007], "label": ["a", None, "b"]}), tmp_path / "labels.parquet")
    assert read_labels(tmp_path / "labels.parquet", store).terms.names.tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1000,sky\nx,sky\n", "a.csv, line 2: 'x' is not a photo id"),
        ("a.csv", "", "a.csv: holds no labels"),
        ("a.csv", "photo_id,label\n", "holds no labels"),
        ("a.tsv", "5\tsky\n", "none of its 1 photos is in"),
        ("a.jsonl", "{", "a.jsonl, line 1: is no JSON"),
        ("a.jsonl", '{"photo_id": 1000}', "expected {"),
        ("a.jsonl", '{"photo_id": true, "label": "a"}', "'True' is not a photo id"),
        ("a.parquet", "PAR1", "cannot be read"),
        ("a.xls", "", "expected .csv, .tsv, .jsonl, .parquet or a folder"),
        ("a.csv", b"1000,\xff\n", "cannot be read as labels"),
    ],
)
def test_a_file_that_is_none_is_named(name, content, message, store, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        read_labels(tmp_path / name, store)
    assert message in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_a_path_without_labels_is_named(store, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "nowhere.csv", store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.txt files"):
        read_labels(tmp_path / "empty", store)
    pq.write_table(pa.table({"photo": [1]}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match="has photo, expected photo_id and labels"):
        read_labels(tmp_path / "b.parquet", store)
