"""Columns of lists: fixed or not, their nulls, lengths and types."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.store.formats.parquet import open_parquet, read_parquet_ids

ROWS = [[1.0, -0.0, 3.5], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [1e-45, 0.25, -1.0]]


def write(path: Any, **columns: Any) -> Any:
    pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


def rows_of(vectors: Any) -> Any:
    return np.concatenate([block.copy() for block in vectors.blocks()])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float32()), pa.list_(pa.float64())]
)
def test_lists_of_every_kind_are_read(tmp_path, kind):
    path = write(tmp_path / "v.parquet", name=pa.array(list("abcd")), v=pa.array(ROWS, kind))
    lossy = kind.value_type == pa.float64()
    vectors = open_parquet(path)
    assert (vectors.rows, vectors.dim) == (4, 3)
    found = np.concatenate([block.copy() for block in vectors.blocks(lossy=lossy)])
    assert found.tobytes() == np.array(ROWS, np.float32).tobytes()


@pytest.mark.parametrize("kind", [pa.float16(), pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.bool_()])
def test_numbers_of_every_kind_are_read(tmp_path, kind):
    dtype = np.dtype(kind.to_pandas_dtype())
    values = np.array([[0, 1, 1], [1, 1, 0]], dtype)
    path = write(tmp_path / "v.parquet", v=pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind), 3))
    assert open_parquet(path).dtype == dtype
    assert (rows_of(open_parquet(path)) == values).all()


def test_a_column_is_chosen_where_there_are_several(tmp_path):
    kind = pa.list_(pa.float32())
    path = write(tmp_path / "v.parquet", a=pa.array(ROWS, kind), b=pa.array(ROWS[::-1], kind), n=pa.array(range(4)))
    assert rows_of(open_parquet(path, "b")).tobytes() == np.array(ROWS[::-1], np.float32).tobytes()
    with pytest.raises(InputError, match=r"2 columns of lists of numbers \(a, b\). Choose one with --column"):
        open_parquet(path)
    with pytest.raises(InputError, match="column 'n': a column of int64, expected one of lists"):
        open_parquet(path, "n")
    with pytest.raises(InputError, match="column 'c': 0 columns of this name"):
        open_parquet(path, "c")


@pytest.mark.parametrize("values", [pa.array(list("ab")), pa.array([["x"], ["y"]]), pa.array([1.0, 2.0])])
def test_a_file_without_vectors_is_an_error(tmp_path, values):
    with pytest.raises(InputError, match=r"no column of lists of numbers, .* Its columns: v \("):
        open_parquet(write(tmp_path / "v.parquet", v=values))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (None, "row 3 is null"),
        ([1.0, None, 3.0], "row 3 holds a null"),
        ([1.0, 2.0], "row 3 has 2 numbers, expected 3"),
        ([1.0] * 4, "row 3 has 4 numbers, expected 3"),
        ([], "row 3 has 0 numbers, expected 3"),
        ([1.0, float("nan"), 2.0], "row 3, value 1 is nan"),
    ],
)
def test_a_row_that_is_none_is_named(tmp_path, row, says):
    path = write(tmp_path / "v.parquet", v=pa.array([*ROWS[:3], row], pa.list_(pa.float32())))
    with pytest.raises(InputError, match=says):
        rows_of(open_parquet(path))


@pytest.mark.parametrize("row", [None, [1.0, None, 3.0]])
def test_a_null_among_rows_of_fixed_size_is_named(tmp_path, row):
    path = write(tmp_path / "v.parquet", v=pa.array([*ROWS[:3], row], pa.list_(pa.float32(), 3)))
    with pytest.raises(InputError, match=r"v\.parquet.*(row 3|null)"):
        rows_of(open_parquet(path))


def test_no_rows_are_an_error(tmp_path):
    for kind in (pa.list_(pa.float32()), pa.list_(pa.float32(), 3)):
        with pytest.raises(InputError, match=r"0 vectors|0 dimensions"):
            open_parquet(write(tmp_path / "v.parquet", v=pa.array([], kind)))


def test_ids_are_read_and_checked(tmp_path):
    def read(values: Any) -> Any:
        return read_parquet_ids(write(tmp_path / "v.parquet", id=values), "id")

    assert read(pa.array([5, 2, 2**62], pa.int64())).tolist() == [5, 2, 2**62]
    assert read(pa.array([5, 2], pa.uint8())).dtype == np.int64
    for values, says in (
        (pa.array([1, None, 3]), "row 1 is null"),
        (pa.array([1, 2**63], pa.uint64()), "9223372036854775808 is no photo id"),
        (pa.array([1.0, 2.0]), "double, expected integers"),
    ):
        with pytest.raises(InputError, match=says):
            read(values)
    with pytest.raises(InputError, match="no such column"):
        read_parquet_ids(tmp_path / "v.parquet", "other")


@pytest.mark.parametrize(
    ("first", "says"),
    [(None, "column v: row 0 is null, expected a list of numbers"), ([], "column v: row 0 is an empty list, expected")],
)
def test_a_first_row_without_a_vector_is_named(tmp_path, first, says):
    path = write(tmp_path / "v.parquet", v=pa.array([first, *ROWS], pa.list_(pa.float32())))
    with pytest.raises(InputError, match=says):
        open_parquet(path)
