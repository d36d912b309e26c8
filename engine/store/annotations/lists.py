"""The lists of an annotation: tags, albums, groups, comments, notes. None, or {}, for what is no list."""

import re
from typing import Any

from engine.store.annotations.values import instant, number, several, text, truth, unwrapped

_MACHINE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*:[a-zA-Z0-9_]+=.", re.DOTALL)
_IN_LIST = re.compile(r'"([^"]*)"|(\S+)')  # as tags are typed: blanks part them, quotes hold them together


def normal_tag(raw: str) -> str:
    """A tag as Flickr normalises it: lower case, letters and digits alone."""
    return "".join(letter for letter in raw.lower() if letter.isalnum())


def tags(value: Any) -> dict[str, list[str]]:
    """tags, tags_raw and machine_tags; {} when this is no list of tags.

    value: a list of objects with raw and _content, or of texts; either below "tag"; one text of several tags.
    """
    items = several(value, "tag")
    if items is None:
        said = unwrapped(value)
        if not isinstance(said, str):
            return {"tags": [], "tags_raw": [], "machine_tags": []} if value == {} else {}
        items = [quoted or bare for quoted, bare in _IN_LIST.findall(said)]
    normal: list[str] = []
    typed: list[str] = []
    machine: list[str] = []
    for item in items:
        if isinstance(item, dict):
            name, raw, flag = text(item.get("_content")), text(item.get("raw")), item.get("machine_tag")
            raw = raw or name or text(item)
        else:
            name, raw, flag = None, text(item), None
        if raw is None:
            continue
        if truth(flag) or (flag is None and _MACHINE.match(raw)):
            machine.append(raw)
        elif name := name or normal_tag(raw):
            normal.append(name)
            typed.append(raw)
    return {"tags": normal, "tags_raw": typed, "machine_tags": machine}


def _places(items: list[Any] | None) -> list[dict[str, Any]] | None:
    if items is None:
        return None
    found = []
    for item in items:
        if isinstance(item, dict):
            title = text(item.get("title") or item.get("name"))
            place = {"id": text(item.get("id") or item.get("nsid")), "title": title}
        else:
            place = {"id": None, "title": text(item)}
        if place["id"] or place["title"]:
            found.append(place)
    return found


def albums(value: Any) -> list[dict[str, Any]] | None:
    """Albums with id and title, from a list, one object, or either below "set", "photoset" or "album"."""
    return _places(_below(value, ("set", "photoset", "album", "sets", "photosets")))


def groups(value: Any) -> list[dict[str, Any]] | None:
    """Groups with id and title, from a list, one object, or either below "pool" or "group"."""
    return _places(_below(value, ("pool", "group", "pools", "groups")))


def _below(value: Any, names: tuple[str, ...]) -> list[Any] | None:
    if isinstance(value, dict):
        for name in names:
            if name in value:
                return several(value[name], name)
        if "id" in value and not isinstance(value["id"], dict | list):
            return [value]
        return [] if not value or ("_content" in value and not text(value)) else None
    return value if isinstance(value, list) else None


def comments(value: Any) -> list[dict[str, Any]] | None:
    """Comments with author, author_name, posted, text; [] where their number is said to be none."""
    items = several(value, "comment")
    if items is None:
        if isinstance(value, dict) and "_content" not in value and "photo_id" not in value and value:
            return None
        # getInfo says how many there are; getList of none has no "comment".
        none = (isinstance(value, dict) and text(value) in (None, "0")) or unwrapped(value) in ("0", 0, "")
        return [] if none else None
    found = []
    for item in items:
        if isinstance(item, dict):
            get = item.get
            comment = {
                "author": text(get("author")), "author_name": text(get("authorname") or get("author_name")),
                "posted": instant(get("datecreate") or get("date_create") or get("posted") or get("date")),
                "text": text(item),
            }  # fmt: skip
            if comment["text"] is None:
                comment["text"] = text(get("text") or get("comment"))
        else:
            comment = {"author": None, "author_name": None, "posted": None, "text": text(item)}
        if comment["text"] or comment["author"]:
            found.append(comment)
    return found


def notes(value: Any) -> list[dict[str, Any]] | None:
    """Notes with author, author_name, the box x, y, w, h, and text."""
    items = several(value, "note")
    if items is None:
        return [] if value == {} or (isinstance(value, dict) and value.get("_content") == "") or value == "" else None
    found = []
    for item in items:
        if isinstance(item, dict):
            box = {side: side_of(item.get(side)) for side in "xywh"}
            said = text(item) or text(item.get("text"))
            author, name = text(item.get("author")), text(item.get("authorname") or item.get("author_name"))
            if said or author or any(side is not None for side in box.values()):
                found.append({"author": author, "author_name": name, **box, "text": said})
        elif said := text(item):
            found.append({"author": None, "author_name": None, **dict.fromkeys("xywh"), "text": said})
    return found


def side_of(value: Any) -> float | None:
    """A side of a box, if it is one."""
    found = number(value)
    return found if found is not None and abs(found) < 1e6 else None
