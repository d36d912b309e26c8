"""What flickr.photos.getExif says in the usual form, as columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Self

import numpy as np

from engine.store.annotations import usual
from engine.store.annotations.columns import Mask, Texts, array_of, clocks, lists, looked_up, parts_of, texts
from engine.store.annotations.exif import FIELDS, READERS, SOURCES, by_label, meanings
from engine.store.annotations.schema import schema
from engine.store.annotations.values import text

_KEPT = 4096  # forms of which it is remembered what stands where


class ExifColumns:
    """Entries and what is read from them, growing by batches."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.labels, self.raw = Texts(), Texts()
        self.picked = {name: Texts() for name in FIELDS}
        self.unsure: list[int] = []
        self._forms: dict[tuple[str, ...], _Form] = {}

    def add(self, parts: Sequence[usual.ExifPhoto | None]) -> None:
        """Add what answers say."""
        all_labels: list[str] = []
        all_raw: list[str] = []
        all_picked: list[tuple[str, ...]] = []
        for part in parts:
            self.sizes.append(-1)
            if part is None:
                all_picked.append(_NONE)
                continue
            labels = [entry.label for entry in part.exif]
            raw = [entry.raw.said for entry in part.exif]
            names = (*labels, *[entry.tag for entry in part.exif])
            form = self._forms.get(names) or self._new_form(names)
            pick = form.pick_named if part.camera else form.pick
            all_picked.append(pick([*raw, "", part.camera]))
            if not form.sure or (form.repeats and any("&" in one for one in raw)):
                self.unsure.append(len(self.sizes) - 1)
            if form.repeats:
                full = by_label(zip(names[len(labels) :], labels, raw, strict=True))
                labels, raw = list(full), list(full.values())
            self.sizes[-1] = len(labels)
            all_labels += labels
            all_raw += raw
        self.labels.add(all_labels)
        self.raw.add(all_raw)
        for column, values in zip(self.picked.values(), zip(*all_picked, strict=True), strict=True):
            column.add(values)

    def _new_form(self, names: tuple[str, ...]) -> "_Form":
        if len(self._forms) >= _KEPT:
            self._forms.clear()
        found = self._forms[names] = _Form.of(names)
        return found

    def columns(self, unsure: Mask) -> dict[str, Any]:
        """Columns by name; rows that the tolerant reader is to read are marked."""
        import pyarrow as pa

        wanted = schema()
        unsure[self.unsure] = True
        raw, nothing = texts(self.raw.all())
        if nothing.any():
            sizes = np.maximum(np.array(self.sizes), 0)
            unsure[np.repeat(np.arange(len(sizes)), sizes)[nothing]] = True
        made = {"exif": lists(self.sizes, (self.labels.all(), raw), wanted.field("exif").type)}
        for name, column in self.picked.items():
            kind, values = wanted.field(name).type, column.all()
            if name == "exif_taken":
                found = clocks(values)
                made[name], missing = array_of(found, pa.int64()).cast(kind), found[1]
            else:
                made[name] = looked_up(values, _reader(name), kind)
                missing = made[name].is_null().to_numpy(zero_copy_only=False)
            # What says nothing makes the tolerant reader look elsewhere.
            unsure |= missing & (np.diff(parts_of(values)[0]) > 0)
        return made


def _reader(name: str) -> Callable[[str], Any]:
    return lambda value: READERS[name](text(value))


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What stands where in entries of these names.

    pick: takes values of the entries, a text that says nothing, and what Flickr calls the camera, and gives those of
    `FIELDS`; pick_named takes the camera from there. repeats: whether labels come twice. sure: whether the names say it
    all.
    """

    pick: Callable[[Sequence[Any]], tuple[Any, ...]]
    pick_named: Callable[[Sequence[Any]], tuple[Any, ...]]
    repeats: bool
    sure: bool

    @classmethod
    def of(cls, names: tuple[str, ...]) -> Self:
        """The form of entries with these labels, and then their tags."""
        count = len(names) // 2
        labels, tags = names[:count], names[count:]
        first: dict[str, int] = {}
        for number, (tag, label) in enumerate(zip(tags, labels, strict=True)):
            for short in meanings(tag, label):
                first.setdefault(short, number)
        places, sure = [], all(names)
        for field in FIELDS:
            found = next((name for name in SOURCES[field] if name in first), None)
            sure &= found != "exposure"  # which may be a correction in stops
            places.append(count if found is None else first[found])
        named = [count + 1 if field == "camera" else place for field, place in zip(FIELDS, places, strict=True)]
        return cls(pick=itemgetter(*places), pick_named=itemgetter(*named), repeats=len(set(labels)) < count, sure=sure)


_NONE = ("",) * len(FIELDS)
