"""What the fuzz run has found, each as small as it can be."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine.errors import InputError, StoreError
from engine.store import commit
from engine.store.formats.by_suffix import open_vectors
from engine.store.store import Store
from engine.store.verify import verify_store
from tests.fuzz import changes, small_store
from tests.fuzz.small_store import found_damage, put, signed
from tests.store.archives.builders import END, PADDING, header, read_tar, record


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "store"
    return path, small_store.make(path)


def forged(path: Path, **changed: object) -> None:
    document = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_bytes(signed(document | changed))


def test_queries_of_a_layer_that_is_not_there(store):
    path, _ = store
    sets = json.loads((path / "manifest.json").read_bytes())["query_sets"]
    forged(path, query_sets={"c": sets["a"]})  # was a KeyError
    for look in (Store.open, verify_store):
        with pytest.raises(StoreError, match="queries of layer c, which is not there"):
            look(path)


def test_a_file_that_is_named_for_two_things(store):
    path, _ = store
    sets = json.loads((path / "manifest.json").read_bytes())["query_sets"]
    forged(path, query_sets={"a": sets["a"] | {"queries": "distances-a.npy"}})  # `verify` looked at one of the two
    for look in (Store.open, verify_store):
        with pytest.raises(StoreError, match=r"distances-a\.npy is named for two things"):
            look(path)


@pytest.mark.parametrize("rows", [[1, 5], [-1, 4], [4, 1], [1, 1], [3, -(1 << 63) + 1, 0]])
def test_removed_rows_that_are_none(store, rows):
    path, files = store
    data = np.array(rows, "<i8").tobytes()
    text = str(files["removed.npy"][:4096], "latin-1").replace("(2,)", f"({len(rows)},)")
    (path / "removed.npy").write_bytes(text.encode("latin-1") + data)
    forged(path, removed={"count": len(rows), "xxh3": small_store.xxh3(data)})
    with pytest.raises(StoreError, match=r"removed.npy: expected ascending row numbers below 5"):
        Store.open(path)  # was an IndexError, or the wrong rows


@pytest.mark.parametrize("lost", ["a.npy", "b.npy"])
def test_a_row_file_is_gone_when_a_change_is_to_be_finished(store, lost):
    path, _ = store
    with changes.dying():
        changes.grow(path)
    (path / lost).unlink()
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"{lost}.*No such file") as error:
            Store.open(path)  # was a FileNotFoundError
        assert "\n" not in str(error.value)


def test_a_part_of_a_change_is_cut_short(store):
    path, _ = store
    with changes.dying():
        changes.rewrite(path)
    part = path / "a.change.part"
    part.write_bytes(part.read_bytes()[:-1])
    assert len(Store.open(path)) == small_store.ROWS  # was a ValueError of mmap
    assert found_damage(path) == ["a.npy"]


ROWS = {"do": "rows", "file": "a.npy", "rows_part": "new.part", "at_part": "at.part", "dim": 3, "header_bytes": 4096}
HEADER = {"do": "header", "file": "a.npy", "rows": 5, "dim": 3, "header_bytes": 4096}


@pytest.mark.parametrize("step", [HEADER | {"rows": 1 << 70}, HEADER | {"dim": 1 << 31}, ROWS | {"dim": 1 << 40}])
def test_a_commit_record_that_asks_for_more_than_there_can_be(store, step):
    path, files = store
    (path / "at.part").write_bytes(bytes(8))
    (path / "new.part").write_bytes(bytes(12))
    (path / commit.NAME).write_bytes(signed({"format": "mirsearch-commit", "version": 1, "steps": [step]}))
    with pytest.raises(StoreError, match=r"commit.json: holds no list of steps"):
        Store.open(path)  # was an OverflowError or a MemoryError
    assert (path / "a.npy").read_bytes() == files["a.npy"]


@pytest.mark.parametrize("line", [
    5, {"key": []}, {"key": "block 5"}, {"key": "block 5", "start": 0, "rows": 1 << 60, "sums": {}, "refused": []},
    {"key": "block 5", "start": 0, "rows": 1 << 60, "sums": dict.fromkeys(("a", "b", "photo_ids"), ""), "refused": []},
    {"key": "block 5", "start": [], "rows": 1, "sums": {"rows": ""}, "refused": []}, {"mark": {}},
])  # fmt: skip
def test_a_line_of_a_journal_that_means_nothing(tmp_path, line):
    path = tmp_path / "store"
    changes.ingest(path, append=False)
    finished = small_store.files_of(path)
    put(path, {})
    changes.ingest(path, append=False, blocks=2, finish=False)
    text = json.dumps(line).encode()
    with (path / "ingest.journal").open("ab") as journal:
        journal.write(small_store.xxh3(text).encode() + b" " + text + b"\n")
    changes.ingest(path, append=False)  # was a KeyError, TypeError or MemoryError
    assert small_store.files_of(path) == finished
    assert found_damage(path) == []


def test_a_folder_of_old_tars_is_no_record(tmp_path):
    data = header(b"7.dat/") + record(7) + PADDING + header(b"8.dat") + record(8) + PADDING + END
    read = read_tar(tmp_path, data)
    assert [photo_id for photo_id, *_ in read.members] == [8]
    assert [(photo_id, reason) for _, photo_id, reason in read.refused] == [(7, "not a regular file but a folder")]


def test_a_reason_is_one_line_whatever_the_name(tmp_path):
    read = read_tar(tmp_path, header(b"a\nb\x1b[2J/7.dat") + record(7) + PADDING + b"x" * 512)
    assert read.refused[-1][2].endswith(r"reading stopped after 'a\nb\x1b[2J/7.dat'")


def test_true_is_no_length_of_an_array(tmp_path):
    words = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 12), }".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0\x76\0" + words + bytes(48))
    with pytest.raises(InputError, match=r"shape \(True, 12\), expected one of numbers"):
        open_vectors(tmp_path / "a.npy")  # was taken for 1, where NumPy refuses it
