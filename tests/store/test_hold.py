"""A store held by one process: what the others are told, and what is swept away."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.hold import held
from engine.store.lock import is_locked
from engine.store.manifest import read_manifest
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import files_below, make_store
from tests.store.crashes import child, ended

DIMS = {"x": 2}
CHANGES: list[Callable[[Path], object]] = [lambda path: remove(path, [1]), compact_store]
READS: list[Callable[[Path], object]] = [Store.open, verify_store, read_manifest]


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


@pytest.mark.parametrize("read", READS)
def test_who_reads_a_store_that_is_being_made_is_told_so(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        written(writer, 0)
        with pytest.raises(StoreError, match=r"Another mirsearch is writing here\. Wait for it to end"):
            read(tmp_path / "store")


@pytest.mark.parametrize("change", CHANGES)
def test_an_ingest_that_nobody_goes_on_with_was_interrupted(tmp_path: Path, change: Callable[[Path], object]) -> None:
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        written(writer, 0)
    files = files_below(tmp_path / "store")
    with pytest.raises(StoreError, match="was interrupted here"):
        change(tmp_path / "store")
    assert files_below(tmp_path / "store") == files


def test_who_holds_it_for_a_moment_is_waited_for(tmp_path: Path) -> None:
    path = make_store(tmp_path / "store", {"x": np.zeros((3, 2), np.float32)}).path
    with ThreadPoolExecutor() as pool:
        with held(path):
            change = pool.submit(remove, path, [1000])
            with pytest.raises(TimeoutError):
                change.result(0.1)
        assert change.result().changed == 1


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


def grown(path: Path, ids: np.ndarray) -> None:
    with StoreWriter(path, {"x": 8, "y": 3}, append=True) as writer:
        writer.write(writer.reserve(len(ids)), ids, telling(ids))
        writer.finish([])


def insist(work: Callable[[], object]) -> None:
    """A reader too has the lock for a moment, to see whether a change must be finished."""
    for _ in range(100):
        with suppress(StoreError):
            work()
            return
        time.sleep(0.01)
    work()


def telling(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Rows that say whose they are."""
    return {name: np.repeat(ids[:, None], dim, axis=1).astype("<f4") for name, dim in (("x", 8), ("y", 3))}


def test_who_reads_while_another_writes_finds_each_photo_its_own_row(tmp_path: Path) -> None:
    """Or is told that a change is under way; never that the store is damaged."""
    path = make_store(tmp_path / "store", telling(np.arange(500)), np.arange(500)).path

    def rounds() -> None:
        random = np.random.default_rng(1)
        for _ in range(15):
            gone = np.sort(random.choice(500, random.integers(1, 300), replace=False))
            insist(partial(remove, path, gone))
            insist(partial(compact_store, path))
            insist(partial(grown, path, gone))

    number, opened = child(rounds), 0
    while not os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        try:
            store = Store.open(path)
        except StoreError as error:
            assert "another mirsearch" in str(error), error
            continue
        opened += 1
        for name, rows in telling(store.photo_ids).items():
            assert store.layers[name].tobytes() == rows.tobytes()
    assert (ended(number), opened > 10) == (0, True)
    assert Store.open(path).photos == 500
