"""The text files that the base collection MIRFLICKR came with: tags, and EXIF.

tags: one a line. exif: a name after a minus at the beginning of a line, its value in the lines that follow; lines
such as `Model: Canon EOS 5D` are understood too. Their encoding is UTF-8, or else taken for Latin-1.
"""

import re
from typing import Any

from engine.errors import InputError
from engine.store.annotations.exif import Entry, fields_of
from engine.store.annotations.lists import tags
from engine.store.annotations.loading import LARGEST

_PAIR = re.compile(r"\s*([^:=\t]{1,80}?)\s*(?:[:=]\s|\t)\s*(.*\S)")


def read_tags(data: bytes) -> dict[str, Any]:
    """tags, tags_raw and machine_tags of a file with one tag a line."""
    found: dict[str, Any] = tags([line.strip() for line in _text(data).splitlines()])
    return found


def read_exif_text(data: bytes) -> dict[str, Any]:
    """The fields that a file of EXIF fills."""
    entries: list[Entry] = []
    name, value = "", list[str]()
    for line in _text(data).splitlines():
        if line.startswith("-") and line[1:2].isalpha():
            _add(entries, name, value)
            name, value = line[1:].strip(), []
        elif name:
            value.append(line.strip())
        elif match := _PAIR.fullmatch(line):
            entries.append((match[1], match[1], match[2]))
    _add(entries, name, value)
    return fields_of(entries) if entries else {}


def _add(entries: list[Entry], name: str, value: list[str]) -> None:
    if name and (said := "\n".join(value).strip()):
        entries.append((name, name, said))


def _text(data: bytes) -> str:
    if len(data) > LARGEST:
        raise InputError(f"{len(data):,} bytes, expected at most {LARGEST:,}")
    if b"\0" in data:
        raise InputError("is no text: it holds zero bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")
