"""Parquet: vectors as a column of lists, of fixed size or not (parquet.apache.org; read and written by pyarrow).

Read by batches of 16 MiB, page by page, after the footer was asked how much there is (`parquet_footer`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.parquet_footer import group_sizes
from engine.store.formats.vectors import MAX_DIM, Vectors, block_rows, file_errors, file_size, first_line
from engine.words import counted

PHOTO_ID = "photo_id"
_FEW = 1 << 20
_LEAVE_OUT = "Leave rows without a vector out of the file."


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file for reading, page by page; InputError for what the library finds wrong with it, at any time."""
    import pyarrow.parquet as pq

    file_size(path)
    with (
        file_errors(path, "a Parquet file", Exception),
        pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        yield file


def open_parquet(path: Path, column: str | None = None) -> Vectors:
    """The vectors of a column of lists of numbers; column: its name where there are several such columns."""
    with _opened(path) as file:
        field = _vector_field(path, file.schema_arrow, column)
        rows = file.metadata.num_rows
        dim = getattr(field.type, "list_size", None)
        if dim is None:
            _check_sizes(path, field.name, MAX_DIM)
            first = next(file.iter_batches(1, columns=[field.name]), None) if rows else None
            dim = _first_length(f"{path}, column {field.name}", first.column(0)) if first is not None else 0
        _check_sizes(path, field.name, dim)
        dtype = np.dtype(field.type.value_type.to_pandas_dtype())
    name = field.name

    def read() -> Iterator[npt.NDArray[Any]]:
        first = 0
        with _opened(path) as file:
            for batch in file.iter_batches(block_rows(dim, dtype.itemsize), columns=[name]):
                yield _rows(f"{path}, column {name}", batch.column(0), first, dim)
                first += batch.num_rows

    return Vectors(path=path, rows=rows, dim=dim, dtype=dtype, read=read)


def _first_length(where: str, lists: Any) -> int:
    """How many numbers the first list holds; the others must hold as many."""
    if not lists[0].is_valid:
        raise InputError(f"{where}: row 0 is null, expected a list of numbers. {_LEAVE_OUT}")
    if not len(lists[0]):
        raise InputError(f"{where}: row 0 is an empty list, expected numbers. {_LEAVE_OUT}")
    return len(lists[0])


def _vector_field(path: Path, schema: Any, column: str | None) -> Any:
    """The field of the column of vectors that is meant, or the only one there is."""
    import pyarrow.types as kinds

    def is_vector(field: Any) -> bool:
        kind = field.type
        lists = kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)
        return lists and (
            kinds.is_floating(kind.value_type) or kinds.is_integer(kind.value_type) or kinds.is_boolean(kind.value_type)
        )

    named = [field for field in schema if field.name == column]
    if column is not None and (len(named) != 1 or not is_vector(named[0])):
        found = f"a column of {named[0].type}" if len(named) == 1 else f"{len(named)} columns of this name"
        raise InputError(f"{path}, column {column!r}: {found}, expected one of lists of numbers")
    vectors = named or [field for field in schema if is_vector(field)]
    if not vectors:
        found = ", ".join(f"{field.name} ({first_line(field.type)})" for field in list(schema)[:8]) or "none"
        raise InputError(f"{path}: no column of lists of numbers, which vectors are. Its columns: {found}.")
    if len(vectors) != 1:
        names = ", ".join(field.name for field in vectors[:8])
        raise InputError(f"{path}: {len(vectors)} columns of lists of numbers ({names}). Choose one with --column.")
    return vectors[0]


def _check_sizes(path: Path, column: str, dim: int) -> None:
    """InputError for a row group with far more numbers than its rows should have: it would take memory for them.

    Rows that are a little too long are left to `_rows`, which names them.
    """
    for group, (rows, numbers) in enumerate(group_sizes(path, column)):
        if numbers > max(2 * rows * dim, _FEW):
            raise InputError(
                f"{path}, column {column}: row group {group} holds {numbers:,} numbers in {rows:,} rows, expected at "
                f"most {dim:,} in each"
            )


def _rows(where: str, lists: Any, first: int, dim: int) -> npt.NDArray[Any]:
    """The rows (r, dim) of an Arrow array of lists; InputError names the first that is absent or of other length."""
    if lists.null_count:
        row = int(np.argmax(lists.is_null().to_numpy(zero_copy_only=False)))
        raise InputError(f"{where}: row {first + row:,} is null, expected {counted(dim, 'number')}. {_LEAVE_OUT}")
    if not hasattr(lists.type, "list_size"):
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != dim)
        if len(other):
            raise InputError(
                f"{where}: row {first + int(other[0]):,} has {counted(int(lengths[other[0]]), 'number')}, expected "
                f"{dim:,} as row 0 has"
            )
    values = lists.flatten()
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False))) // dim
        raise InputError(f"{where}: row {first + row:,} holds a null, expected {counted(dim, 'number')}. {_LEAVE_OUT}")
    if len(values) != len(lists) * dim:
        raise InputError(f"{where}: {len(values):,} numbers in {len(lists):,} rows, expected {dim:,} in each")
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return array.reshape(len(lists), dim)


def read_parquet_ids(path: Path, column: str) -> npt.NDArray[np.int64]:
    """A column of integers as (n,) int64; InputError for nulls, other types, and numbers that are no photo ids."""
    with _opened(path) as file:
        import pyarrow.types as kinds

        named = [field for field in file.schema_arrow if field.name == column]
        if len(named) != 1 or not kinds.is_integer(named[0].type):
            found = named[0].type if named else "no such column"
            raise InputError(f"{path}, column {column!r}: {found}, expected integers")
        parts = [np.empty(0, np.int64)]
        for batch in file.iter_batches(1 << 20, columns=[column]):
            values = batch.column(0)
            if values.null_count:
                row = sum(map(len, parts)) + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
                raise InputError(f"{path}, column {column}: row {row:,} is null, expected a photo id")
            numbers = values.to_numpy(zero_copy_only=False)
            if len(numbers) and int(numbers.max()) >= 1 << 63:
                raise InputError(f"{path}, column {column}: {numbers.max()} is no photo id, expected less than 2**63")
            parts.append(numbers.astype(np.int64))
    return np.concatenate(parts)


def write_parquet(
    part: Path, name: str, dim: int, blocks: Iterable[npt.NDArray[np.float32]], photo_ids: npt.NDArray[np.int64]
) -> None:
    """Write `photo_id` int64 and float32 blocks (r, dim) as a fixed-size list column `name`, a row group a block."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind: Any = pa.list_(pa.field("element", pa.float32(), nullable=False), dim)
    schema = pa.schema(
        [pa.field(PHOTO_ID, pa.int64(), nullable=False), pa.field(name, kind, nullable=False)],
    )
    # No dictionary, no statistics: of features they are as large as the numbers, and know no −0.0.
    options: Any = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(part, schema, compression="zstd", **options) as file:
        first = 0
        for block in blocks:
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1), pa.float32()), type=kind)
            ids = pa.array(photo_ids[first : first + len(block)])
            file.write_table(pa.Table.from_arrays([ids, lists], schema=schema), row_group_size=len(block))
            first += len(block)
