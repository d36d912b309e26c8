"""What documents of the usual form say, gathered field by field, and made the columns of the table.

Each field means what `flickr` makes of it; a row of which that is not certain is named, and left to that reader.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from engine.store.annotations import usual
from engine.store.annotations.columns import Mask, Texts, array_of, instants, lists, texts, unreadable, wholes
from engine.store.annotations.lists import comments, side_of
from engine.store.annotations.schema import schema
from engine.store.annotations.usual_exif import ExifColumns
from engine.store.annotations.usual_photo import PhotoColumns

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(kw_only=True)
class Columns:
    """Rows that grow by batches. unsure: rows that the tolerant reader is to read."""

    photo: PhotoColumns = field(default_factory=PhotoColumns)
    exif: ExifColumns = field(default_factory=ExifColumns)
    unsure: list[int] = field(default_factory=list)
    rows: int = 0
    machine: list[bool] = field(default_factory=list)
    tags: "_Lists" = field(default_factory=lambda: _Lists(("raw", "said")))
    notes: "_Lists" = field(default_factory=lambda: _Lists(("author", "authorname", "x", "y", "w", "h", "said")))
    comments: "_Lists" = field(default_factory=lambda: _Lists(("author", "authorname", "datecreate", "said")))
    albums: "_Lists" = field(default_factory=lambda: _Lists(("id", "title")))
    groups: "_Lists" = field(default_factory=lambda: _Lists(("id", "title")))

    def add(
        self, photos: Sequence[usual.Photo], exifs: Sequence[usual.ExifPhoto | None],
        contexts: Sequence[usual.Contexts], said: Sequence[usual.CommentList | None],
    ) -> None:  # fmt: skip
        """Add what documents say; a part that is missing is None, or one that says nothing."""
        self.photo.add(photos)
        self.exif.add(exifs)
        self.tags.add([one.tags and one.tags.tag for one in photos])
        self.machine += [tag.machine_tag == 1 for one in photos if one.tags for tag in one.tags.tag]
        self.notes.add([one.notes and one.notes.note for one in photos])
        self.albums.add([_places(one.set, one.pool) for one in contexts])
        self.groups.add([_places(one.pool, one.set) for one in contexts])
        self.comments.add([
            _comments(photo) if talk is None else talk.comment for photo, talk in zip(photos, said, strict=True)
        ])  # fmt: skip
        self.rows += len(photos)

    def table(self) -> "tuple[pa.Table, Mask]":
        """The rows (n,) as a table of the schema, and which of them are unsure."""
        import pyarrow as pa

        wanted = schema()
        unsure = np.zeros(self.rows, np.bool_)
        unsure[self.unsure] = True
        made = {"photo_id": pa.array(np.zeros(self.rows, np.int64))}
        made |= self.photo.columns(unsure) | self.exif.columns(unsure)
        made |= self._tags(unsure)
        for name, found in (("albums", self.albums), ("groups", self.groups)):
            inner = [found.needed("id", unsure), found.needed("title", unsure)]
            made[name] = lists(found.sizes, inner, wanted.field(name).type)
        talk = self.comments
        inner = [talk.needed("author", unsure), talk.text("authorname"), talk.made("datecreate", _instants, unsure),
                 talk.text("said")]  # fmt: skip
        made["comments"] = lists(talk.sizes, inner, wanted.field("comments").type)
        note = self.notes
        inner = [note.needed("author", unsure), note.text("authorname"),
                 *(note.made(side, _sides, unsure) for side in "xywh"), note.text("said")]  # fmt: skip
        made["notes"] = lists(note.sizes, inner, wanted.field("notes").type)
        made["annotated"] = pa.array(_any_said(list(made.values())[1:], self.rows))
        return pa.Table.from_arrays([made[name] for name in wanted.names], schema=wanted), unsure

    def _tags(self, unsure: Mask) -> dict[str, Any]:
        """Machine tags apart from the others."""
        import pyarrow as pa

        said, raw = self.tags.needed("said", unsure), self.tags.needed("raw", unsure)
        machine = np.array(self.machine, np.bool_)
        rows, kind = self.tags.row_of_each(), schema().field("tags").type
        none = np.asarray(self.tags.sizes) < 0
        sizes = [np.where(none, -1, np.bincount(rows[which], minlength=self.rows)) for which in (~machine, machine)]
        plain = pa.array(~machine)
        return {
            "tags": lists(sizes[0], said.filter(plain), kind), "tags_raw": lists(sizes[0], raw.filter(plain), kind),
            "machine_tags": lists(sizes[1], raw.filter(pa.array(machine)), kind),
        }  # fmt: skip


class _Lists:
    """Lists of objects as one list for each of their keys."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.values = {name: Texts() for name in names}
        self.sizes: list[int] = []

    def add(self, found: Sequence[Any]) -> None:
        """Add a list, or None, for each row."""
        self.sizes += [-1 if items is None else len(items) for items in found]
        flat = [item for items in found if items for item in items]
        for name, values in self.values.items():
            values.add(_EACH[name](flat))

    def row_of_each(self) -> npt.NDArray[np.int64]:
        """The row of each item."""
        sizes = np.maximum(np.asarray(self.sizes, np.int64), 0)
        return np.repeat(np.arange(len(sizes)), sizes)

    def text(self, name: str) -> "pa.Array[Any]":
        """The texts under a key."""
        return texts(self.values[name].all())[0]

    def needed(self, name: str, unsure: Mask) -> "pa.Array[Any]":
        """The same, of which each must say something."""
        made, nothing = texts(self.values[name].all())
        if nothing.any():
            unsure[self.row_of_each()[nothing]] = True
        return made

    def made(self, name: str, reader: Callable[[Any], Any], unsure: Mask) -> "pa.Array[Any]":
        """What a reader makes of the texts under a key; where it makes nothing of one, the row is not sure."""
        said = self.values[name].all()
        found: pa.Array[Any] = reader(said)
        bad = unreadable(said, found)
        if bad.any():
            unsure[self.row_of_each()[bad]] = True
        return found


# A comprehension of its own for each key: ten times as fast as getattr.
_EACH: dict[str, Callable[[list[Any]], list[Any]]] = {
    "raw": lambda items: [item.raw for item in items], "said": lambda items: [item.said for item in items],
    "author": lambda items: [item.author for item in items],
    "authorname": lambda items: [item.authorname for item in items],
    "datecreate": lambda items: [item.datecreate for item in items],
    "id": lambda items: [item.id for item in items], "title": lambda items: [item.title for item in items],
    "x": lambda items: [item.x for item in items], "y": lambda items: [item.y for item in items],
    "w": lambda items: [item.w for item in items], "h": lambda items: [item.h for item in items],
}  # fmt: skip


def _places(own: Any, other: Any) -> Any:
    """A list; empty where the answer has only the other one."""
    if own is not UNSET:
        return own
    return None if other is UNSET else ()


def _any_said(columns: Sequence[Any], rows: int) -> Mask:
    """Which rows have a value in any column."""
    said = np.zeros(rows, np.bool_)
    for column in columns:
        if column.null_count < rows:
            said |= column.is_valid().to_numpy(zero_copy_only=False)
    return said


def _comments(photo: usual.Photo) -> Any:
    """What flickr.photos.getInfo says of them: that there are none, or nothing."""
    return None if photo.comments is None else comments({"_content": photo.comments.said})


def _instants(values: Any) -> Any:
    import pyarrow as pa

    return array_of(instants(values), pa.int64()).cast(pa.timestamp("s", tz="UTC"))


def _sides(values: Any) -> Any:
    """Sides of boxes; nearly all are whole numbers."""
    import pyarrow as pa

    found, missing = wholes(values, 0, 999_999)
    sides = found.astype(np.float64)
    for row in np.flatnonzero(missing).tolist():
        side = side_of(values[row].as_py())
        sides[row], missing[row] = side or 0.0, side is None
    return array_of((sides, missing), pa.float32())
