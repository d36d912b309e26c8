"""Single values of a JSON document as text, numbers and times, whichever way they were written; None for what is none.

Flickr wraps texts as {"_content": …} and writes most numbers as strings. Nothing here fails on any JSON value.
"""

import html
import re
from datetime import UTC, datetime
from typing import Any

LAST_SECOND = 253_402_300_799  # of the year 9999
_WRAPPERS = ("_content", "#text", "content", "$t", "value")
_CLOCK = re.compile(r"\s*(\d{4})[-:/.](\d\d?)[-:/.](\d\d?)(?:[T ]+(\d\d?):(\d\d?)(?::(\d\d?))?)?")
_NUMBER = re.compile(r"\s*(?:f/)?([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d{1,3})?)(?:\s*/\s*(\d+(?:\.\d*)?))?")


def unwrapped(value: Any) -> Any:
    """The value in a wrapper such as {"_content": …}, or of a list of one; else the value itself."""
    for _ in range(4):
        if isinstance(value, dict):
            for key in _WRAPPERS:
                if key in value:
                    value = value[key]
                    break
            else:
                return None
        elif isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        else:
            return value
    return None


def text(value: Any) -> str | None:
    """A text that says something, XML entities resolved; numbers as they are written."""
    if type(value) is dict:  # the usual wrapper first: this is called for every text
        value = value.get("_content") if "_content" in value else unwrapped(value)
    if type(value) is str:
        if "&" in value:
            value = html.unescape(value)
        found: str = value
        return found if " " < found[:1] <= "~" or (found and not found.isspace()) else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return str(value)
    value = unwrapped(value)
    return text(value) if isinstance(value, str | int | float) else None


def number(value: Any) -> float | None:
    """A finite number: 2.8, "2.8", "f/2.8", "1/250", "50 mm", "28/10"."""
    value = unwrapped(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = _NUMBER.match(value[:64])
        if match is None:
            return None
        value = float(match[1])
        if match[2]:
            below = float(match[2])
            value = value / below if below else float("nan")
    if isinstance(value, int):
        return float(value) if abs(value) < 1 << 1000 else None
    return value if isinstance(value, float) and abs(value) < float("inf") else None


def whole(value: Any, low: int, high: int) -> int | None:
    """A whole number between two bounds."""
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 19:
        found: float | int | None = int(value)
    else:
        found = value if isinstance(value, int) and not isinstance(value, bool) else number(value)
    if found is None or not low <= found <= high or found != int(found):
        return None
    return int(found)


def truth(value: Any) -> bool:
    """Whether a flag is set: 1, "1", true, "true"."""
    return value in (1, "1", True, "true")


def clock(value: Any) -> datetime | None:
    """A time of an unnamed clock: "2009-07-04 12:30:00", or as EXIF writes it, "2009:07:04 12:30:00"."""
    value = unwrapped(value)
    match = _CLOCK.match(value[:64]) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) if part else 0 for part in match.groups())
    try:
        # Flickr writes 01 where a month or day is not known; others write 00.
        return datetime(year, month or 1, day or 1, hour, minute, second)
    except ValueError:
        return None


def instant(value: Any) -> datetime | None:
    """A time in UTC: Unix seconds, as a number or text, or an ISO text."""
    seconds = whole(unwrapped(value), 1, LAST_SECOND)
    if seconds is not None:
        return datetime.fromtimestamp(seconds, UTC)
    found = clock(value)
    return found.replace(tzinfo=UTC) if found else None


def several(value: Any, name: str) -> list[Any] | None:
    """The items of a list, of {name: list}, or of {name: one item}; None where there is no list of items."""
    if isinstance(value, dict):
        if name not in value:
            return None
        value = value[name]
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else None
