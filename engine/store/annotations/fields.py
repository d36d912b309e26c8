"""What `--columns` adds to an answer: annotations of the photos in it, and the classes that the network saw."""

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.annotations.attribution import COLUMNS, Attribution, one_line
from engine.store.annotations.schema import schema
from engine.store.annotations.table import Annotations
from engine.store.class_names import Guess, classes_of, has_classes
from engine.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

CLASSES, ATTRIBUTION = "classes", "attribution"


@dataclass(frozen=True, kw_only=True)
class PhotoFields:
    """Columns of annotations, `classes` or `attribution`, in the order in which they are shown."""

    store: Store
    names: tuple[str, ...]
    annotations: Annotations | None

    @classmethod
    def open(cls, store: Store, names: Sequence[str]) -> Self:
        """For these names in any case; `photo_id` is in every answer, and adds nothing.

        InputError for one that there is not, or where there are no annotations to take it from.
        """
        known = [*schema().names, CLASSES, ATTRIBUTION]
        for name in names:
            if name.lower() not in known:
                raise InputError(f"column {name!r}: expected of {', '.join(known)}")
        names = tuple(dict.fromkeys(name.lower() for name in names if name.lower() != "photo_id"))
        if CLASSES in names and not has_classes(store):
            raise InputError(f"column {CLASSES!r}: {store.path} has no layer fc8 of 1,000 dimensions to take it from")
        needed = any(name != CLASSES for name in names)
        return cls(store=store, names=names, annotations=Annotations.open(store) if needed else None)

    def of(self, photo_ids: npt.ArrayLike) -> dict[int, dict[str, Any]]:
        """What is known of photos (m,) of the store, by id: JSON's own types, a value (or None) for each name."""
        return {
            photo_id: {name: plain_value(value) for name, value in row.items()}
            for photo_id, row in self._values(photo_ids).items()
        }

    def columns(self, photo_ids: npt.NDArray[np.int64]) -> "dict[str, pa.Array[Any]]":
        """What is known of photos (m,), in their order, as Arrow columns of the types of `arrow_fields`."""
        import pyarrow as pa

        rows = self._values(photo_ids)
        made = {}
        for field in self.arrow_fields():
            values = [rows[photo_id][field.name] for photo_id in photo_ids.tolist()]
            if pa.types.is_map(field.type):
                values = [None if value is None else list(value.items()) for value in values]
            made[field.name] = pa.array(values, field.type)
        return made

    def _values(self, photo_ids: npt.ArrayLike) -> dict[int, dict[str, Any]]:
        """A value, with times as datetimes, for each name of each photo."""
        ids = np.unique(np.asarray(photo_ids, np.int64))
        if not len(ids):
            return {}
        rows = self.store.rows_of(ids)
        found: list[dict[str, Any]] = [{} for _ in ids]
        if self.annotations is not None:
            plain = [name for name in self.names if name not in (CLASSES, ATTRIBUTION)]
            needed = [*plain, *(name for name in COLUMNS if ATTRIBUTION in self.names and name not in plain)]
            found = self.annotations.of_rows(rows, needed)
        if CLASSES in self.names:
            for row, guesses in zip(found, classes_of(self.store, rows), strict=True):
                row[CLASSES] = described(guesses)
        if ATTRIBUTION in self.names:
            for row in found:
                row[ATTRIBUTION] = Attribution.of_row(row).text or None
        return {
            photo_id: {name: row[name] for name in self.names}
            for photo_id, row in zip(ids.tolist(), found, strict=True)
        }

    def arrow_fields(self) -> "list[pa.Field[Any]]":
        """The fields as Parquet has them: the types of the annotations; classes with name and probability."""
        import pyarrow as pa

        one = pa.struct([("name", pa.string()), ("wordnet_id", pa.string()), ("probability", pa.float64())])
        own = {CLASSES: pa.field(CLASSES, pa.list_(one)), ATTRIBUTION: pa.field(ATTRIBUTION, pa.string())}
        return [own[name] if name in own else schema().field(name) for name in self.names]


def described(guesses: Sequence[Guess]) -> list[dict[str, Any]]:
    """Classes as JSON has them."""
    return [
        {"name": one.image_class.name, "wordnet_id": one.image_class.wordnet_id, "probability": one.probability}
        for one in guesses
    ]


def plain_value(value: Any) -> Any:
    """A value of an annotation in JSON's own types: times in ISO 8601, no number that JSON does not have."""
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: plain_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain_value(inner) for inner in value]
    return value


def shown_value(value: Any, most: int = 0) -> str:
    """A value as a person reads it, in one line; cut to `most` characters unless that is 0. "" for None."""
    if value is None:
        text = ""
    elif isinstance(value, list):
        text = ", ".join(_shown_item(item) for item in value)
    elif isinstance(value, dict):
        text = ", ".join(f"{name}: {shown_value(inner)}" for name, inner in value.items())
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    else:
        text = f"{value:.6g}" if isinstance(value, float) else one_line(str(value))
    return text[: most - 1] + "…" if most and len(text) > most else text


def _shown_item(item: Any) -> str:
    """A class with its probability, an album or group by its title, a comment or note by author and text."""
    if not isinstance(item, dict):
        return shown_value(item)
    if "probability" in item:
        return f"{item['name']} {item['probability']:.1%}"
    if "title" in item:
        return shown_value(item["title"] or item["id"])
    author = item.get("author_name") or item.get("author")
    return ": ".join(shown_value(part) for part in (author, item.get("text")) if part)
