"""Made-up annotation files of the collection's layout, with the parts that the API gives and the publisher's coverage.

For timing alone: sizes and nesting are realistic, words are not.
"""

import json
import random
from pathlib import Path
from typing import Any

# Of 1,000,000 photos, as the publisher counts them.
COVERAGE = {
    "title": 0.864081, "description": 0.607663, "tags": 0.858918, "exif": 0.688294, "geo": 0.282091,
    "albums": 0.760702, "comments": 0.851174, "notes": 0.102252, "groups": 0.740263,
}  # fmt: skip
_WORDS = [f"{a}{b}" for a in ("sun", "sea", "old", "red", "lake", "moon") for b in ("set", "side", "town", "leaf", "é")]
_EXIF = (
    "Make", "Model", "Orientation", "XResolution", "YResolution", "ResolutionUnit", "Software", "ModifyDate", "Artist",
    "YCbCrPositioning", "Copyright", "ExposureTime", "FNumber", "ExposureProgram", "ISO", "ExifVersion",
    "DateTimeOriginal", "CreateDate", "ComponentsConfiguration", "ShutterSpeedValue", "ApertureValue",
    "ExposureCompensation", "MaxApertureValue", "MeteringMode", "Flash", "FocalLength", "UserComment",
    "FlashpixVersion", "ColorSpace", "FocalPlaneXResolution", "FocalPlaneYResolution", "CustomRendered",
    "ExposureMode", "WhiteBalance",
    "SceneCaptureType", "LensModel", "Compression", "ThumbnailOffset", "ThumbnailLength", "GlobalAngle",
)  # fmt: skip
_RAW = {
    "Make": "Canon", "Model": "Canon EOS 5D Mark II", "ExposureTime": "1/250", "FNumber": "2.8", "ISO": "400",
    "DateTimeOriginal": "2009:07:04 12:30:00", "FocalLength": "50.0 mm", "LensModel": "EF50mm f/1.4 USM",
}  # fmt: skip


def write_files(folder: Path, count: int, *, seed: int = 0) -> int:
    """Write `folder/10/103169.json` and its like; the bytes in all."""
    total = 0
    for photo_id in range(count):
        place = folder / str(photo_id // 10_000)
        if photo_id % 10_000 == 0:
            place.mkdir(parents=True, exist_ok=True)
        data = document(photo_id, seed)
        total += len(data)
        (place / f"{photo_id}.json").write_bytes(data)
    return total


def document(photo_id: int, seed: int) -> bytes:
    """The file of one photo: four answers of the API, each under the name of its method."""
    dice = random.Random(f"{seed} {photo_id}")
    has = {name: dice.random() < share for name, share in COVERAGE.items()}
    parts = {
        "flickr.photos.getInfo": {"photo": _info(photo_id, dice, has), "stat": "ok"},
        "flickr.photos.getExif": _exif(photo_id, dice) if has["exif"] else {"stat": "fail", "code": 2},
        "flickr.photos.comments.getList": {"comments": _comments(photo_id, dice, any_=has["comments"]), "stat": "ok"},
        "flickr.photos.getAllContexts": _contexts(dice, has),
    }
    return json.dumps(parts, separators=(",", ":")).encode()


def _person(dice: random.Random) -> tuple[str, str]:
    number = dice.randrange(10_000)
    return f"{number + 10_000_000}@N0{number % 9}", f"user {number}"


def _text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(_WORDS, k=words))


def _info(photo_id: int, dice: random.Random, has: dict[str, bool]) -> dict[str, Any]:
    nsid, name = _person(dice)
    tags = [_text(dice, dice.randint(1, 2)) for _ in range(min(1 + int(dice.expovariate(0.1)), 75) * has["tags"])]
    notes = [
        {"id": str(i), "author": nsid, "authorname": name, "x": "10", "y": "20", "w": "50", "h": "50", "_content": "!"}
        for i in range(dice.randint(1, 3) * has["notes"])
    ]
    info: dict[str, Any] = {
        "id": str(photo_id * 7919 + 10**9), "secret": "0123456789", "server": "3100", "farm": 4,
        "dateuploaded": "1246710600", "isfavorite": 0, "license": str(dice.randrange(1, 7)), "safety_level": "0",
        "rotation": 0, "owner": {"nsid": nsid, "username": name, "realname": "", "location": "", "path_alias": None},
        "title": {"_content": _text(dice, 3) if has["title"] else ""},
        "description": {"_content": _text(dice, 40) if has["description"] else ""},
        "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
        "dates": {"posted": "1246710600", "taken": "2009-07-04 12:30:00", "takengranularity": "0"},
        "views": str(dice.randrange(5000)), "comments": {"_content": "3"}, "notes": {"note": notes},
        "tags": {"tag": [
            {"id": f"{i}-{photo_id}", "author": nsid, "authorname": name, "raw": tag, "_content": tag.replace(" ", ""),
             "machine_tag": 0} for i, tag in enumerate(tags)
        ]},
        "urls": {"url": [{"type": "photopage", "_content": f"https://www.flickr.com/photos/{nsid}/{photo_id}/"}]},
        "media": "photo",
    }  # fmt: skip
    if has["geo"]:
        info["location"] = {"latitude": "48.858222", "longitude": "2.2945", "accuracy": "16", "context": "0"}
    return info


def _exif(photo_id: int, dice: random.Random) -> dict[str, Any]:
    names = _EXIF[: dice.randint(25, len(_EXIF))]
    entries = [
        {"tagspace": "ExifIFD", "tagspaceid": 0, "tag": name, "label": name, "raw": {"_content": _RAW.get(name, "72")}}
        for name in names
    ]
    return {"photo": {"id": str(photo_id), "camera": "Canon EOS 5D Mark II", "exif": entries}, "stat": "ok"}


def _comments(photo_id: int, dice: random.Random, *, any_: bool) -> dict[str, Any]:
    found = []
    for number in range(min(1 + int(dice.expovariate(0.12)), 100) * any_):
        author, name = _person(dice)
        link = f"https://www.flickr.com/photos/{author}/{photo_id}/#comment{number}"
        found.append({
            "id": f"{number}-{photo_id}", "author": author, "authorname": name, "iconserver": "1", "iconfarm": 1,
            "datecreate": "1246800000", "permalink": link, "_content": _text(dice, dice.randint(2, 20)),
        })  # fmt: skip
    return {"photo_id": str(photo_id), "comment": found}


def _contexts(dice: random.Random, has: dict[str, bool]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, key, most in (("albums", "set", 3), ("groups", "pool", 10)):
        if has[name]:
            ids = [dice.randrange(2000) for _ in range(dice.randint(1, most))]
            found[key] = [{"title": f"{name} {i}", "id": str(72157600000000000 + i), "members": "5"} for i in ids]
    return found | {"stat": "ok"}
