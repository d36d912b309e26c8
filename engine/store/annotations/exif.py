"""The EXIF part of an annotation: everything by its label, and camera, lens, exposure and the like as values.

As flickr.photos.getExif gives it (a list of tagspace, tag, label, raw), or as labels and values.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from engine.store.annotations.values import clock, number, text, whole

# Where each value stands, the best source first, by names without blanks or case: ExifTool's, EXIF's, Flickr's labels.
_CAMERA = ("model", "cameramodelname", "cameramodel", "camera")
_LENS = ("lensmodel", "lens", "lensid", "lenstype", "lensinfo")
_EXPOSURE = ("exposuretime", "exposure", "shutterspeedvalue", "shutterspeed")
_APERTURE = ("fnumber", "aperture", "aperturevalue")
_FOCAL = ("focallength",)
_ISO = ("iso", "isospeedratings", "isospeed", "photographicsensitivity")
_TAKEN = ("datetimeoriginal", "dateandtimeoriginal", "dateandtime(original)", "createdate", "datetimedigitized")
_WANTED: Final = frozenset((*_CAMERA, *_LENS, *_EXPOSURE, *_APERTURE, *_FOCAL, *_ISO, *_TAKEN))
_BLANK = re.compile(r"[\s_-]+")
SOURCES: Final[dict[str, tuple[str, ...]]] = {
    "camera": _CAMERA, "lens": _LENS, "exposure": _EXPOSURE, "aperture": _APERTURE, "focal": _FOCAL, "iso": _ISO,
    "exif_taken": _TAKEN,
}  # fmt: skip
FIELDS: Final = tuple(SOURCES)
Entry = tuple[str, str, str]  # tag, label, raw value


def read_exif(value: Any, camera: Any = None) -> dict[str, Any]:
    """The fields of the schema that an EXIF part fills; {} where it is none.

    value: a list of entries, {"exif": list}, or {label: value}. camera: what Flickr calls it.
    """
    entries = _entries(value)
    if entries is None:
        return {"camera": text(camera)} if text(camera) else {}
    return fields_of(entries, text(camera))


def fields_of(entries: Iterable[Entry], camera: str | None = None) -> dict[str, Any]:
    """The same from entries that were read already."""
    entries = list(entries)
    known: dict[str, str] = {}
    for tag, label, raw in entries:
        for short in meanings(tag, label):
            # A raw converter's "Exposure" is a correction in stops; Flickr's label of that name says seconds.
            if short != "exposure" or "/" in raw or "s" in raw:
                known.setdefault(short, raw)
    fields: dict[str, Any] = {"exif": by_label(entries)}
    if camera:
        fields["camera"] = camera
    for name in FIELDS if not camera else FIELDS[1:]:
        found = _first(known, SOURCES[name], READERS[name])
        if found is not None:
            fields[name] = found
    return fields


def by_label(entries: Iterable[Entry]) -> dict[str, str]:
    """Raw values by label; another one under the same label has its tag beside it."""
    full: dict[str, str] = {}
    for tag, label, raw in entries:
        if label not in full:
            full[label] = raw
        elif full[label] != raw:  # IFD0 and the thumbnail's both have a resolution
            full.setdefault(f"{label} ({tag})", raw)
    return full


_MEANINGS: dict[tuple[str, str], tuple[str, ...]] = {}


def meanings(tag: str, label: str) -> tuple[str, ...]:
    """What is read from an entry, as far as its names say. Few names come again and again, so they are kept."""
    known = _MEANINGS.get((tag, label))
    if known is not None:
        return known
    shorts = dict.fromkeys(_BLANK.sub("", name[:64]).lower() for name in (tag, label))
    found = tuple(short for short in shorts if short in _WANTED)
    if len(_MEANINGS) < 8192 and len(tag) + len(label) < 128:
        _MEANINGS[tag, label] = found
    return found


def _positive(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and 0 < found < 1e9 else None


def _speed(value: Any) -> int | None:
    return whole(value, 1, (1 << 31) - 1)


READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "camera": text, "lens": text, "exposure": _positive, "aperture": _positive, "focal": _positive, "iso": _speed,
    "exif_taken": clock,
}  # fmt: skip


def _first(known: dict[str, str], names: tuple[str, ...], reader: Any) -> Any:
    for name in names:
        if name in known:
            found = reader(known[name])
            if found is not None:
                return found
    return None


def _entries(value: Any) -> list[Entry] | None:
    if isinstance(value, dict):
        if isinstance(value.get("exif"), list | dict):
            value = value["exif"]
        elif "photo" in value or "stat" in value or "_content" in value:  # a wrapper, which is looked into elsewhere
            return None
    if isinstance(value, dict) and "tag" not in value:
        return [(str(k), str(k), raw) for k, v in value.items() if k != "camera" and (raw := text(v)) is not None]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    found: list[Entry] = []
    for item in value:
        if type(item) is not dict:
            continue
        get = item.get
        raw, tag, label = text(get("raw")), get("tag"), get("label")
        if raw is None and (raw := text(get("clean") or get("_content") or get("value"))) is None:
            continue
        if type(tag) is not str:
            tag = text(tag)
        if type(label) is not str:
            label = text(label)
        if tag or label:
            found.append((tag or label or "", label or tag or "", raw))
    return found
