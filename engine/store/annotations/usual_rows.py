"""Rows of the table from documents of the usual form: decoded to types, gathered and converted column by column.

They are the rows that the tolerant reader would give, at a fifth of its cost. Where that is not certain, a document is
left to it: those of another form at once, those with a value that says nothing where one must when that is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from engine.store.annotations import usual
from engine.store.annotations.usual_columns import Columns

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST = 1 << 20  # bytes of a document that is held beside others
_BATCH = 32  # documents that are held decoded: as many as the processor's cache takes
_NOWHERE = usual.Contexts()


@dataclass(kw_only=True)
class UsualRows:
    """Rows of documents. at: (rows,) int64, their places among the documents. others: places of those that are left.

    failed: documents that hold nothing but a failure of the API. not_understood: others in which no field was found.
    """

    table: "pa.Table"
    at: npt.NDArray[np.int64]
    others: list[int]
    failed: int
    not_understood: int


@dataclass(kw_only=True)
class _Reading:
    decoders: list[Any] = field(default_factory=usual.decoders)
    columns: Columns = field(default_factory=Columns)
    at: list[int] = field(default_factory=list)
    others: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    nothing: list[int] = field(default_factory=list)


def read_usual(documents: Sequence[bytes]) -> UsualRows:
    """The rows (m,) of those documents that are of the usual form; their photo ids are 0."""
    reading = _Reading()
    for start in range(0, len(documents), _BATCH):
        _batch(reading, documents[start : start + _BATCH], start)
    at = np.array(reading.at, np.int64)
    table, unsure = reading.columns.table()
    left = set(at[unsure].tolist())
    if left:
        table, at = table.filter(~unsure), at[~unsure]
    return UsualRows(
        table=table, at=at, others=sorted([*reading.others, *left]), failed=len(set(reading.failed) - left),
        not_understood=len(set(reading.nothing) - left),
    )  # fmt: skip


def _batch(reading: _Reading, documents: Sequence[bytes], start: int) -> None:
    found: list[usual.Document] = []
    for number, data in enumerate(documents, start):
        document = _decoded(reading, data)
        if document is None:
            reading.others.append(number)
        else:
            reading.at.append(number)
            found.append(document)
    if not found:
        return
    photos = [i.photo or usual.NOBODY if (i := one.info) and i.stat != "fail" else usual.NOBODY for one in found]
    exifs = [e.photo if (e := one.exif) and e.stat != "fail" else None for one in found]
    contexts = [c if (c := one.contexts) and c.stat != "fail" else _NOWHERE for one in found]
    said = [t.comments if (t := one.comments) and t.stat != "fail" else None for one in found]
    for number, (photo, exif, context, talk) in enumerate(zip(photos, exifs, contexts, said, strict=True)):
        if photo is usual.NOBODY and exif is None and talk is None and context.set is UNSET is context.pool:
            _nothing(reading, found[number], len(reading.at) - len(found) + number)
    reading.columns.add(photos, exifs, contexts, said)


def _decoded(reading: _Reading, data: bytes) -> usual.Document | None:
    """A document of the usual form; None for another."""
    if len(data) > _LONGEST:
        return None
    try:
        # What msgspec passes over it does not look at for UTF-8.
        whole = data if data.isascii() else data.decode()
        if rb"\u0000" in data:  # which parts the texts of a column here
            return None
    except UnicodeDecodeError:
        return None
    for place, decode in enumerate(reading.decoders):
        try:
            found: usual.Document = decode(whole)
        except msgspec.MsgspecError:
            continue
        if place:  # the next one will be nested as this is
            reading.decoders.insert(0, reading.decoders.pop(place))
        return found
    return None


def _nothing(reading: _Reading, document: usual.Document, row: int) -> None:
    """Count a document that has no field; `row`: among those that were decoded."""
    answers = [one for one in (document.info, document.exif, document.contexts, document.comments) if one]
    failed = any(one.stat == "fail" for one in answers)
    (reading.failed if failed else reading.nothing).append(reading.at[row])
    if any(not one.stat for one in answers):  # to the tolerant reader an empty object may be an empty list
        reading.columns.unsure.append(row)
