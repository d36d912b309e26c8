"""Every format against bytes made without our code: round trips, cuts, flipped bits, small blocks."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError, InputError
from engine.store.formats import vectors as module
from engine.store.formats.by_suffix import SUFFIXES, aside, open_vectors, write_vectors
from engine.store.formats.hdf5 import Queries
from tests.store.formats.samples import ALL, FLOAT, HALF, WHOLE, decoded, encoded, float_rows, same_bits, whole_rows

ROWS = (np.arange(35, dtype=np.float32) - 0).reshape(7, 5)


def read(path: Path) -> np.ndarray:
    return np.concatenate([block.copy() for block in open_vectors(path).blocks()])


def queries_for(rows: Any) -> Queries:
    return Queries(
        queries=rows[:1], neighbors=np.zeros((1, 1), np.int64), distances=np.zeros((1, 1), np.float32), metric="l2"
    )


def write(path: Path, rows: Any, size: int = 3) -> None:
    blocks = (rows[start : start + size] for start in range(0, len(rows), size))
    asked = queries_for(rows) if path.suffix in (".hdf5", ".h5") else None
    write_vectors(path, "layer", blocks, photo_ids=np.arange(len(rows)) + 5, dim=rows.shape[1], queries=asked)


def test_every_known_suffix_is_tested_here():
    assert set(SUFFIXES) == set(ALL)


@pytest.mark.parametrize("suffix", FLOAT)
@settings(max_examples=20)
@given(rows=float_rows, block_bytes=st.sampled_from([1, 40, 16 << 20]))
def test_float32_is_read_and_written_bit_for_bit(tmp_path_factory, suffix, rows, block_bytes):
    folder = tmp_path_factory.mktemp("f")
    with patch.object(module, "BLOCK_BYTES", block_bytes):
        (folder / f"in{suffix}").write_bytes(encoded(suffix, rows))
        assert same_bits(read(folder / f"in{suffix}"), rows)
        write(folder / f"out{suffix}", rows)
        assert same_bits(decoded(folder / f"out{suffix}"), rows)
        assert same_bits(read(folder / f"out{suffix}"), rows)
    assert not list(folder.glob("*.part"))


@pytest.mark.parametrize("suffix", WHOLE)
@settings(max_examples=20)
@given(data=st.data())
def test_integers_are_read_and_written_exactly(tmp_path_factory, suffix, data):
    rows = data.draw(whole_rows(suffix))
    path = tmp_path_factory.mktemp("f") / f"v{suffix}"
    path.write_bytes(encoded(suffix, rows))
    assert same_bits(read(path), rows)
    path.unlink()
    write(path, rows)
    assert path.read_bytes() == encoded(suffix, rows)


@pytest.mark.parametrize("suffix", HALF)
def test_float16_is_read_and_written_exactly(tmp_path, suffix):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    rows = every[np.isfinite(every)].astype(np.float32).reshape(-1, 8)
    path = tmp_path / f"v{suffix}"
    path.write_bytes(encoded(suffix, rows))
    assert same_bits(read(path), rows)
    path.unlink()
    write(path, rows)
    assert path.read_bytes() == encoded(suffix, rows)


@pytest.mark.parametrize("suffix", [*WHOLE, *HALF])
@pytest.mark.parametrize("value", [0.3, -0.0, 2.0**31, -129.5, 1e30, -1e30])
def test_a_number_that_the_format_cannot_hold_is_named_and_nothing_is_written(tmp_path, suffix, value):
    if suffix in HALF and value in (-0.0, -129.5):
        pytest.skip("float16 holds it")
    rows = ROWS.copy()
    rows[4, 2] = value
    with pytest.raises(InputError, match=f"row 4, value 2 is {re.escape(str(np.float32(value)))}: "):
        write(tmp_path / f"v{suffix}", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ALL)
def test_a_file_cut_anywhere_is_an_error_or_fewer_whole_rows(tmp_path, suffix):
    whole = encoded(suffix, ROWS)
    path = tmp_path / f"v{suffix}"
    step = max(len(whole) // 150, 1)
    for length in [*range(0, len(whole), step), len(whole) - 1]:
        path.write_bytes(whole[:length])
        if suffix.endswith("vecs") and length and length % (len(whole) // 7) == 0:
            assert same_bits(read(path), ROWS[: length * 7 // len(whole)])  # nothing in the file could tell
            continue
        with pytest.raises(InputError) as error:
            read(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npy", *WHOLE, *HALF, ".fvecs", ".fbin"])
def test_a_file_that_is_longer_than_its_header_says_is_an_error(tmp_path, suffix):
    (tmp_path / f"v{suffix}").write_bytes(encoded(suffix, ROWS) + b"\0")
    with pytest.raises(InputError, match=r"expected (a multiple of )?[\d,]+"):
        open_vectors(tmp_path / f"v{suffix}")


@pytest.mark.parametrize("suffix", ALL)
def test_a_flipped_bit_gives_an_error_or_rows_of_the_same_shape(tmp_path, suffix):
    whole = encoded(suffix, ROWS)
    path = tmp_path / f"v{suffix}"
    random = np.random.default_rng(len(whole))
    damaged = 0
    for bit in random.choice(len(whole) * 8, 150, replace=False).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(data)
        try:
            rows = read(path)
        except EngineError as error:
            assert "\n" not in str(error)
            damaged += 1
        else:
            assert rows.ndim == 2 and rows.dtype == np.float32 and np.isfinite(rows).all()
            assert suffix != ".npz" or same_bits(rows, ROWS)  # it has a checksum
    assert damaged


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("content", [b"", b"\0" * 3, b"\0" * 64, b"\xff" * 64, b"garbage " * 40])
def test_garbage_is_one_line(tmp_path, suffix, content):
    (tmp_path / f"v{suffix}").write_bytes(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / f"v{suffix}")
    assert str(tmp_path / f"v{suffix}") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ALL)
def test_what_is_no_regular_file_is_one_line(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    for name, says in ((f"folder{suffix}", "is a folder"), (f"absent{suffix}", "No such file")):
        with pytest.raises(InputError, match=says):
            open_vectors(tmp_path / name)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".parquet", ".hdf5"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(tmp_path, suffix, value):
    rows = ROWS.copy()
    rows[6, 3] = value
    (tmp_path / f"v{suffix}").write_bytes(encoded(suffix, rows))
    with (
        patch.object(module, "BLOCK_BYTES", 40),
        pytest.raises(InputError, match=f"row 6, value 3 is {value}: expected finite"),
    ):
        read(tmp_path / f"v{suffix}")


@pytest.mark.parametrize("suffix", ALL)
def test_an_interrupted_writer_leaves_no_file_and_keeps_the_old_one(tmp_path, suffix):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"old")

    def blocks() -> Any:
        yield ROWS[:3]
        raise KeyboardInterrupt

    asked = queries_for(ROWS) if suffix in (".hdf5", ".h5") else None
    with pytest.raises(KeyboardInterrupt):
        write_vectors(path, "layer", blocks(), photo_ids=np.arange(7), dim=5, queries=asked)
    assert path.read_bytes() == b"old" and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_suffixes_in_capitals_are_known_and_others_are_not(tmp_path):
    (tmp_path / "v.FVECS").write_bytes(encoded(".fvecs", ROWS))
    assert same_bits(read(tmp_path / "v.FVECS"), ROWS)
    for name, says in (("v.csv", "end in .csv are not known"), ("v", "without a suffix")):
        with pytest.raises(InputError, match=says):
            open_vectors(tmp_path / name)


def test_options_of_other_formats_are_refused(tmp_path):
    for suffix in (".npy", ".fbin", ".parquet"):
        with pytest.raises(InputError, match="--key k"):
            open_vectors(tmp_path / f"v{suffix}", key="k")
    with pytest.raises(InputError, match="--column c"):
        open_vectors(tmp_path / "v.npz", column="c")


def test_parquet_keeps_the_ids_and_hdf5_the_queries(tmp_path):
    write(tmp_path / "v.parquet", ROWS)
    assert pq.read_table(tmp_path / "v.parquet")["photo_id"].to_pylist() == list(range(5, 12))
    assert pq.ParquetFile(tmp_path / "v.parquet").schema_arrow.field("layer").type.list_size == 5
    write(tmp_path / "v.hdf5", ROWS)
    with h5py.File(tmp_path / "v.hdf5") as file:
        assert set(file) == {"train", "test", "neighbors", "distances"}
        assert dict(file.attrs) == {"type": "dense", "distance": "euclidean", "dimension": 5, "point_type": "float"}
        assert (file["neighbors"].dtype, file["distances"].dtype) == (np.int32, np.float32)
    with pytest.raises(InputError, match="needs queries"):
        write_vectors(tmp_path / "w.hdf5", "layer", [ROWS], photo_ids=np.arange(7), dim=5)


def test_two_exports_to_one_file_at_once_the_second_is_refused_and_the_first_is_whole(tmp_path):
    target = tmp_path / "x.bin"
    with aside(target) as part:
        part.write_bytes(b"first")
        with pytest.raises(EngineError, match="another mirsearch is writing this file"), aside(target):
            raise AssertionError("never here")
        assert part.read_bytes() == b"first"
    assert target.read_bytes() == b"first" and not part.exists()


def test_what_would_block_while_a_file_is_written_is_not_taken_for_another_writer(tmp_path):
    with pytest.raises(BlockingIOError, match="of the body"), aside(tmp_path / "x.bin"):
        raise BlockingIOError(11, "of the body")
    assert list(tmp_path.iterdir()) == []
