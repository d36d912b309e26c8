"""Compact: the store as if the removed photos had never been in it, in one step or not at all."""

import shutil
import subprocess
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, StoreError
from engine.store import blocks, compact
from engine.store.change import remove
from engine.store.compact import CompactReport, compact_store
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import files_below, flip_bit, make_store
from tests.store.crashes import dies_at, killed_after, leftovers, refused_for_room, said, small_disk
from tests.store.test_verify import GOLDEN

ROWS = 700
DIMS = {"fc7": 40, "fc8": 3}
IDS = np.random.default_rng(0).permutation(10_000)[:ROWS]
GONE = [0, 1, 5, 255, 256, 300, 301, 699]


def layers() -> dict[str, Any]:
    random = np.random.default_rng(4)
    return {name: random.random((ROWS, dim), np.float32) for name, dim in DIMS.items()}


@pytest.fixture
def store(tmp_path):
    path = make_store(tmp_path / "store", layers(), IDS).path
    remove(path, IDS[GONE])
    return path


def test_what_is_left_is_a_store_of_what_stayed(store, tmp_path):
    """Byte for byte what an ingest of only those photos would have made, the manifest's origin aside."""
    before = Store.open(store)
    report = compact_store(store)
    assert report == CompactReport(store=store, photos=692, dropped=8, freed=8 * (8 + 43 * 4))
    stays = np.delete(np.arange(ROWS), GONE)
    fresh = make_store(tmp_path / "fresh", {name: rows[stays] for name, rows in layers().items()}, IDS[stays])
    assert files_below(store) == files_below(fresh.path)
    after = Store.open(store)
    assert (len(after), after.photos, after.removed) == (692, 692, None)
    assert after.manifest.state != before.manifest.state
    assert not (store / "removed.npy").exists()
    assert verify_store(store).damage == []
    files = files_below(store)
    assert compact_store(store).dropped == 0
    assert files_below(store) == files


def test_nothing_removed_nothing_done(store):
    remove(store, IDS, undo=True)
    files = files_below(store)
    assert compact_store(store) == CompactReport(store=store, photos=700, dropped=0, freed=0)
    assert files_below(store) == files


@pytest.mark.parametrize("name", ["fc7.npy", "fc8.npy"])
@pytest.mark.parametrize("row", [0, 5, 400, 698])
def test_a_damaged_block_stops_it(store, name, row):
    """In a removed row too: nobody can know that the damage lies in that alone."""
    flip_bit(store / name, (4096 + row * DIMS[name[:-4]] * 4) * 8)
    files = files_below(store)
    with pytest.raises(StoreError, match=rf"{name}: rows \d+ to \d+: does not match its checksum.*--repair"):
        compact_store(store)
    assert files_below(store) == files


@pytest.mark.parametrize("rows", [(0, 256), (256, 512), (512, 700)])
def test_damage_in_a_block_of_removed_photos_alone_goes_with_it(store, rows):
    remove(store, IDS[slice(*rows)])
    for name, dim in DIMS.items():
        for row in (rows[0], rows[1] - 1):
            flip_bit(store / f"{name}.npy", (4096 + row * dim * 4) * 8)
    stays = np.setdiff1d(np.arange(ROWS), [*GONE, *range(*rows)])
    compact_store(store)
    after = Store.open(store)
    assert after.photo_ids.tolist() == IDS[stays].tolist()
    assert all(after.layers[name].tobytes() == data[stays].tobytes() for name, data in layers().items())
    assert verify_store(store).damage == []


def test_an_interrupted_ingest_comes_first(store):
    with StoreWriter(store, DIMS, append=True) as writer:
        rows = {name: np.ones((3, dim), np.float32) for name, dim in DIMS.items()}
        writer.write(writer.reserve(3), np.arange(20_000, 20_003), rows, key="one")
    files = files_below(store)
    with pytest.raises(StoreError, match=r"an import into it was interrupted\. Run that import again first"):
        compact_store(store)
    assert files_below(store) == files


def test_no_room_is_said_before_the_work(store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 9_000))
    files = files_below(store)
    with pytest.raises(EngineError, match=r"what stays, 692 photos, .* needs 124\.6 KB; 9\.0 KB are free"):
        compact_store(store)
    assert files_below(store) == files


def test_a_full_disk_leaves_the_old_store(store):
    files = files_below(store)
    assert refused_for_room(lambda: compact_store(store), 50_000)
    assert files_below(store) == files
    assert compact_store(store).dropped == len(GONE)


def test_a_disk_that_fills_up_leaves_the_old_store(store, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 200_000) as disk:
        path = shutil.copytree(store, disk / "store")
        files = files_below(path)
        with pytest.raises(EngineError, match=r"needs 124\.6 KB"):
            compact_store(path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
        with pytest.raises(EngineError, match="the disk is full"):
            compact_store(path)
        assert files_below(path) == files
        assert verify_store(path).damage == []
        monkeypatch.undo()
        subprocess.run(["mount", "-o", "remount,size=1000000", disk], check=True)
        assert compact_store(path).dropped == len(GONE)


def test_a_version_1_store_becomes_version_2(tmp_path):
    store = shutil.copytree(GOLDEN, tmp_path / "store")
    rows, ids = Store.open(store).fc7.copy(), Store.open(store).photo_ids.copy()
    remove(store, ids[:7])
    compact_store(store)
    after = Store.open(store)
    assert (after.manifest.version, after.manifest.header_bytes) == (2, 4096)
    assert after.fc7.tobytes() == rows[7:].tobytes()
    assert after.photo_ids.tolist() == ids[7:].tolist()
    assert np.load(store / "fc7.npy").tobytes() == rows[7:].tobytes()
    assert verify_store(store).damage == []


@pytest.mark.parametrize("version", [1, 2])
def test_query_sets_are_kept_and_not_current(tmp_path, version):
    path, random = tmp_path / "store", np.random.default_rng(3)
    if version == 1:
        shutil.copytree(GOLDEN, path)
    with StoreWriter(path, {"fc7": 32}, append=True) as writer:
        writer.write(writer.reserve(9), np.arange(9), {"fc7": random.random((9, 32), np.float32)})
        queries, neighbors = random.random((2, 32), np.float32), np.arange(6).reshape(2, 3)
        writer.query_set("fc7", queries, neighbors, random.random((2, 3), np.float32), "l2")
        writer.finish([])
    known = Store.open(path).query_set("fc7")
    assert known is not None and known.current
    remove(path, [3])
    compact_store(path)
    known = Store.open(path).query_set("fc7")
    assert known is not None and not known.current
    assert known.queries.tobytes() == queries.tobytes()
    assert known.neighbors.tolist() == neighbors.tolist()
    assert verify_store(path).damage == []


def test_blocks_longer_than_a_read_are_taken_in_pieces(tmp_path, monkeypatch):
    path = make_store(tmp_path / "store", layers(), IDS, block_rows=500).path
    remove(path, IDS[GONE])
    damaged = shutil.copytree(path, tmp_path / "damaged")
    flip_bit(damaged / "fc7.npy", (4096 + 450 * 160) * 8)
    monkeypatch.setattr(blocks, "PIECE", 4000)
    monkeypatch.setattr(compact, "PIECE", 4000)
    stays = np.delete(np.arange(ROWS), GONE)
    compact_store(path)
    after = Store.open(path)
    assert all(after.layers[name].tobytes() == rows[stays].tobytes() for name, rows in layers().items())
    assert after.manifest.block_rows == [256, 256, 180]
    assert verify_store(path).damage == []
    with pytest.raises(StoreError, match="rows 0 to 499: does not match"):
        compact_store(damaged)


@given(st.integers(1, 900), st.integers(1, 300), st.data())
@settings(max_examples=25)
def test_any_rows_any_blocks(tmp_path_factory, rows, block_rows, data):
    path = tmp_path_factory.mktemp("any") / "store"
    given_rows = np.random.default_rng(rows).random((rows, 3), np.float32)
    make_store(path, {"x": given_rows}, block_rows=block_rows)
    gone = sorted(data.draw(st.sets(st.integers(0, rows - 1), max_size=rows - 1)))
    if not gone:
        return
    remove(path, [row * 7 + 1000 for row in gone])
    compact_store(path)
    after = Store.open(path)
    assert after.layer("x").tobytes() == np.delete(given_rows, gone, axis=0).tobytes()
    assert after.photo_ids.tolist() == np.delete(np.arange(rows) * 7 + 1000, gone).tolist()
    assert verify_store(path).damage == []


def test_killed_at_any_write_it_is_the_old_store_or_the_new_one(store, tmp_path):
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    compact_store(tmp_path / "finished")
    finished, seen, recoveries = said(tmp_path / "finished"), set(), 0
    for call in range(1, 200):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(compact_store, path))
        for again in range(1, 30):  # whoever opens it next may die too
            if not dies_at(again, partial(Store.open, path)):
                break
            recoveries += 1
        now = said(path)
        assert now in (old, finished), call
        seen.add(now == finished)
        compact_store(path)
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert (call > 15, seen, recoveries > 10) == (True, {True, False}, True)


def test_what_a_killed_one_left_is_removed_by_the_next_writer(store):
    call = 1
    while not leftovers(store):
        assert dies_at(call, partial(compact_store, store))
        call += 1
    with StoreWriter(store, DIMS, append=True) as writer:
        assert leftovers(store) == ["photo_ids.npy.part"]  # its own
        writer.finish([])
    assert leftovers(store) == []
    assert Store.open(store).photos == ROWS - len(GONE)


def test_killed_at_any_moment(tmp_path):
    """A store large enough that the moments fall into every phase."""
    random = np.random.default_rng(1)
    store = make_store(tmp_path / "store", {"x": random.random((20_000, 256), np.float32)}).path
    remove(store, np.arange(0, 20_000, 3) * 7 + 1000)
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    compact_store(tmp_path / "finished")
    finished, killed = said(tmp_path / "finished"), 0
    for moment in random.uniform(0.001, 0.08, 12):
        path = shutil.copytree(store, tmp_path / "work")
        killed += killed_after(float(moment), partial(compact_store, path))
        assert said(path) in (old, finished)
        compact_store(path)
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)
    assert killed
