"""What is known of photos beside their features: nothing without annotations, and never a failure that hides."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import StoreError
from engine.jobs.dedup_bursts import burst_pairs
from engine.jobs.dedup_context import annotations_of, credits_of
from engine.store.annotations.schema import FILE, QUARANTINE, schema
from engine.store.annotations.table import write_table
from engine.store.store import Store
from tests.builders import make_store

IDS = [7, 8, 9, 10]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"fc7": np.ones((4, 2), np.float32)}, IDS)


def annotate(store: Store) -> None:
    rows = [
        {"photo_id": photo, "annotated": True, "owner": "1@N01", "owner_name": "jane", "licence": "CC BY 2.0",
         "taken": datetime(2010, 5, 1, 12, photo), "exif_taken": None}
        for photo in IDS[:3]
    ]  # fmt: skip
    rows.append({"photo_id": IDS[3], "annotated": False})
    write_table(store, pa.Table.from_pylist(rows, schema=schema()))


def test_a_store_without_annotations_knows_nothing(store: Store) -> None:
    assert annotations_of(store, np.array([7, 8]), ("owner",)) == []
    assert credits_of(store, np.array([7])) == {}
    assert not burst_pairs(store, np.array([[7, 8]]), np.ones(1), 0.95).any()


def test_what_the_annotations_say(store: Store) -> None:
    annotate(store)
    assert annotations_of(store, np.array([10, 7]), ("owner",)) == [{"owner": None}, {"owner": "1@N01"}]
    assert credits_of(store, np.array([7, 10])) == {7: {"owner": "jane", "licence": "CC BY 2.0"}}
    assert burst_pairs(store, np.array([[7, 8], [9, 10]]), np.full(2, 0.9), 0.95).tolist() == [True, False]


def test_damaged_annotations_are_no_missing_ones(store: Store) -> None:
    annotate(store)
    whole = (store.path / FILE).read_bytes()
    (store.path / FILE).write_bytes(whole[:-20])
    with pytest.raises(StoreError):
        annotations_of(store, np.array([7]), ("owner",))


def test_lost_annotations_are_no_missing_ones(store: Store) -> None:
    annotate(store)
    (store.path / QUARANTINE).write_bytes(b"")  # as every ingest leaves it
    (store.path / FILE).unlink()
    for ask in (
        lambda: annotations_of(store, np.array([7]), ("owner",)),
        lambda: credits_of(store, np.array([7])),
        lambda: burst_pairs(store, np.array([[7, 8]]), np.ones(1), 0.95),
    ):
        with pytest.raises(StoreError, match=rf"{FILE} is gone.* take {QUARANTINE} away too"):
            ask()
    (store.path / QUARANTINE).unlink()
    assert credits_of(store, np.array([7])) == {}
