"""Counts over the annotations of a store, batch by batch: what is there, how often, where and when."""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.store.annotations.published import PUBLISHED

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final = (
    "annotated", "title", "description", "tags", "machine_tags", "camera", "exif", "latitude", "longitude", "albums",
    "groups", "comments", "notes", "owner", "owner_name", "licence", "taken", "posted",
)  # fmt: skip
CELL: Final = 0.5  # degrees: a side of the cells that places are counted in
_MERGE: Final = 1 << 18  # counted texts that are kept apart before they are added up


class Entry(NamedTuple):
    """A tag, group, camera and so on: what tells it from others, how people call it, and on how many photos it is."""

    key: str
    label: str
    photos: int


class Tally:
    """How often each text comes: as Arrow tables, so that a million different tags take tens of megabytes."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._limit = _MERGE
        self.entries = 0

    def add(self, keys: Any, labels: Any = None) -> None:
        """Count the texts of an array (m,), nulls left out; labels (m,): what each is called, of which one is kept."""
        import pyarrow as pa

        table = pa.table({"key": keys, "label": keys if labels is None else labels}).filter(keys.is_valid())
        self.entries += table.num_rows
        table = table.append_column("photos", pa.array(np.ones(table.num_rows, np.int64)))
        self._parts.append(_added_up(table))
        if sum(part.num_rows for part in self._parts) > self._limit:
            self._limit = max(_MERGE, 2 * self._merged().num_rows)

    def _merged(self) -> "pa.Table":
        import pyarrow as pa

        if len(self._parts) > 1:
            self._parts = [_added_up(pa.concat_tables(self._parts))]
        return self._parts[0] if self._parts else pa.table({"key": [], "label": [], "photos": []})

    @property
    def distinct(self) -> int:
        """How many different texts were counted."""
        return self._merged().num_rows

    def most(self, count: int) -> list[Entry]:
        """The commonest, with equal counts by key."""
        table = self._merged().sort_by([("photos", "descending"), ("key", "ascending")]).slice(0, count)
        return [Entry(row["key"], row["label"] or row["key"], row["photos"]) for row in table.to_pylist()]


def _added_up(table: "pa.Table") -> "pa.Table":
    # One thread: which label is the first is the same then in every run.
    sums = table.group_by("key", use_threads=False).aggregate([("label", "first"), ("photos", "sum")])
    return sums.select(["key", "label_first", "photos_sum"]).rename_columns(["key", "label", "photos"])


class Counts:
    """All counts of a store's annotations. `places` (360, 720) int64: photos by cell, south-west corner first."""

    def __init__(self) -> None:
        self.photos = self.annotated = 0
        self.fields = dict.fromkeys(PUBLISHED, 0)
        self.tallies = {name: Tally() for name in ("tags", "groups", "cameras", "licences", "owners")}
        self.holders = dict.fromkeys(self.tallies, 0)  # photos that have any
        self.places: npt.NDArray[np.int64] = np.zeros((round(180 / CELL), round(360 / CELL)), np.int64)
        self.months: dict[str, dict[str, int]] = {"taken": {}, "posted": {}}

    def add(self, batch: "pa.RecordBatch") -> None:
        """Count the photos of a batch of the COLUMNS."""
        import pyarrow.compute as pc

        self.photos += batch.num_rows
        self.annotated += pc.sum(batch["annotated"]).as_py() or 0
        here = self._available(batch)
        for name, mask in here.items():
            self.fields[name] += int(mask.sum())
        groups = pc.list_flatten(batch["groups"])
        for name, keys, labels in (
            ("tags", _once(batch["tags"]), None),
            ("groups", pc.struct_field(groups, "id"), pc.struct_field(groups, "title")),
            ("cameras", batch["camera"], None),
            ("licences", batch["licence"], None),
            ("owners", batch["owner"], batch["owner_name"]),
        ):
            self.tallies[name].add(keys, labels)
        for name, mask in (("tags", _filled(batch["tags"])), ("groups", here["groups"])):
            self.holders[name] += int(mask.sum())
        for name, column in (("cameras", "camera"), ("licences", "licence"), ("owners", "owner")):
            self.holders[name] += batch.num_rows - batch[column].null_count
        self._locate(batch)
        for name, months in self.months.items():
            _add_months(months, batch[name])

    def _available(self, batch: "pa.RecordBatch") -> dict[str, npt.NDArray[np.bool_]]:
        """Which photos of a batch have each field of the published table, (rows,)."""
        found = {name: _said(batch[name]) for name in ("title", "description")}
        found |= {name: _filled(batch[name]) for name in ("albums", "comments", "notes", "groups")}
        found["tags"] = _filled(batch["tags"]) | _filled(batch["machine_tags"])
        found["exif"] = _filled(batch["exif"]) | _said(batch["camera"])
        found["geo"] = _known(batch["latitude"]) & _known(batch["longitude"])
        return found

    def _locate(self, batch: "pa.RecordBatch") -> None:
        both = _known(batch["latitude"]) & _known(batch["longitude"])
        degrees = np.stack([_numbers(batch[name])[both] for name in ("latitude", "longitude")], axis=1)
        degrees = degrees[(np.abs(degrees) <= (90, 180)).all(axis=1)]
        corner = np.array([-90, -180])
        cells = np.floor((degrees - corner) / CELL).astype(np.int64)
        cells = np.minimum(cells, np.array(self.places.shape) - 1)
        np.add.at(self.places, (cells[:, 0], cells[:, 1]), 1)


def _once(lists: Any) -> Any:
    """The items of lists, each once a list: "canon" and "Canon" are one tag of a photo, though typed as two."""
    import pyarrow as pa
    import pyarrow.compute as pc

    items = pa.table({"list": pc.list_parent_indices(lists), "item": pc.list_flatten(lists)})
    return items.group_by(["list", "item"], use_threads=False).aggregate([])["item"].combine_chunks()


def _said(texts: Any) -> npt.NDArray[np.bool_]:
    """Where there is text at all."""
    import pyarrow.compute as pc

    lengths = pc.utf8_length(pc.utf8_trim_whitespace(texts)).fill_null(0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False) > 0, np.bool_)


def _filled(lists: Any) -> npt.NDArray[np.bool_]:
    """Where a list or a map has anything in it; a null takes no room between the offsets."""
    return np.asarray(np.diff(lists.offsets.to_numpy()) > 0, np.bool_)


def _known(numbers: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(numbers.is_valid().to_numpy(zero_copy_only=False), np.bool_)


def _numbers(column: Any) -> npt.NDArray[np.float64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _add_months(months: dict[str, int], times: Any) -> None:
    # Parquet knows no whole seconds: what was written as such comes back in thousandths.
    values = times.drop_null().to_numpy(zero_copy_only=False).astype("datetime64[M]")
    names, counts = np.unique(values, return_counts=True)
    for name, count in zip(names.astype(str).tolist(), counts.tolist(), strict=True):
        months[name] = months.get(name, 0) + count
