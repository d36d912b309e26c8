"""What is known of photos beside their features: nothing without annotations, and never a failure that hides."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from engine.jobs.dedup_context import annotations_of, credits_of
from engine.store.annotations.schema import FILE
from engine.store.store import Store
from tests.builders import make_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"fc7": np.ones((4, 2), np.float32)}, [7, 8, 9, 10])


def test_a_store_without_annotations_knows_nothing(store: Store) -> None:
    assert annotations_of(store, np.array([7, 8]), ("owner",)) == [] and credits_of(store, np.array([7])) == {}


def test_what_the_annotations_say(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / FILE).write_bytes(b"")
    table, attribution = ModuleType("table"), ModuleType("attribution")
    rows = SimpleNamespace(of_rows=lambda rows, columns: [dict.fromkeys(columns, row) for row in rows.tolist()])
    table.Annotations = SimpleNamespace(open=lambda store: rows)  # type: ignore[attr-defined]
    jane = SimpleNamespace(to_dict=lambda: {"owner": "Jane"})
    attribution.attributions = lambda store, ids: dict.fromkeys(ids[:1], jane)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine.store.annotations.table", table)
    monkeypatch.setitem(sys.modules, "engine.store.annotations.attribution", attribution)
    assert annotations_of(store, np.array([9, 7]), ("owner",)) == [{"owner": 2}, {"owner": 0}]
    assert credits_of(store, np.array([7, 8])) == {7: {"owner": "Jane"}}


def test_a_package_that_is_missing_is_no_missing_annotations(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (store.path / FILE).write_bytes(b"")

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name="pyarrow")

    monkeypatch.setattr("engine.jobs.dedup_context.importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        annotations_of(store, np.array([7]), ("owner",))
