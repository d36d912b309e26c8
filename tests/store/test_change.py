"""Remove and undo: a mark beside the rows, all of it or none of it."""

import shutil
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError, StoreError
from engine.store.change import RemoveReport, remove
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import files_below, flip_bit, make_store
from tests.store.crashes import dies_at, killed_after, leftovers, said
from tests.store.test_verify import GOLDEN

ROWS = 40
DIMS = {"fc7": 4, "fc8": 2}
IDS = np.random.default_rng(0).permutation(1000)[:ROWS]


@pytest.fixture
def store(tmp_path):
    random = np.random.default_rng(4)
    layers = {name: random.random((ROWS, dim), np.float32) for name, dim in DIMS.items()}
    return make_store(tmp_path / "store", layers, IDS, block_rows=16).path


def removed_ids(path) -> list[int]:
    store = Store.open(path)
    return [] if store.removed is None else sorted(store.photo_ids[store.removed].tolist())


def test_removed_photos_are_marked_and_the_rows_stay(store):
    before = Store.open(store)
    report = remove(store, [IDS[3], IDS[0], IDS[3]])
    assert report == RemoveReport(store=store, changed=2, already=0, photos=38, removed=2)
    after = Store.open(store)
    assert removed_ids(store) == sorted([IDS[0], IDS[3]])
    assert (len(after), after.photos) == (40, 38)
    assert after.fc7.tobytes() == before.fc7.tobytes()
    assert after.manifest.state == before.manifest.state
    assert np.load(store / "removed.npy").tolist() == [0, 3]
    with pytest.raises(InputError, match="was removed"):
        after.rows_of([IDS[3]])
    assert verify_store(store).damage == []
    assert leftovers(store) == []


def test_again_counts_those_that_are_gone_already(store):
    remove(store, IDS[:3])
    files = files_below(store)
    report = remove(store, IDS[:3])
    assert (report.changed, report.already, report.removed) == (0, 3, 3)
    assert files_below(store) == files
    report = remove(store, IDS[:5])
    assert (report.changed, report.already, report.removed) == (2, 3, 5)


def test_undo_brings_them_back(store):
    files = files_below(store)
    remove(store, IDS[:3])
    report = remove(store, IDS[2:5], undo=True)
    assert (report.changed, report.already, report.photos) == (1, 2, 38)
    assert removed_ids(store) == sorted(IDS[:2].tolist())
    remove(store, IDS, undo=True)
    assert Store.open(store).removed is None
    assert files_below(store) == files


@pytest.mark.parametrize("undo", [False, True])
def test_an_unknown_id_changes_nothing(store, undo):
    remove(store, IDS[:1])
    files = files_below(store)
    with pytest.raises(InputError, match=r"photo 5000 \(and 1 more\): not in .* Nothing was changed"):
        remove(store, [IDS[0], 5000, IDS[1], 6000], undo=undo)
    assert files_below(store) == files


def test_the_last_photos_stay(store):
    remove(store, IDS[:10])
    files = files_below(store)
    with pytest.raises(InputError, match="none of its 30 photos would be left"):
        remove(store, IDS)
    assert files_below(store) == files
    assert remove(store, IDS[:-1]).photos == 1
    assert remove(store, IDS[:-1]).changed == 0


def test_no_store_and_a_damaged_one(store, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "folder"):
        with pytest.raises(StoreError, match="This is no store"):
            remove(path, [1])
    assert list((tmp_path / "folder").iterdir()) == []
    flip_bit(store / "photo_ids.npy", 4100 * 8)
    files = files_below(store)
    with pytest.raises(StoreError, match=r"photo_ids\.npy"):
        remove(store, [IDS[0]])
    assert files_below(store) == files


def test_a_version_1_store_keeps_what_its_indices_refer_to(tmp_path):
    store = shutil.copytree(GOLDEN, tmp_path / "store")
    before = Store.open(store).manifest
    remove(store, [1003, 1001])
    after = Store.open(store)
    assert (after.manifest.version, after.manifest.state, after.manifest.header_bytes) == (2, before.digest, 128)
    assert removed_ids(store) == [1001, 1003]
    assert np.load(store / "removed.npy").tolist() == [1, 3]
    assert verify_store(store).damage == []


def test_an_interrupted_ingest_is_left_to_continue(store):
    with StoreWriter(store, DIMS, append=True) as writer:
        rows = {name: np.ones((3, dim), np.float32) for name, dim in DIMS.items()}
        writer.write(writer.reserve(3), np.arange(2000, 2003), rows, key="one")
    remove(store, IDS[:2])
    assert removed_ids(store) == sorted(IDS[:2].tolist())
    with StoreWriter(store, DIMS, append=True) as writer:
        if "one" in writer.found:
            writer.keep(writer.found["one"])
        else:
            writer.write(writer.reserve(3), np.arange(2000, 2003), rows, key="one")
        writer.finish(["more"])
    assert (len(Store.open(store)), Store.open(store).photos) == (43, 41)
    assert verify_store(store).damage == []


@pytest.mark.parametrize(("first", "ids", "undo"), [([], IDS[:4], False), (IDS[:4], IDS[:2], True),
                                                    (IDS[:4], IDS[:4], True)])  # fmt: skip
def test_killed_at_any_write_all_or_nothing_is_removed(store, tmp_path, first, ids, undo):
    if len(first):
        remove(store, first)
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    remove(tmp_path / "finished", ids, undo=undo)
    finished, seen = said(tmp_path / "finished"), set()
    for call in range(1, 100):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(remove, path, ids, undo=undo))
        now = said(path)
        assert now in (old, finished), call
        seen.add(now == finished)
        remove(path, ids, undo=undo)
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert (call > 5, seen) == (True, {True, False})


def test_killed_at_any_moment(store, tmp_path):
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    remove(tmp_path / "finished", IDS[:4])
    finished = said(tmp_path / "finished")
    for moment in np.random.default_rng(2).uniform(0.0001, 0.015, 15):
        path = shutil.copytree(store, tmp_path / "work")
        killed_after(float(moment), partial(remove, path, IDS[:4]))
        assert said(path) in (old, finished)
        remove(path, IDS[:4])
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)


@given(st.lists(st.tuples(st.sets(st.integers(0, ROWS - 1), max_size=12), st.booleans()), max_size=4))
def test_any_series_of_changes_adds_up(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("series") / "store"
    make_store(path, {"x": np.zeros((ROWS, 1), np.float32)}, IDS)
    gone: set[int] = set()
    for rows, undo in changes:
        wanted = (gone - rows) if undo else (gone | rows)
        if len(wanted) == ROWS:
            continue
        report = remove(path, [IDS[row] for row in rows], undo=undo) if rows else None
        assert report is None or (report.changed, report.already) == (
            len(gone ^ wanted), len(rows) - len(gone ^ wanted)
        )  # fmt: skip
        gone = wanted
    assert removed_ids(path) == sorted(IDS[list(gone)].tolist())
