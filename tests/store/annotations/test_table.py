"""The file of annotations: what is written comes back, by columns and by rows; what does not fit is refused."""

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError, StoreError
from engine.store.annotations import table as tables
from engine.store.annotations.schema import FILE, FORMAT_VERSION, schema
from engine.store.annotations.table import Annotations, Facts, TableWriter, write_table
from engine.store.store import Store
from tests.builders import flip_bit, make_store

IDS = [3, 1, 4, 15, 9]


def a_store(path: Path, ids: Sequence[int] = IDS) -> Store:
    make_store(path, {"fc7": np.ones((len(ids), 8), np.float32)}, ids)
    return Store.open(path)


def a_table(ids: Sequence[int]) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"photo_id": int(i), "annotated": True, "title": f"photo {i}", "tags": ["a", f"t{i}"], "iso": 100,
         "exif": [("Make", "Canon"), ("Model", f"X{i}")], "albums": [{"id": "1", "title": "z"}],
         "taken": dt.datetime(2009, 1, 2, 3, 4, 5)}
        for i in ids
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schema())


def test_what_is_written_comes_back(tmp_path):
    store = a_store(tmp_path / "s")
    assert not Annotations.exists(store)
    write_table(store, a_table(IDS), without_features=2, quarantined=1)
    found = Annotations.open(store)
    assert Annotations.exists(store)
    assert found.table().cast(schema()).equals(a_table(IDS))
    assert found.columns == schema().names
    facts = found.facts
    assert (facts.rows, facts.annotated, facts.without_features, facts.quarantined) == (5, 5, 2, 1)
    assert found.table(["tags", "photo_id"]).column_names == ["tags", "photo_id"]


def test_rows_come_in_the_order_asked_for_and_from_several_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_ROWS", 2)
    store = a_store(tmp_path / "s")
    write_table(store, a_table(IDS))
    assert pq.ParquetFile(tmp_path / "s" / FILE).metadata.num_row_groups == 3
    rows = Annotations.open(store).of_rows(np.array([4, 0, 3, 4]), ["photo_id", "exif", "taken", "albums"])
    assert [row["photo_id"] for row in rows] == [9, 3, 15, 9]
    assert rows[1] == {
        "photo_id": 3, "exif": {"Make": "Canon", "Model": "X3"}, "taken": dt.datetime(2009, 1, 2, 3, 4, 5),
        "albums": [{"id": "1", "title": "z"}],
    }  # fmt: skip
    assert Annotations.open(store).of_rows(np.array([], np.int64)) == []
    batches = list(Annotations.open(store).batches(["photo_id"], rows=3))
    assert [i for batch in batches for i in batch.column(0).to_pylist()] == IDS


def test_bad_questions_are_refused(tmp_path):
    store = a_store(tmp_path / "s")
    with pytest.raises(InputError, match=r"no annotations. `mirsearch annotations ingest SOURCE"):
        Annotations.open(store)
    write_table(store, a_table(IDS))
    found = Annotations.open(store)
    with pytest.raises(InputError, match=r"column 'tag': the annotations have photo_id, annotated, title"):
        found.table(["tag"])
    with pytest.raises(InputError, match="rows 5 to 5, there are 5"):
        found.of_rows(np.array([5]))


def test_a_table_of_other_photos_is_refused(tmp_path):
    store = a_store(tmp_path / "s")
    with pytest.raises(InputError, match="photo ids of the table are not those of the store"):
        write_table(store, a_table(sorted(IDS)))
    assert [path.name for path in (tmp_path / "s").glob("annotations*")] == []


def test_a_table_of_another_state_of_the_store_is_refused(tmp_path):
    write_table(a_store(tmp_path / "a"), a_table(IDS))
    store = a_store(tmp_path / "b", [*IDS, 77])
    (tmp_path / "b" / FILE).write_bytes((tmp_path / "a" / FILE).read_bytes())
    with pytest.raises(StoreError, match=r"another state of the store \(5 rows, the store has 6\)\. `mirsearch annot"):
        Annotations.open(store)


def test_too_few_rows_leave_nothing(tmp_path):
    store = a_store(tmp_path / "s")
    with pytest.raises(StoreError, match="2 rows of annotations for 5"):  # noqa: SIM117
        with TableWriter(store.path, Facts.of(store.manifest, annotated=5)) as writer:
            writer.write(a_table(IDS[:2]))
            writer.finish()
    assert list(store.path.glob("annotations*")) == []


def test_damage_of_what_was_written_is_an_error(tmp_path):
    """Pages have checksums; what describes them, their headers and the footer, has none."""
    store = a_store(tmp_path / "s")
    path = write_table(store, a_table(IDS))
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    for column in (2, 4, 16):
        last = group.column(column).data_page_offset + group.column(column).total_compressed_size
        dictionary = group.column(column).dictionary_page_offset
        last -= (group.column(column).data_page_offset - dictionary) if dictionary else 0
        flip_bit(path, (last - 2) * 8)
        with pytest.raises(
            StoreError, match=r"cannot be read .*`mirsearch annotations ingest SOURCE.*` writes it anew"
        ):
            Annotations.open(store).table()
        path.write_bytes(whole)
    for length in (0, 3, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(StoreError, match="annotations ingest"):
            Annotations.open(store)


def test_a_newer_format_and_a_foreign_file_are_named(tmp_path):
    store = a_store(tmp_path / "s")
    path = write_table(store, a_table(IDS))
    facts = json.loads(pq.read_schema(path).metadata[tables.METADATA]) | {
        "format_version": FORMAT_VERSION + 1,
        "more": 1,
    }
    pq.write_table(a_table(IDS).replace_schema_metadata({tables.METADATA: json.dumps(facts)}), path)
    with pytest.raises(StoreError, match=f"format version {FORMAT_VERSION + 1}.*Upgrade"):
        Annotations.open(store)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StoreError, match="its metadata are not those of annotations"):
        Annotations.open(store)
