"""Values that stand in a document and cannot be read: a latitude of "abc", a date that is none."""

from collections.abc import Iterable, Mapping
from typing import Any

from engine.store.annotations.lists import side_of
from engine.store.annotations.values import instant, several

_MOST = 64  # values of one that are looked at
# Keys that hold one number or time.
_FIELDS = {
    "views": "views", "favorites": "favorites", "count_faves": "favorites",
    "taken": "taken", "datetaken": "taken", "date_taken": "taken", "posted": "posted", "dateuploaded": "posted",
    "dateupload": "posted", "date_posted": "posted", "iso": "iso", "exposure": "exposure", "aperture": "aperture",
    "focal": "focal", "exif_taken": "exif_taken",
}  # fmt: skip
_PLACE = ("latitude", "longitude", "accuracy")


def unread(parts: Iterable[Mapping[str, Any]], mapped: Mapping[str, Any], found: Mapping[str, Any]) -> set[str]:
    """Fields of which a value stands in one of the parts, though none could be read.

    mapped: values to which a user's map led, of any field. found: what was read. Times of comments and boxes of notes
    are named `comments.posted` and `notes.box`. What EXIF says is kept as it is written, and nothing of it is here.
    """
    named = {name for name, value in mapped.items() if _says(value)}
    for part in parts:
        for key, value in part.items():
            if key in _FIELDS:
                if _says(value):
                    named.add(_FIELDS[key])
            elif key in _INNER:
                named.update(_INNER[key](value))
        if "latitude" in part:
            named.update(_place(part))
    return named - found.keys()


def _place(value: Any) -> list[str]:
    return [name for name in _PLACE if _says(value.get(name))] if isinstance(value, dict) else []


def _dates(value: Any) -> list[str]:
    return [name for name in ("taken", "posted") if _says(value.get(name))] if isinstance(value, dict) else []


def _comments(value: Any) -> list[str]:
    for item in several(value, "comment") or ():
        if isinstance(item, dict):
            said = item.get("datecreate") or item.get("date_create") or item.get("posted") or item.get("date")
            if said and instant(said) is None and _says(said):
                return ["comments.posted"]
    return []


def _notes(value: Any) -> list[str]:
    for item in several(value, "note") or ():
        if isinstance(item, dict):
            for side in "xywh":
                said = item.get(side)
                if said is not None and side_of(said) is None and _says(said):
                    return ["notes.box"]
    return []


_INNER = {
    "location": _place, "dates": _dates, "comments": _comments, "comment": _comments, "notes": _notes, "note": _notes,
}  # fmt: skip


def _says(value: Any) -> bool:
    """Whether a value says anything: zeros alone, as in 0000-00-00, are how Flickr writes that nothing is known."""
    waiting = [value]
    for _ in range(_MOST):
        if not waiting:
            return False
        one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
        elif one is not None and any(letter.isalnum() and letter != "0" for letter in str(one)[:1000]):
            return True
    return False
