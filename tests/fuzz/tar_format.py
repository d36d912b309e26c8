"""Tar by its specification, in plain Python: what is right where tarfile and the engine differ.

POSIX.1-2017 "pax", section EXTENDED DESCRIPTION; GNU tar's manual, "Basic Tar Format". A header is one whose checksum
holds. Reading ends at a block of zeros, at what is no header, and where the archive is cut.
"""

import re

from tests.store.archives.builders import DAT

_BLOCK, _RECORD = 512, 20_400
_NUMBER_FIELDS = ((100, 108), (108, 116), (116, 124), (124, 136), (136, 148), (148, 156), (329, 337), (337, 345))
_NO_CONTENT = b"123456"  # links, devices, folders, pipes


def number(field: bytes) -> int | None:
    """A number in octal digits, or in base 256; None when it is neither."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.split(b"\0", 1)[0].strip(b" ")
    if not text:
        return 0
    return int(text, 8) if re.fullmatch(rb"[0-7]+", text) else None


def is_header(block: bytes) -> bool:
    """Whether the checksum holds: of the bytes, or as old tars had it of signed ones."""
    said = number(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    return len(block) == _BLOCK and said in (sum(rest), sum(b - 256 if b > 127 else b for b in rest))


def pax_records(data: bytes) -> dict[bytes, bytes] | None:
    """Keys and values of an extended header; None when it is damaged."""
    said: dict[bytes, bytes] = {}
    while data and data[0]:
        match = re.match(rb"(\d+) ([^=]*)=", data)
        length = int(match[1]) if match else 0
        if match is None or not match.end() < length <= len(data) or data[length - 1 : length] != b"\n":
            return None
        said[match[2]] = data[match.end() : length - 1]
        data = data[length:]
    return said


def is_odd(block: bytes) -> bool:
    """Whether a field of a header, its checksum right, holds no number: a reason to stop for who trusts no more."""
    sparse = [*((at, at + 12) for at in range(386, 482, 12)), (483, 495)] if block[156:157] == b"S" else []
    fields = [block[start:end] for start, end in (*_NUMBER_FIELDS, *sparse)]
    return any(number(field) is None or field[0] in range(0x81, 0xFF) for field in fields)


def members(data: bytes, odd: list[int] | None = None) -> list[tuple[str, bytes]]:
    """(path, content) of each regular file of 20,400 bytes whose path ends in a photo id and leads nowhere else.

    odd: takes how many members had been found at each header that `is_odd`.
    """
    found: list[tuple[str, bytes]] = []
    at, long_name = 0, b""
    always, once = dict[bytes, bytes](), dict[bytes, bytes]()
    while len(block := data[at : at + _BLOCK]) == _BLOCK and any(block) and is_header(block):
        if odd is not None and is_odd(block):
            odd.append(len(found))
        kind, size = block[156:157], number(block[124:136])
        if kind == b"\0" and block[:100].split(b"\0", 1)[0].endswith(b"/"):  # how tar of Unix V7 wrote a folder
            kind = b"5"
        at += _BLOCK
        if kind in b"LKxgX" and kind:
            if size is None or size < 0:
                break
            content = data[at : at + size]
            at += -(-size // _BLOCK) * _BLOCK
            if len(content) < size or size > 1 << 20:
                break
            if kind == b"L":
                long_name = content.split(b"\0", 1)[0]
            elif kind != b"K":
                said = pax_records(content)
                if said is None:
                    break
                (always if kind == b"g" else once).update(said)
            continue
        pax = always | once
        name = pax.get(b"path") or long_name or plain_name(block)
        if b"size" in pax:
            if not pax[b"size"].isdigit():
                break
            size = int(pax[b"size"])
        if size is None or size < 0:
            break
        sparse = kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax)
        while kind == b"S" and block[482 if block[156:157] == b"S" else 504]:  # the map goes on
            block, at = data[at : at + _BLOCK], at + _BLOCK
            if len(block) < _BLOCK:
                return found
        content = data[at : at + size]
        if kind not in _NO_CONTENT or not kind:
            if len(content) < size:
                break
            at += -(-size // _BLOCK) * _BLOCK
        text = name.decode("utf-8", "surrogateescape")
        wanted = DAT.fullmatch(text) and not text.startswith("/") and ".." not in text.split("/") and "\0" not in text
        if wanted and kind in (b"0", b"\0", b"7") and not sparse and size == _RECORD:
            found.append((text, content))
        long_name, once = b"", {}
    return found


def plain_name(block: bytes) -> bytes:
    """The path of a header that stands for itself; GNU's has times where POSIX has a prefix."""
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name
