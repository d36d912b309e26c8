"""One JSON document as Flickr's public API gave it, read into the fields of the table.

How the collection's files nest the API's answers is not published. So a document may be one answer
(flickr.photos.getInfo, getExif, comments.getList, getAllContexts), several of them under names of methods or fields,
or all merged into one object; texts may be wrapped in `_content` or plain, numbers may be strings, parts may be
missing, null or a failure. What is of another kind than expected is passed over; nothing in it makes the reader fail.
Sources: the methods' pages below flickr.com/services/api.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from engine.store.annotations.exif import read_exif
from engine.store.annotations.licences import LICENCES, licence_of_link
from engine.store.annotations.lists import albums, comments, groups, notes, tags
from engine.store.annotations.loading import load
from engine.store.annotations.unread import unread
from engine.store.annotations.values import clock, instant, number, several, text, unwrapped, whole

Annotation = dict[str, Any]
"""Values by the names of the schema; what is not known is absent."""

_DEEPEST = 6  # wrappers in wrappers
_MOST = 64  # parts that are looked at
# A part under one of these names, or under the name of a method, is looked into for what it may hold.
_WRAPPER = frozenset((
    "photo", "info", "rsp", "response", "responses", "result", "results", "data", "annotation", "annotations",
    "metadata", "api", "flickr", "contexts", "context", "allcontexts", "geo",
))  # fmt: skip
_METHOD = re.compile(r"(?:^|[._])get_?[a-z_]+$", re.IGNORECASE)
# A part with one of these is an answer of the API, or what one consists of.
_ANSWER = frozenset(("stat", "photo", "exif", "set", "pool"))


def parse(
    document: bytes | Mapping[str, Any], extra: Mapping[str, Any] | None = None, dropped: set[str] | None = None
) -> Annotation:
    """What a JSON document says about its photo, by the names of `engine.store.annotations.schema`.

    Of lists that are known to be empty it gives []; what nobody wrote is not among the keys. extra: a part of the
    document that is looked at first (see `mapping`). dropped: grows by the fields of which a value stands there that
    cannot be read, and no other. InputError, with the reason, for bytes that are no JSON object.
    """
    loaded = load(document) if isinstance(document, bytes) else document
    found: Annotation = {}
    if extra:
        _read(extra, found)
    looked = parts(loaded)
    for part in looked:
        _read(part, found)
    if dropped is not None:
        dropped |= unread(looked, extra or {}, found)
    return found


def parts(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The objects of a document that may hold fields, from the outside in; answers that say `fail` are left out."""
    found: list[Mapping[str, Any]] = []
    level: list[Any] = [document]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for part in level:
            if part.get("stat") == "fail" and part is not document:
                continue
            found.append(part)
            if len(found) >= _MOST:
                return found
            for key, value in part.items():
                if isinstance(value, list):
                    if key.lower() in _WRAPPER or _METHOD.search(key):
                        below += [item for item in value if isinstance(item, dict)]
                elif isinstance(value, dict) and _holds_fields(key, value):
                    below.append(value)
        if not below:
            break
        level = below
    return found


def _holds_fields(key: str, value: Mapping[str, Any]) -> bool:
    if key in _WRAPPER or not _ANSWER.isdisjoint(value) or (key in value and isinstance(value[key], dict)):
        return True
    return key.lower() in _WRAPPER or ("et" in key and _METHOD.search(key) is not None)


def _read(part: Mapping[str, Any], found: Annotation) -> None:
    """Add what a part says and the parts before it did not."""
    for key, value in part.items():
        reader = _READERS.get(key)
        if reader is not None and value is not None:
            for name, read in reader(value, part).items():
                # An answer that has the list is better than one that has only heard of it.
                if name not in found or (read and found[name] == []):
                    found[name] = read


Reader = Callable[[Any, Mapping[str, Any]], Annotation]


def _one(name: str, reader: Callable[[Any], Any]) -> Reader:
    def read(value: Any, part: Mapping[str, Any]) -> Annotation:
        del part
        one = reader(value)
        return {} if one is None else {name: one}

    return read


def _tags(value: Any, part: Mapping[str, Any]) -> Annotation:
    del part
    return tags(value)


def _exif(value: Any, part: Mapping[str, Any]) -> Annotation:
    within = value.get("camera") if isinstance(value, dict) and "exif" in value else None
    return read_exif(value, part.get("camera") or within)


def _location(value: Any, part: Mapping[str, Any]) -> Annotation:
    del part
    return place_fields(value) if isinstance(value, dict) else {}


def _place_here(value: Any, part: Mapping[str, Any]) -> Annotation:
    del value
    return place_fields(part)


def place_fields(part: Mapping[str, Any]) -> Annotation:
    """Latitude, longitude and accuracy, if they are those of a place."""
    latitude, longitude = number(part.get("latitude")), number(part.get("longitude"))
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return {}
    accuracy = whole(part.get("accuracy"), 0, 16)
    if latitude == 0 == longitude and not accuracy:  # what `extras=geo` says of photos without a place
        return {}
    place: Annotation = {"latitude": latitude, "longitude": longitude}
    return place | {"accuracy": accuracy} if accuracy else place


def _dates(value: Any, part: Mapping[str, Any]) -> Annotation:
    del part
    if not isinstance(value, dict):
        return {}
    found = {"taken": clock(value.get("taken")), "posted": instant(value.get("posted"))}
    return {name: one for name, one in found.items() if one is not None}


def _owner(value: Any, part: Mapping[str, Any]) -> Annotation:
    if not isinstance(value, dict) or "_content" in value:
        found = {"owner": text(value), "owner_name": text(part.get("ownername") or part.get("username"))}
    else:
        found = {
            "owner": text(value.get("nsid") or value.get("id")), "owner_name": text(value.get("username")),
            "owner_realname": text(value.get("realname")),
        }  # fmt: skip
    return {name: one for name, one in found.items() if one is not None}


def licence_fields(value: Any, part: Mapping[str, Any]) -> Annotation:
    """Number, name and link of a licence, by its number, name or link."""
    link, name = part.get("license_url") or part.get("licence_url"), part.get("license_name")
    if isinstance(value, dict) and "_content" not in value:
        value, name, link = value.get("id", value.get("url")), value.get("name"), value.get("url")
    number_ = whole(value, 0, 32_767)
    said = text(value) or ""
    if number_ is None:
        number_ = licence_of_link(f"{said} {text(link) or ''}")
    known_name, known_link = LICENCES.get(-1 if number_ is None else number_, (None, None))
    if number_ is None and "://" not in said:
        known_name = said or None
    found: Annotation = {
        "licence_id": number_, "licence": known_name or text(name), "licence_url": known_link or text(link),
    }  # fmt: skip
    return {key: one for key, one in found.items() if one is not None}


def _licence_link(value: Any, part: Mapping[str, Any]) -> Annotation:
    """Of a part that names the licence by its link alone."""
    del value
    return {} if part.keys() & {"license", "licence", "license_id", "licence_id"} else licence_fields(None, part)


def _url(value: Any) -> str | None:
    """The page of the photo among its links."""
    items = several(value, "url") or [value]
    for item in items:
        link = text(item)
        kind = item.get("type") if isinstance(item, dict) else None
        if link and "://" in link and kind in (None, "photopage"):
            return link
    return None


def _comment_list(value: Any, part: Mapping[str, Any]) -> Annotation:
    del part
    return {} if (found := comments(value)) is None else {"comments": found}


def _albums(value: Any, part: Mapping[str, Any]) -> Annotation:
    found = albums(value)
    if found is None:
        return {}
    # getAllContexts leaves out what the photo is not in.
    return {"albums": found} | ({"groups": []} if "set" in part and "pool" not in part else {})


def _groups(value: Any, part: Mapping[str, Any]) -> Annotation:
    found = groups(value)
    if found is None:
        return {}
    return {"groups": found} | ({"albums": []} if "pool" in part and "set" not in part else {})


def _views(value: Any) -> int | None:
    return whole(unwrapped(value), 0, (1 << 63) - 1)


def _camera(value: Any, part: Mapping[str, Any]) -> Annotation:
    return {} if part.get("exif") else _one("camera", text)(value, part)


_READERS: dict[str, Reader] = {
    "title": _one("title", text), "description": _one("description", text), "tags": _tags, "exif": _exif,
    "camera": _camera, "location": _location, "latitude": _place_here, "comments": _comment_list,
    "comment": _comment_list, "notes": _one("notes", notes), "note": _one("notes", notes),
    "set": _albums, "sets": _albums, "albums": _albums, "photosets": _albums, "photoset": _albums,
    "pool": _groups, "pools": _groups, "groups": _groups,
    "dates": _dates, "taken": _one("taken", clock), "datetaken": _one("taken", clock),
    "date_taken": _one("taken", clock), "posted": _one("posted", instant), "dateuploaded": _one("posted", instant),
    "dateupload": _one("posted", instant), "date_posted": _one("posted", instant),
    "owner": _owner, "ownername": _one("owner_name", text), "owner_name": _one("owner_name", text),
    "owner_realname": _one("owner_realname", text), "license": licence_fields, "licence": licence_fields,
    "licence_id": licence_fields, "license_id": licence_fields, "licence_url": _licence_link,
    "license_url": _licence_link,
    "urls": _one("url", _url), "url": _one("url", _url),
    "views": _one("views", _views), "favorites": _one("favorites", _views), "count_faves": _one("favorites", _views),
    "lens": _one("lens", text), "exposure": _one("exposure", number), "aperture": _one("aperture", number),
    "focal": _one("focal", number), "iso": _one("iso", lambda value: whole(value, 1, (1 << 31) - 1)),
    "exif_taken": _one("exif_taken", clock), "tags_raw": _one("tags_raw", lambda value: tags(value).get("tags_raw")),
    "machine_tags": _one("machine_tags", lambda value: tags(value).get("machine_tags")),
}  # fmt: skip
