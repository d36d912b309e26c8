"""From parts in any order to the one table in the order of the store, some thousand rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.progress import Progress
from engine.store.annotations.reading import Part, part_table
from engine.store.annotations.rows import table_of
from engine.store.annotations.schema import schema
from engine.store.annotations.table import GROUP_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 128 << 20  # of files whose rows are held at once


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Which row of which part belongs to which row of the store.

    row: (m,) int64, ascending, rows of the store; several entries where several files are of one photo, the first of
    the sources first. part: (m,) int32, position in `parts`; at: (m,) int64, row within the part. said: (m,) bool,
    whether the file says anything. repeated: files beyond the first of a photo. without_features: photos not in the
    store.
    """

    parts: Sequence[Part]
    row: npt.NDArray[np.int64]
    part: npt.NDArray[np.int32]
    at: npt.NDArray[np.int64]
    said: npt.NDArray[np.bool_]
    repeated: int
    without_features: int

    @property
    def annotated(self) -> npt.NDArray[np.int64]:
        """Rows of the store (k,), ascending, of which any file says anything."""
        return np.unique(self.row[self.said])


def assign(parts: Sequence[Part], photo_ids: npt.NDArray[np.int64]) -> Assignment:
    """Find the store's row of every file; photo_ids: (n,) of the store."""
    parts = sorted(parts, key=lambda part: part.number)
    none = np.empty(0, np.int64)
    ids = np.concatenate([none, *(part.photo_ids for part in parts)])
    said = np.concatenate([np.empty(0, np.bool_), *(part.said for part in parts)])
    sizes = [len(part.photo_ids) for part in parts]
    part = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    at = np.concatenate([none, *(np.arange(size) for size in sizes)])
    order = np.argsort(photo_ids, kind="stable")
    place = np.minimum(np.searchsorted(photo_ids, ids, sorter=order), max(len(photo_ids) - 1, 0))
    known = photo_ids[order[place]] == ids if len(photo_ids) else np.zeros(len(ids), np.bool_)
    row = order[place[known]]
    by_row = np.argsort(row, kind="stable")
    return Assignment(
        parts=parts, row=row[by_row], part=part[known][by_row], at=at[known][by_row], said=said[known][by_row],
        repeated=len(row) - len(np.unique(row)), without_features=len(np.unique(ids[~known])),
    )  # fmt: skip


def assembled(
    found: Assignment, folder: Path, photo_ids: npt.NDArray[np.int64], progress: Progress
) -> "Iterator[pa.Table]":
    """The rows of the table, block by block."""
    n, start = len(photo_ids), 0
    # A file's share of its part stands for its size: a block of long ones has fewer rows.
    each = np.array([part.bytes_read // max(part.files, 1) for part in found.parts], np.int64)
    sizes = np.cumsum(np.append(0, each[found.part]))
    while start < n:
        stop = min(start + GROUP_ROWS, n)
        first, last = np.searchsorted(found.row, [start, stop])
        if sizes[last] - sizes[first] > BLOCK_BYTES:
            full = int(np.searchsorted(sizes, sizes[first] + BLOCK_BYTES))
            stop = max(int(found.row[min(full, last - 1)]), start + 1)
            last = np.searchsorted(found.row, stop)
        yield _block(found, folder, photo_ids[start:stop], slice(int(first), int(last)), start)
        start = stop
        progress("write table", stop, n, unit="rows")


def _block(found: Assignment, folder: Path, photo_ids: npt.NDArray[np.int64], entries: slice, start: int) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, part, at = found.row[entries] - start, found.part[entries], found.at[entries]
    # Gathered part by part: each is unpacked once for a block.
    tables = [schema().empty_table()]
    places = list[npt.NDArray[np.int64]]()
    for number in np.unique(part).tolist():
        mine = np.flatnonzero(part == number)
        tables.append(_taken(part_table(folder, found.parts[number].file), at[mine]))
        places.append(mine)
    gathered = pa.concat_tables(tables)
    where = np.empty(len(rows), np.int64)  # entry → row of `gathered`
    if places:
        where[np.concatenate(places)] = np.arange(len(rows))
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    gathered, where = _merged(gathered, where, firsts, rows)
    index = np.full(len(photo_ids), -1, np.int64)
    index[rows[firsts]] = where[firsts]
    table = _taken(gathered, index)
    table = table.set_column(0, schema().field(0), pa.array(photo_ids))
    said: Any = pc.fill_null(table.column(1), pa.scalar(False))
    return table.set_column(1, schema().field(1), said)


def _taken(table: "pa.Table", index: npt.NDArray[np.int64]) -> "pa.Table":
    """Rows of a table, all null where the index is below 0; a stretch of rows, as is usual, is not copied."""
    import pyarrow as pa

    if len(index) and index[0] >= 0 and (np.diff(index) == 1).all():
        return table.slice(int(index[0]), len(index))
    taken: Any = pa.array(index, mask=index < 0)
    return table.combine_chunks().take(taken)


def _merged(
    gathered: "pa.Table", where: npt.NDArray[np.int64], firsts: npt.NDArray[np.intp], rows: npt.NDArray[np.int64]
) -> "tuple[pa.Table, npt.NDArray[np.int64]]":
    """Photos of which there are several files get one row of them all, at the end of the table."""
    import pyarrow as pa

    ends = np.append(firsts[1:], len(rows))
    several = np.flatnonzero(ends - firsts > 1)
    if not len(several):
        return gathered, where
    where = where.copy()
    new: list[dict[str, Any]] = []
    for number in several.tolist():
        entries = where[firsts[number] : ends[number]]
        new.append(_one_of(gathered.take(entries).to_pylist()))
        where[firsts[number]] = len(gathered) + len(new) - 1
    more = table_of([one["photo_id"] for one in new], new)
    return pa.concat_tables([gathered, more]).combine_chunks(), where


def _one_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Field by field what the first file says that says anything; a list of something before an empty one."""
    one: dict[str, Any] = {}
    for row in found:
        for name, value in row.items():
            if value is not None and (name not in one or (value and one[name] == [])):
                one[name] = value
    if "exif" in one:
        one["exif"] = dict(one["exif"])
    return one
