"""A store held by one process: what the others are told, and what is swept away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.hold import held
from engine.store.lock import is_locked
from engine.store.writer import StoreWriter
from tests.builders import files_below, make_store

DIMS = {"x": 2}
CHANGES: list[Callable[[Path], object]] = [lambda path: remove(path, [1]), compact_store]


def written(writer: StoreWriter, first: int) -> None:
    rows = {"x": np.ones((3, 2), np.float32)}
    writer.write(writer.reserve(3), np.arange(first, first + 3), rows, key="one")


@pytest.fixture(params=["new", "grown"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that an ingest is going to make a store, or a store that it is going to add to."""
    path = tmp_path / "store"
    if request.param == "grown":
        make_store(path, {"x": np.zeros((3, 2), np.float32)})
    yield path


@pytest.mark.parametrize("change", CHANGES)
def test_who_changes_a_store_while_it_is_written_is_told_so(place: Path, change: Callable[[Path], object]) -> None:
    """Not that an ingest was interrupted, which it was not."""
    with StoreWriter(place, DIMS, append=True) as writer:
        written(writer, 0)
        with pytest.raises(StoreError, match=r"another mirsearch is writing here\. Wait for it to end"):
            change(place)
        writer.finish([])
    remove(place, [1])
    compact_store(place)


@pytest.mark.parametrize("change", CHANGES)
def test_an_ingest_that_nobody_goes_on_with_was_interrupted(tmp_path: Path, change: Callable[[Path], object]) -> None:
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        written(writer, 0)
    files = files_below(tmp_path / "store")
    with pytest.raises(StoreError, match="was interrupted here"):
        change(tmp_path / "store")
    assert files_below(tmp_path / "store") == files


def test_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "store"
    assert not is_locked(path)
    make_store(path, {"x": np.zeros((3, 2), np.float32)})
    with held(path):
        assert is_locked(path)
    assert not is_locked(path)
    (path / ".lock").chmod(0o444)
    assert not is_locked(path)


def test_a_change_that_failed_leaves_no_parts(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {"x": np.zeros((3, 2), np.float32)}).path
    files = files_below(path)
    with pytest.raises(ZeroDivisionError), held(path):
        (path / "x.change.part").write_bytes(b"half")
        _ = 1 / 0
    assert files_below(path).keys() - {".lock"} == files.keys() - {".lock"}
