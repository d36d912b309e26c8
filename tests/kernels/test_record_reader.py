"""`RecordReader`, the way to the GPU, reads what `DirectReader` reads, good and damaged files alike."""

import os
from typing import Any

import numpy as np
import pytest

from engine.store.ingest import ingest
from engine.store.reader import Block, Reader, RecordReader, open_reader
from engine.store.sources import Listing, find_sources
from engine.store.store import Store
from kernels import Device, load
from tests.builders import dat_bytes, photo_bytes, photo_layers, write_photo
from tests.conftest import ON_GPU, load_kernels
from tests.kernels.conftest import emulated_or_skip


@pytest.fixture(scope="module", params=["reference", "cpu", "emulated", ON_GPU])
def any_kernels(request):
    return emulated_or_skip() if request.param == "emulated" else load_kernels(request.param)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Files in three folders, some of them damaged in every way that there is; the ids of the good ones."""
    root = tmp_path_factory.mktemp("photos")
    good = [3, 17, 9_999, 10_000, 10_007, 25_001]
    for photo_id in good:
        write_photo(root, photo_id)
    fc7, fc8 = photo_layers(1)
    whole = photo_bytes(1)
    nan, inf = fc7.copy(), fc8.copy()
    nan[-1], inf[0] = np.nan, -np.inf
    damaged = {
        40: b"",
        41: whole[:8],
        42: whole[:-1],
        43: whole + b"\0",
        44: dat_bytes(fc7, fc8, dims=(1001, 4096)),
        45: dat_bytes(fc7, fc8, dims=(1000, 1000)),
        46: dat_bytes(nan, fc8),
        47: dat_bytes(fc7, inf),
        20_001: whole[:20_000],
    }
    for photo_id, content in damaged.items():
        write_photo(root, photo_id, content)
    return root, good


def rows_of(reader: Reader, files: Listing, room: int) -> list[Any]:
    """What a reader says of each file, and the bits of the rows of the good ones."""
    block = Block(room)
    block.good[:] = True  # of the block before
    reader.read(files, block)
    good = block.good[: len(files)].copy()
    kept = [layer[: len(files)][good].view(np.uint32) for layer in (block.fc7, block.fc8)]
    return [good, *kept]


def test_reads_what_the_direct_reader_reads(any_kernels, photos):
    pytest.importorskip("numba")
    root, good_ids = photos
    files = find_sources([root]).listing
    ours = rows_of(RecordReader(any_kernels, 64), files, 64)
    theirs = rows_of(open_reader(Device(kind="cpu"), 64), files, 64)
    for mine, direct in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, direct)
    assert files.photo_ids[ours[0]].tolist() == good_ids
    for i, photo_id in enumerate(good_ids):
        fc7, fc8 = photo_layers(photo_id)
        np.testing.assert_array_equal(ours[1][i], fc7.view(np.uint32))
        np.testing.assert_array_equal(ours[2][i], fc8.view(np.uint32))


def test_a_damaged_file_never_shows_the_one_before_it(any_kernels, photos):
    """The buffer still holds the records of the last block: a short or absent file must not pass for one of them."""
    root, _ = photos
    files = find_sources([root]).listing
    reader = RecordReader(any_kernels, 64)
    good = np.flatnonzero(rows_of(reader, files, 64)[0])
    bad = np.flatnonzero(~rows_of(reader, files, 64)[0])
    n = min(len(good), len(bad))
    assert rows_of(reader, files.take(good[:n]), n)[0].all()
    assert not rows_of(reader, files.take(bad[:n]), n)[0].any()


def test_files_that_cannot_be_opened(any_kernels, tmp_path):
    for photo_id in (1, 2, 3):
        write_photo(tmp_path, photo_id)
    files = find_sources([tmp_path]).listing
    os.unlink(tmp_path / "0" / "2.dat")  # noqa: PTH108 (after it was listed)
    (tmp_path / "0" / "3.dat").unlink()
    (tmp_path / "0" / "3.dat").mkdir()
    reader = RecordReader(any_kernels, 8)
    assert rows_of(reader, files, 8)[0].tolist() == [True, False, False]


def test_no_files(any_kernels, photos):
    root, _ = photos
    none = find_sources([root]).listing.take(slice(0, 0))
    assert len(rows_of(RecordReader(any_kernels, 4), none, 4)[0]) == 0


@pytest.mark.gpu
def test_ingest_on_the_gpu_writes_the_same_bytes(photos, tmp_path):
    root, good_ids = photos
    ingest([root], tmp_path / "cuda", device=Device(kind="cuda", gpus=(0,)))
    stored = Store.open(tmp_path / "cuda")
    assert stored.photo_ids.tolist() == good_ids
    for i, photo_id in enumerate(good_ids):
        for layer, expected in zip(("fc7", "fc8"), photo_layers(photo_id), strict=True):
            np.testing.assert_array_equal(stored.layer(layer)[i], expected)


def test_ingest_through_whole_records_writes_the_same_bytes(any_kernels, photos, tmp_path, monkeypatch):
    """The whole way of a GPU host, with the kernels that are here."""
    pytest.importorskip("numba")
    root, _ = photos
    cpu = Device(kind="cpu")
    ingest([root], tmp_path / "direct", device=cpu, threads=2)
    monkeypatch.setattr("engine.store.copy.open_reader", lambda device, files: RecordReader(any_kernels, files))
    ingest([root], tmp_path / "records", device=cpu, threads=2)
    for name in ("photo_ids.npy", "fc7.npy", "fc8.npy", "manifest.json", "quarantine.jsonl"):
        assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "records" / name).read_bytes(), name


def test_the_reader_of_a_device(monkeypatch):
    monkeypatch.setattr("engine.store.reader.load", lambda device: load("reference"))
    assert isinstance(open_reader(Device(kind="cuda", gpus=(0,)), 2), RecordReader)
    pytest.importorskip("numba")
    assert type(open_reader(Device(kind="cpu"), 2)).__name__ == "DirectReader"
