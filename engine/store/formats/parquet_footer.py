"""How many numbers each row group of a Parquet file says it holds, without the library.

A few hundred bytes can stand for gigabytes of equal numbers, and a reader takes the memory before anyone can look. The
footer says how many there are; but pyarrow 26 ends the process when it is asked for a column whose metadata is damaged.
So the footer is read here: Thrift's compact protocol (github.com/apache/thrift, doc/specs/thrift-compact-protocol.md)
and the field numbers of parquet.thrift (github.com/apache/parquet-format).
"""

import os
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.store.formats.vectors import file_errors

_FOOTER_AT_MOST = 64 << 20
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEEPEST = 16
# FileMetaData.row_groups; RowGroup.columns, num_rows; ColumnChunk.meta_data; ColumnMetaData.path_in_schema, num_values.
_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _META_DATA, _PATH, _NUM_VALUES = 4, 1, 3, 3, 3, 5


def group_sizes(path: Path, column: str) -> list[tuple[int, int]]:
    """(rows, numbers in the column) of each row group; InputError for a footer that is damaged."""
    with file_errors(path, "a Parquet file", IndexError, ValueError, KeyError, TypeError, AttributeError):
        footer = _Compact(_footer(path)).struct(0)
        sizes = []
        for group in footer.get(_ROW_GROUPS, []):
            metas = [chunk[_META_DATA] for chunk in group[_COLUMNS]]
            numbers = [meta[_NUM_VALUES] for meta in metas if meta[_PATH][0] == column.encode()]
            if len(numbers) != 1:
                raise ValueError(f"{len(numbers)} columns {column} in a row group")
            sizes.append((int(group[_NUM_ROWS]), int(numbers[0])))
        return sizes


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(size - 8, 0))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length > size - 12:
            raise InputError(f"{path}: does not end as a Parquet file does. It is cut short, or of another kind.")
        if length > _FOOTER_AT_MOST:
            raise InputError(f"{path}: a footer of {length:,} bytes, expected at most {_FOOTER_AT_MOST:,}")
        file.seek(size - 8 - length)
        return file.read(length)


class _Compact:
    """A reader of Thrift's compact protocol: structs as dictionaries by field number. Damage is an IndexError or so."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("too deep")
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind in (_BYTE, _TRUE, _FALSE):  # the elements of a list of truths take a byte each
            return self._byte()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._number()
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind not in (_BINARY, _DOUBLE):
            raise ValueError(f"type {kind}")
        length = 8 if kind == _DOUBLE else self._number()
        if length > len(self._data) - self._at:
            raise ValueError("cut short")
        self._at += length
        return self._data[self._at - length : self._at]

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _number(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
        return number | byte << shift

    def _signed(self) -> int:
        number = self._number()
        return number >> 1 ^ -(number & 1)
