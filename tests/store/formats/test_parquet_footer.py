"""The footer as pyarrow tells it, and footers that lie or are damaged."""

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.store.formats.parquet import open_parquet
from engine.store.formats.parquet_footer import group_sizes


def write(path: Any, rows: int = 1000, group: int = 64) -> Any:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 3, dtype="f4")), 3)
    table = pa.table({"a": [b"x"] * rows, "v": lists, "n": pa.nulls(rows), "s": [{"v": True}] * rows})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize(("rows", "group"), [(1000, 64), (5, 5), (3000, 1)])
def test_it_says_what_pyarrow_says(tmp_path, rows, group):
    path = write(tmp_path / "v.parquet", rows, group)
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    assert group_sizes(path, "v") == [(g.num_rows, g.column(1).num_values) for g in groups]
    assert group_sizes(path, "a") == [(g.num_rows, g.column(0).num_values) for g in groups]


def test_no_rows_have_no_groups(tmp_path):
    assert sum(rows for rows, _ in group_sizes(write(tmp_path / "v.parquet", 0), "v")) == 0


def test_an_unknown_column_is_an_error(tmp_path):
    with pytest.raises(InputError, match="0 columns b"):
        group_sizes(write(tmp_path / "v.parquet"), "b")


def test_every_byte_of_a_footer_may_be_damaged(tmp_path):
    path = write(tmp_path / "v.parquet", 20, 10)
    whole = path.read_bytes()
    (length,) = struct.unpack("<I", whole[-8:-4])
    for at in range(len(whole) - 8 - length, len(whole)):
        for value in (0x1C, whole[at] ^ 1):
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            try:
                sizes = group_sizes(path, "v")
            except InputError as error:
                assert "\n" not in str(error)
            else:
                assert all(isinstance(number, int) for size in sizes for number in size)


@pytest.mark.parametrize("footer", [b"", b"\x29" * 5000, b"\x19\xfc" + b"\xff" * 9 + b"\x01", b"\x19" * 5000])
def test_a_hostile_footer_is_an_error(tmp_path, footer):
    path = tmp_path / "v.parquet"
    path.write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1")
    with pytest.raises(InputError):
        group_sizes(path, "v")
    path.write_bytes(b"PAR1" + footer + struct.pack("<I", len(footer) + 1) + b"PAR1")
    with pytest.raises(InputError, match="does not end as a Parquet file"):
        group_sizes(path, "v")


def test_a_small_file_of_many_equal_numbers_takes_no_memory(tmp_path):
    many = 1 << 22
    lists = pa.ListArray.from_arrays(pa.array([0, 3, many], pa.int32()), pa.array(np.zeros(many, "f4")))
    pq.write_table(pa.table({"v": lists}), tmp_path / "v.parquet")
    assert (tmp_path / "v.parquet").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"row group 0 holds 4,194,304 numbers in 2 rows, expected at most"):
        open_parquet(tmp_path / "v.parquet")
