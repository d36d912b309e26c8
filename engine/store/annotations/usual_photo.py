"""What flickr.photos.getInfo says in the usual form, as columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.store.annotations import usual
from engine.store.annotations.columns import (
    Mask,
    Texts,
    array_of,
    clocks,
    instants,
    parts_of,
    texts,
    unreadable,
    wholes,
)
from engine.store.annotations.flickr import licence_fields, place_fields
from engine.store.annotations.schema import schema

_LARGEST = (1 << 63) - 1


class PhotoColumns:
    """Values of photos that grow by batches."""

    def __init__(self) -> None:
        self.texts = {name: Texts() for name in _NAMES}
        self.unsure: list[int] = []
        self.present: list[bool] = []

    def add(self, photos: Sequence[usual.Photo]) -> None:
        """Add what photos say."""
        owners, dates = [one.owner for one in photos], [one.dates for one in photos]
        links = [one.urls.url[0] if one.urls.url else _NO_LINK for one in photos]
        said: tuple[Sequence[Any], ...] = (
            [one.title.said for one in photos], [one.description.said for one in photos],
            [one.nsid for one in owners], [one.username for one in owners], [one.realname for one in owners],
            [one.posted for one in dates], [one.taken for one in dates], [one.said for one in links],
            [one.license for one in photos], [one.views for one in photos], [one.count_faves for one in photos],
        )  # fmt: skip
        for name, values in zip(_NAMES, said, strict=False):
            self.texts[name].add(values)
        places = [one.location or _NOWHERE for one in photos]
        self.texts["latitude"].add([one.latitude for one in places])
        self.texts["longitude"].add([one.longitude for one in places])
        self.texts["accuracy"].add([one.accuracy for one in places])
        self._look(photos, links)
        self.present += [one is not usual.NOBODY for one in photos]

    def _look(self, photos: Sequence[usual.Photo], links: Sequence[usual.Link]) -> None:
        """Mark rows that the tolerant reader is to read."""
        for row, (photo, link) in enumerate(zip(photos, links, strict=True), len(self.present)):
            if photo.dateuploaded not in ("", photo.dates.posted):  # of two times the first in the document counts
                self.unsure.append(row)
            if link is not _NO_LINK and (link.type != "photopage" or "://" not in link.said or "&" in link.said):
                self.unsure.append(row)

    def columns(self, unsure: Mask) -> dict[str, Any]:
        """Columns by name; rows that the tolerant reader is to read are marked: it counts what cannot be read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        unsure[self.unsure] = True
        made: dict[str, Any] = {}
        given = {name: found.all() for name, found in self.texts.items()}
        for name in ("title", "description", "owner", "owner_name", "owner_realname", "url"):
            made[name], nothing = texts(given[name])
            if name == "owner":  # another key may say who it is
                unsure |= nothing & np.array(self.present, np.bool_)
        for name in ("views", "favorites"):
            made[name] = array_of(wholes(given[name], 0, _LARGEST), pa.int64())
        made["posted"] = array_of(instants(given["posted"]), pa.int64()).cast(schema().field("posted").type)
        made["taken"] = array_of(clocks(given["taken"]), pa.int64()).cast(pa.timestamp("s"))
        made |= places(given["latitude"], given["longitude"], given["accuracy"])
        for name in ("views", "favorites", "posted", "taken", "latitude", "longitude"):
            unsure |= unreadable(given[name], made[name])
        vague = pc.equal(given["accuracy"], pa.scalar("0")).to_numpy(zero_copy_only=False).astype(np.bool_)
        unsure |= unreadable(given["accuracy"], made["accuracy"]) & ~vague
        return made | _licences(given["licence"])


_NAMES = (
    "title", "description", "owner", "owner_name", "owner_realname", "posted", "taken", "url", "licence", "views",
    "favorites", "latitude", "longitude", "accuracy",
)  # fmt: skip
_NO_LINK = usual.Link(type=None, said="")
_NOWHERE = usual.Location(latitude="", longitude="", accuracy="")


def _licences(values: Any) -> dict[str, Any]:
    """Number, name and link; there are few, so each is looked up once."""
    import pyarrow as pa

    coded = values.dictionary_encode()
    found = [licence_fields(value, {}) if value else {} for value in coded.dictionary.to_pylist()]
    fields = [schema().field(name) for name in ("licence_id", "licence", "licence_url")]
    return {one.name: pa.array([each.get(one.name) for each in found], one.type).take(coded.indices) for one in fields}


def places(latitude: Any, longitude: Any, accuracy: Any) -> dict[str, Any]:
    """Latitude, longitude and accuracy of those (n,) that have them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(latitude)
    plain = np.ones(count, np.bool_)
    for texts_ in (latitude, longitude):
        plain &= pc.match_substring_regex(texts_, _DEGREES).to_numpy(zero_copy_only=False).astype(np.bool_)
    found = [np.zeros(count), np.zeros(count)]
    for values, texts_ in zip(found, (latitude, longitude), strict=True):
        values[plain] = texts_.filter(pa.array(plain)).cast(pa.float64()).to_numpy()
    sharp, vague = wholes(accuracy, 0, 16)
    vague |= sharp == 0
    good = plain & (np.abs(found[0]) <= 90) & (np.abs(found[1]) <= 180)
    good &= ~((found[0] == 0) & (found[1] == 0) & vague)
    odd = ~plain & (np.diff(parts_of(latitude)[0]) > 0)
    for row in np.flatnonzero(odd).tolist():
        said = {"latitude": latitude, "longitude": longitude, "accuracy": accuracy}
        one = place_fields({name: values[row].as_py() or None for name, values in said.items()})
        if one:
            found[0][row], found[1][row], good[row] = one["latitude"], one["longitude"], True
            sharp[row], vague[row] = one.get("accuracy", 0), "accuracy" not in one
    return {
        "latitude": pa.array(found[0], mask=~good), "longitude": pa.array(found[1], mask=~good),
        "accuracy": array_of((sharp, vague | ~good), pa.int8()),
    }  # fmt: skip


_DEGREES = r"^-?[0-9]{1,3}(\.[0-9]{1,17})?$"
