"""Verify: every flipped bit of every file is found, or opening says so; damage is named by file, rows and photos."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store import blocks
from engine.store.blocks import DiskFile
from engine.store.change import remove
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.verify import check_layer, verify_store
from engine.store.writer import StoreWriter
from tests.builders import CPU, flip_bit, make_store, photo_bytes, write_photo, write_photos

ROWS, BLOCK, DIMS = 700, 256, {"fc7": 6, "fc8": 3}
GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "store"


@pytest.fixture
def store(tmp_path):
    """700 rows of two layers, 3 blocks."""
    random = np.random.default_rng(4)
    return make_store(tmp_path / "store", {name: random.random((ROWS, dim), np.float32) for name, dim in DIMS.items()},
                      block_rows=BLOCK).path  # fmt: skip


@pytest.fixture
def full(tmp_path):
    """A small store that has every kind of file there is."""
    random = np.random.default_rng(5)
    path = tmp_path / "full"
    with StoreWriter(path, DIMS) as writer:
        for start in (0, 5):
            ids = np.arange(start, start + 5) * 3 + 10
            writer.write(writer.reserve(5), ids, {name: random.random((5, d), np.float32) for name, d in DIMS.items()})
        neighbors, distances = np.arange(6).reshape(2, 3) * 3 + 10, random.random((2, 3), np.float32)
        writer.query_set("fc7", random.random((2, 6), np.float32), neighbors, distances, "l2")
        writer.quarantine(b'{"source": "a", "photo_id": null, "reason": "b"}\n')
        writer.finish(["made up"])
    remove(path, np.array([13, 25]))
    return path


def whole(store: Store) -> dict[str, bytes]:
    """All that a store says."""
    said = {name: np.asarray(rows).tobytes() for name, rows in store.layers.items()}
    said |= {"ids": store.photo_ids.tobytes(), "removed": b"" if store.removed is None else store.removed.tobytes()}
    for name in store.layers:
        if queries := store.query_set(name):
            said[f"queries {name}"] = queries.queries.tobytes() + queries.neighbors.tobytes()
    return said


def test_verify_of_a_whole_store_reads_every_byte(store):
    report = verify_store(store)
    assert (report.damage, report.notes) == ([], [])
    assert report.bytes_read == ROWS * (6 + 3) * 4 + ROWS * 8


@pytest.mark.parametrize(("layer", "dim"), DIMS.items())
def test_verify_names_the_rows_of_any_flipped_bit(store, layer, dim):
    """Every 977th bit, the first and the last: file, rows and photo ids of the block it lies in, and no other."""
    file = store / f"{layer}.npy"
    ids = Store.open(store).photo_ids
    for bit in [*range(4096 * 8, file.stat().st_size * 8, 977), file.stat().st_size * 8 - 1]:
        flip_bit(file, bit)
        (damage,) = verify_store(store).damage
        row = (bit // 8 - 4096) // (dim * 4)
        start, stop = row // BLOCK * BLOCK, min((row // BLOCK + 1) * BLOCK, ROWS)
        assert (damage.file, damage.rows) == (f"{layer}.npy", (start, stop))
        assert damage.photo_ids == (ids[start], ids[stop - 1])
        assert damage.reason == "do not match their checksum"
        flip_bit(file, bit)
    assert verify_store(store).damage == []


FILES = ["manifest.json", "photo_ids.npy", "fc7.npy", "fc8.npy", "removed.npy", "queries-fc7.npy", "neighbors-fc7.npy",
         "distances-fc7.npy", "quarantine.jsonl"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_of_any_file_is_found(full, name):
    """Every byte of the file, headers and their padding too; and whatever opens says the truth nevertheless."""
    file, truth = full / name, whole(Store.open(full))
    bits = [byte * 8 + byte % 8 for byte in range(0, file.stat().st_size, 1 if file.suffix == ".npy" else 3)]
    bits += [byte * 8 + bit for byte in range(10, min(file.stat().st_size, 12)) for bit in range(8) if bit != byte % 8]
    if file.suffix == ".npy":  # the padding is one run of blanks: every 401st byte of it stands for all
        bits = [bit for bit in bits if not 140 <= bit // 8 < 4090 or bit // 8 % 401 == 0]
    for bit in bits:
        flip_bit(file, bit)
        try:
            found = verify_store(full).damage
        except StoreError as error:
            assert name == "manifest.json" and name in str(error)
        else:
            assert [damage.file for damage in found] == [name], bit
        if file.stat().st_size < 200 or name == "manifest.json" or bit % 16 == 0:
            try:
                said = whole(Store.open(full))
            except StoreError:
                pass
            else:  # rows are verified, not opened: only they, and what nobody opens, may differ
                assert said == truth or name in ("fc7.npy", "fc8.npy")
        flip_bit(file, bit)
    assert verify_store(full).damage == []


@pytest.mark.parametrize("name", ["manifest.json", "photo_ids.npy", "fc7.npy", "quarantine.jsonl"])
def test_any_flipped_bit_of_a_version_1_store_is_found(tmp_path, name):
    shutil.copytree(GOLDEN, tmp_path / "store")
    file = tmp_path / "store" / name
    for bit in range(3, file.stat().st_size * 8, 8 * max(1, file.stat().st_size // 300)):
        flip_bit(file, bit)
        try:
            assert [damage.file for damage in verify_store(tmp_path / "store").damage] == [name]
        except StoreError as error:
            assert name == "manifest.json" and name in str(error)
        flip_bit(file, bit)
    assert verify_store(tmp_path / "store").damage == []


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize("change", ["absent", "empty", "short", "long", "folder"])
def test_any_file_of_another_length_is_found(full, name, change):
    file, data = full / name, (full / name).read_bytes()
    file.unlink()
    if change == "folder":
        file.mkdir()
    elif change != "absent":
        file.write_bytes({"empty": b"", "short": data[:-1], "long": data + b"\0"}[change])
    found = verify_store(full).damage
    assert {damage.file for damage in found} == {name}
    assert all(name not in damage.reason and not damage.reason.endswith(".") for damage in found)


def test_stretches_of_damage_are_one_line_each(store):
    for row in (0, 300, 699):
        flip_bit(store / "fc7.npy", (4096 + row * 24) * 8)
    flip_bit(store / "fc8.npy", (4096 + 300 * 12) * 8)
    flip_bit(store / "photo_ids.npy", 4096 * 8)
    found = [(damage.file, damage.rows, damage.photo_ids) for damage in verify_store(store).damage]
    assert found == [("photo_ids.npy", None, None), ("fc7.npy", (0, 700), None), ("fc8.npy", (256, 512), None)]
    os.truncate(store / "fc7.npy", 4096 + 500 * 24)
    cut = [(damage.rows, damage.reason) for damage in verify_store(store).damage if damage.file == "fc7.npy"]
    assert cut[1:] == [((0, 256), "do not match their checksum"), ((256, 700), "are cut short")]


@pytest.mark.parametrize("change", ["bit", "cut", "longer", "absent"])
def test_verify_reads_the_quarantine_too(tmp_path, change):
    write_photos(tmp_path / "in", range(3))
    write_photo(tmp_path / "in", 7, photo_bytes(7)[:100])
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    file = tmp_path / "store" / "quarantine.jsonl"
    assert verify_store(tmp_path / "store").damage == []
    data = file.read_bytes()
    if change == "absent":
        file.unlink()
    else:
        file.write_bytes({"bit": data[:9] + b"?" + data[10:], "cut": data[:-1], "longer": data + b"\n"}[change])
    (damage,) = verify_store(tmp_path / "store").damage
    reason = "is absent" if change == "absent" else "does not match its checksum"
    assert (damage.file, damage.reason) == ("quarantine.jsonl", reason)


def test_a_store_without_a_manifest_is_none(store, tmp_path):
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match="absent"):
        verify_store(store)
    with pytest.raises(StoreError, match="This is no store"):
        verify_store(tmp_path / "nowhere")


def test_what_an_interrupted_ingest_left_is_no_damage_but_mentioned(store):
    random = np.random.default_rng(0)
    with StoreWriter(store, DIMS, append=True) as writer:
        layers = {name: random.random((9, dim), np.float32) for name, dim in DIMS.items()}
        writer.write(writer.reserve(9), np.arange(9), layers, key="one")
    report = verify_store(store)
    assert (report.damage, len(report.notes)) == ([], 1)
    assert "An import into this store is under way or was interrupted" in report.notes[0]  # not the layers of an ingest
    flip_bit(store / "fc7.npy", (4096 + 699 * 24) * 8)
    assert [damage.rows for damage in verify_store(store).damage] == [(512, 700)]


def test_parts_that_somebody_left_are_mentioned(store):
    (store / "fc7.compact.part").write_bytes(b"left")
    report = verify_store(store)
    assert (report.damage, len(report.notes)) == ([], 1)
    assert "fc7.compact.part" in report.notes[0]


def test_check_layer_names_the_first_rows(store):
    check_layer(Store.open(store), "fc7")
    flip_bit(store / "fc7.npy", (4096 + 600 * 24) * 8)
    flip_bit(store / "fc8.npy", 4096 * 8)
    with pytest.raises(StoreError, match=r"fc7\.npy: rows 512 to 699 \(photos 4584 to 5893\): do not match"):
        check_layer(Store.open(store), "fc7")


@pytest.mark.parametrize("keep", [False, True])
def test_a_file_is_read_the_same_past_the_page_cache_and_from_it(tmp_path, keep):
    data = np.random.default_rng(3).bytes(3 * 4096 + 77)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        os.fsync(file.fileno())
    for cached in (True, False):
        with DiskFile(tmp_path / "file", keep=keep) as file:
            if not cached:
                os.posix_fadvise(file._handle, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset, size in [(0, 1), (0, 9000), (4095, 2), (4096, 4096), (5, 99_999), (12_300, 70), (99_999, 5)]:
                assert file.read(size, offset).tobytes() == data[offset : offset + size]


def test_a_block_larger_than_a_read_is_summed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE", 1000)
    random = np.random.default_rng(1)
    store = make_store(tmp_path / "store", {"x": random.random((700, 6), np.float32)}, block_rows=256).path
    assert verify_store(store).damage == []
    flip_bit(store / "x.npy", (4096 + 400 * 24) * 8)
    assert [damage.rows for damage in verify_store(store).damage] == [(256, 512)]


def test_a_disk_that_fails_is_damage_of_the_rows_it_holds(store, monkeypatch):
    read = DiskFile.read

    def failing(self: DiskFile, size: int, offset: int):
        if offset + size > 4096 + 600 * 24 and size > 3000:
            raise OSError(5, "Input/output error")
        return read(self, size, offset)

    monkeypatch.setattr(DiskFile, "read", failing)
    found = [damage for damage in verify_store(store).damage if damage.file == "fc7.npy"]
    assert [(damage.rows, damage.reason) for damage in found] == [((512, 700), "cannot be read (Input/output error)")]
