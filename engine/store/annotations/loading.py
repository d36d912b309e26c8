"""Bytes as a JSON object, or the reason why they are none."""

import json
import re
from typing import Any

from engine.errors import InputError

LARGEST = 16 << 20  # bytes of one file
_CALLBACK = re.compile(rb"\s*jsonFlickrApi\s*\((.*)\)\s*;?\s*", re.DOTALL)
_BOM = b"\xef\xbb\xbf"


def load(data: bytes) -> dict[str, Any]:
    """The object that the bytes of a file hold; InputError with the reason when they hold none.

    The wrapper `jsonFlickrApi(…)`, which the API adds unless it is told not to, and a byte order mark are taken off.
    Halves of surrogate pairs, which cut texts end in, become U+FFFD.
    """
    import orjson

    if len(data) > LARGEST:
        raise InputError(f"{len(data):,} bytes, expected at most {LARGEST:,}")
    try:
        document = orjson.loads(data)
    except ValueError as error:
        document = _otherwise(data, str(error))
    if not isinstance(document, dict):
        raise InputError(f"holds {_KINDS.get(type(document), 'a number')}, expected a JSON object")
    return document


_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}


def _otherwise(data: bytes, reason: str) -> Any:
    """What orjson refuses, once more; InputError unless it makes sense after all."""
    import orjson

    if not data.strip(b"\0 \t\r\n"):
        raise InputError("empty, expected a JSON object")
    inner = data.removeprefix(_BOM)
    if match := _CALLBACK.fullmatch(inner):
        inner = match[1]
    try:
        if inner is not data:
            return orjson.loads(inner)
    except ValueError as error:
        reason = str(error)
    if rb"\ud" not in inner.lower():
        raise InputError(f"is no JSON ({reason})")
    try:
        document = json.loads(inner.decode(), parse_constant=_no_number, parse_int=float)
        text = json.dumps(document, ensure_ascii=False, allow_nan=False)
        return orjson.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (ValueError, RecursionError):
        raise InputError(f"is no JSON ({reason})") from None


def _no_number(text: str) -> float:
    raise ValueError(text)
