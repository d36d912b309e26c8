"""Zip by its specification (PKWARE's APPNOTE 6.3.10), in plain Python: what stands in an archive, member by member."""

import struct
import zlib

from tests.store.archives.builders import DAT

_LOCAL, _ENTRY, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_RECORD = 20_400
Member = tuple[int, str, bytes]


def _directory(data: bytes) -> tuple[int, int]:
    """Where the directory begins, and how many members it has."""
    at = data.rfind(b"PK\5\6")
    while at >= 0 and (at + _END.size > len(data) or at + _END.size + _END.unpack_from(data, at)[7] != len(data)):
        at = data.rfind(b"PK\5\6", 0, at)
    if at < 0:
        return 0, 0
    fields = _END.unpack_from(data, at)
    count, start = fields[4], fields[6]
    if at >= 20 and data[at - 20 : at - 16] == b"PK\6\7":
        record_at = struct.unpack_from("<Q", data, at - 12)[0]
        if record_at + _END64.size <= len(data):
            fields = _END64.unpack_from(data, record_at)
            count, start = fields[7], fields[9]
    return start, count


def members(data: bytes) -> tuple[list[Member], list[Member]]:
    """(photo id, path, content) of the members that are records: those stored, unchecked; and all whose sum is right.

    A field of 0xFFFFFFFF is in the zip64 extra field, in the order size, packed size, place.
    """
    unchecked: list[Member] = []
    checked: list[Member] = []
    at, count = _directory(data)
    for _ in range(min(count, 1000)):
        if at + _ENTRY.size > len(data):
            break
        fields = _ENTRY.unpack_from(data, at)
        name_at = at + _ENTRY.size
        name = data[name_at : name_at + fields[10]]
        extra = data[name_at + fields[10] : name_at + fields[10] + fields[11]]
        at = name_at + fields[10] + fields[11] + fields[12]
        method, checksum = fields[4], fields[7]
        size, packed, place = _wide(extra, [fields[9], fields[8], fields[16]])
        content = _packed_bytes(data, place, packed)
        text = name.decode("utf-8", "surrogateescape")
        match = DAT.fullmatch(text)
        if match is None or content is None or size != _RECORD or fields[3] & 0x2041:
            continue
        if method == 0 and packed == _RECORD:
            unchecked.append((int(match[1]), text, content))
        elif method == 8:
            content = _inflated(content)
        if content is not None and len(content) == _RECORD and zlib.crc32(content) == checksum and method in (0, 8):
            checked.append((int(match[1]), text, content))
    return unchecked, checked


def _wide(extra: bytes, values: list[int]) -> list[int]:
    while len(extra) >= 4:
        key, length = struct.unpack_from("<2H", extra)
        if key == 1:
            field = extra[4 : 4 + length]
            for i, value in enumerate(values):
                if value == 0xFFFFFFFF and len(field) >= 8:
                    values[i], field = struct.unpack_from("<Q", field)[0], field[8:]
            break
        extra = extra[4 + length :]
    return values


def _packed_bytes(data: bytes, place: int, packed: int) -> bytes | None:
    if place + _LOCAL.size > len(data) or data[place : place + 4] != b"PK\3\4":
        return None
    fields = _LOCAL.unpack_from(data, place)
    start = place + _LOCAL.size + fields[9] + fields[10]
    return data[start : start + packed] if start + packed <= len(data) else None


def _inflated(data: bytes) -> bytes | None:
    decoder = zlib.decompressobj(-15)
    try:
        content = decoder.decompress(data, _RECORD + 1)
    except zlib.error:
        return None
    return content if decoder.eof else None
