"""One `.dat` file: the publisher's own reader is the oracle, and no damaged byte becomes a row."""

import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store import dat
from engine.store.dat import examine
from engine.store.ingest import ingest
from engine.store.reader import Block, RecordReader
from engine.store.sources import find_sources
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, DAT_BYTES, Array, dat_bytes, photo_bytes, photo_layers, publishers_reader, write_photo

LARGEST, TINIEST = 0x7F7FFFFF, 0x00000001  # 3.4e38, and the smallest denormal
SPECIAL = np.array([0, 0x80000000, TINIEST, 0x80000001, 0x007FFFFF, 0x00800000, LARGEST, 0xFF7FFFFF], np.uint32)


def finite_patterns(random: np.random.Generator, shape: int) -> Array:
    """Random bits that are finite float32 values, every exponent as likely; one in 16 is a borderline value."""
    bits = random.integers(0, 1 << 32, shape, dtype=np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] &= 0xBFFFFFFF
    special = random.random(shape) < 1 / 16
    bits[special] = random.choice(SPECIAL, int(special.sum()))
    return bits.view(np.float32)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A folder of 1,000 files of random bits, their ids, and the bytes of each."""
    root = tmp_path_factory.mktemp("thousand")
    random = np.random.default_rng(11)
    ids = random.choice(1_000_000, 1000, replace=False)
    contents = {}
    for photo_id in ids.tolist():
        contents[photo_id] = dat_bytes(finite_patterns(random, 4096), finite_patterns(random, 1000))
        write_photo(root / "features", photo_id, contents[photo_id])
    return root, contents


def test_layout_is_the_published_one():
    fc7, fc8 = photo_layers(3)
    content = dat.records(fc7[None], fc8[None]).tobytes()
    assert len(content) == dat.RECORD_BYTES == DAT_BYTES == 8 + 4 * 1000 + 8 + 4 * 4096
    assert content == photo_bytes(3)
    assert struct.unpack_from("=q", content, 0) == (1000,)
    assert struct.unpack_from("=q", content, 4008) == (4096,)
    assert struct.unpack_from("=2f", content, 8) == tuple(fc8[:2])
    assert struct.unpack_from("=2f", content, 4016) == tuple(fc7[:2])


@pytest.mark.parametrize(
    ("photo_id", "path"),
    [(0, "0/0.dat"), (9999, "0/9999.dat"), (10_000, "1/10000.dat"), (103169, "10/103169.dat")],
)
def test_folders_are_aligned_with_the_pictures(photo_id, path):
    assert dat.relative_path(photo_id) == path
    assert dat.relative_path(photo_id, ".jpg") == path.replace(".dat", ".jpg")


def test_store_equals_the_publishers_reader(thousand, tmp_path):
    root, contents = thousand
    report = ingest([root], tmp_path / "store", device=CPU)
    store = Store.open(tmp_path / "store")
    assert (report.photos, report.refused) == (1000, 0)
    assert store.photo_ids.tolist() == sorted(contents)
    for row, photo_id in enumerate(store.photo_ids.tolist()):
        fc7, fc8 = publishers_reader(contents[photo_id])
        assert fc7.shape == (1, 4096) and fc8.shape == (1, 1000)
        assert store.fc7[row].tobytes() == fc7.tobytes()
        assert store.fc8[row].tobytes() == fc8.tobytes()


@pytest.mark.parametrize("kind", ["cpu", "reference"])
def test_the_reader_of_whole_records_gives_the_same(thousand, kind):
    """The way to a GPU, here on kernels that need none; the last block is not full."""
    root, contents = thousand
    files = find_sources([root]).listing
    reader, block = RecordReader(load(kind), 300), Block(300)
    for start in range(0, 1000, 300):
        part = files.take(slice(start, start + 300))
        reader.read(part, block)
        assert block.good[: len(part)].all()
        for i, photo_id in enumerate(part.photo_ids.tolist()):
            fc7, fc8 = publishers_reader(contents[photo_id])
            assert block.fc7[i].tobytes() == fc7.tobytes()
            assert block.fc8[i].tobytes() == fc8.tobytes()


words = st.integers(0, (1 << 32) - 1).filter(lambda word: (word & 0x7F800000) != 0x7F800000)
photos = st.dictionaries(
    st.integers(0, 10**18 - 1),
    st.tuples(st.integers(0, 99), st.dictionaries(st.integers(0, 5095), words, max_size=8)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(photos=photos)
def test_any_finite_values_survive_the_way_into_a_store(tmp_path_factory, photos):
    root = tmp_path_factory.mktemp("round-trip")
    expected = {}
    for photo_id, (version, changes) in photos.items():
        fc7, fc8 = photo_layers(photo_id % 1000, version)
        for at, word in changes.items():
            layer, i = (fc8, at) if at < 1000 else (fc7, at - 1000)
            layer.view(np.uint32)[i] = word
        write_photo(root / "in", photo_id, dat_bytes(fc7, fc8))
        expected[photo_id] = fc7.tobytes(), fc8.tobytes()
    ingest([root / "in"], root / "store", device=CPU)
    store = Store.open(root / "store")
    assert store.photo_ids.tolist() == sorted(expected)
    assert [(a.tobytes(), b.tobytes()) for a, b in zip(store.fc7, store.fc8, strict=True)] == [
        expected[photo_id] for photo_id in sorted(expected)
    ]


def test_a_file_cut_at_any_byte_is_no_record(tmp_path):
    path = tmp_path / "7.dat"
    path.write_bytes(photo_bytes(7))
    assert examine(path)[0] is None
    for length in range(DAT_BYTES - 1, -1, -1):
        os.truncate(path, length)
        reason, record = examine(path)
        assert record is None, length
        assert reason is not None and (f"{length:,} bytes" in reason if length else "empty" in reason), length


@pytest.mark.parametrize("extra", [1, 2, 8, 4096, DAT_BYTES, 1 << 30])
def test_a_longer_file_is_no_record(tmp_path, extra):
    path = tmp_path / "7.dat"
    path.write_bytes(photo_bytes(7))
    os.truncate(path, DAT_BYTES + extra)
    assert examine(path) == (f"{DAT_BYTES + extra:,} bytes, expected 20,400: the file is too long", None)


BORDERS = [0, 1, 7, 8, 9, 11, 12, 4007, 4008, 4009, 4015, 4016, 4017, 4096, 8192, 16384, 20396, 20398, 20399]


def test_no_cut_or_longer_file_becomes_a_row(tmp_path):
    lengths = sorted({*BORDERS, *range(5, DAT_BYTES, 73), 20401, 20402, 20408, 40800})
    for length in lengths:
        path = write_photo(tmp_path / "in", length)
        os.truncate(path, length)
    write_photo(tmp_path / "in", 50_000)
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    store = Store.open(tmp_path / "store")
    assert store.photo_ids.tolist() == [50_000]
    assert store.fc7[0].tobytes() == photo_layers(50_000)[0].tobytes()
    assert (report.photos, report.refused) == (1, len(lengths))


def test_every_flipped_bit_of_a_header_is_refused(tmp_path):
    good = photo_bytes(1)
    for header, start in enumerate((0, 4008)):
        for bit in range(64):
            content = bytearray(good)
            content[start + bit // 8] ^= 1 << bit % 8
            path = write_photo(tmp_path / "in", 100 + header * 64 + bit, bytes(content))
            reason, record = examine(path)
            assert record is None
            assert reason is not None and reason.startswith(f"the {('fc8', 'fc7')[header]} header says "), reason
    write_photo(tmp_path / "in", 1, good)
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    assert (report.photos, report.refused) == (1, 128)
    assert Store.open(tmp_path / "store").photo_ids.tolist() == [1]
