"""Plain tar headers in bulk: regular files of 20,400 bytes whose name is a photo id. For `engine.store.loops`.

A header that is not wholly plain ends a run: `engine.store.archives.headers` takes it, knows every flavour, and says
what is wrong. Nothing is refused here. `engine.store.archives.runs` calls what these functions are compiled to.
"""
# mypy: disallow-untyped-decorators=False

from typing import Any

import numpy as np
from numba import njit, types

from engine.store.archives.kinds import BLOCK
from engine.store.dat import RECORD_BYTES

_pread = types.ExternalFunction(
    "pread", types.int64(types.int32, types.CPointer(types.uint8), types.uint64, types.int64)
)
MEMBER = BLOCK + -(-RECORD_BYTES // BLOCK) * BLOCK  # a header and a record, padded
LONGEST_NAME = 101  # with the zero byte after it
_TIMES = 2 * BLOCK  # a pax header that says nothing but times


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _octal(data: Any, start: Any, end: Any) -> Any:
    """A number in octal digits, spaces before and a space or zero byte after; -1 for anything else."""
    value, digits = np.int64(0), 0
    for i in range(start, end):
        c = np.int64(data[i])
        if 48 <= c < 56:
            value = value * 8 + (c - 48)
            digits += 1
        elif c == 32 and digits == 0:
            continue
        elif c == 0 or c == 32:
            break
        else:
            return np.int64(-1)
    return value if digits else np.int64(-1)


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _sum_is_right(data: Any, at: Any) -> Any:
    """Whether the header that begins at byte `at` has its checksum."""
    total = np.int64(0)
    for i in range(at, at + BLOCK):
        total += np.int64(data[i])
    for i in range(at + 148, at + 156):
        total += 32 - np.int64(data[i])
    return _octal(data, at + 148, at + 156) == total


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _is_ustar(data: Any, at: Any) -> Any:
    return (
        data[at + 257] == 117 and data[at + 258] == 115 and data[at + 259] == 116
        and data[at + 260] == 97 and data[at + 261] == 114
    )  # fmt: skip


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _is_times(data: Any, start: Any) -> Any:
    """Whether two blocks are a pax header of one block that says nothing but mtime, atime and ctime.

    Such a header stands before every member where times have fractions, and changes nothing in how to read it. Its
    records: a length in decimal digits, a space, key=value and a line feed (POSIX.1-2017, pax Interchange Format).
    """
    size = _octal(data, start + 124, start + 136)
    if size < 1 or size > BLOCK or not _sum_is_right(data, start) or not _is_ustar(data, start):
        return False
    at = start + BLOCK
    end = at + size
    while at < end:
        length, key = np.int64(0), at
        while key < end and 48 <= data[key] <= 57 and length < BLOCK:
            length = length * 10 + (np.int64(data[key]) - 48)
            key += 1
        key += 1
        if key == at + 1 or length < key - at + 7 or at + length > end:
            return False
        if data[key - 1] != 32 or data[key + 5] != 61 or data[at + length - 1] != 10:
            return False
        if data[key] != 109 and data[key] != 97 and data[key] != 99:  # m, a, c
            return False
        if data[key + 1] != 116 or data[key + 2] != 105 or data[key + 3] != 109 or data[key + 4] != 101:  # time
            return False
        at += length
    return True


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _is_plain(data: Any, at: Any) -> Any:
    """Checksum, type, size and magic of a header; neither a prefix nor a number in base 256."""
    if (data[at + 156] != 48 and data[at + 156] != 0) or _octal(data, at + 124, at + 136) != RECORD_BYTES:
        return False
    if not _sum_is_right(data, at):
        return False
    posix = _is_ustar(data, at)
    if posix and data[at + 262] == 32:  # GNU's magic: where POSIX has a prefix there are times
        return data[at + 263] == 32 and data[at + 264] == 0
    return (posix or data[at + 257] == 0) and data[at + 262] == 0 and data[at + 345] == 0


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _photo_id(data: Any, start: Any, names: Any, to: Any, ends: Any) -> Any:
    """Copy the path to names[to:] with a zero byte; its photo id, or -1. ends[3]: where the copy ends."""
    length, base, dots = np.int64(0), np.int64(0), 0
    while length < 100 and data[start + length] != 0:
        c = data[start + length]
        if c == 47:
            if length == 0 or (dots == 2 and length - base == 2):  # absolute, or '..'
                return np.int64(-1)
            base, dots = length + 1, 0
        dots += c == 46
        names[to + length] = c
        length += 1
    names[to + length] = 0
    ends[3] = to + length + 1
    digits = length - base - 4
    dot = start + length - 4
    if digits < 1 or digits > 18 or data[dot] != 46:
        return np.int64(-1)
    # 'dat' in either case
    if data[dot + 1] | 32 != 100 or data[dot + 2] | 32 != 97 or data[dot + 3] | 32 != 116:
        return np.int64(-1)
    value = np.int64(0)
    for i in range(start + base, start + base + digits):
        c = data[i]
        if c < 48 or c > 57:
            return np.int64(-1)
        value = value * 10 + (np.int64(c) - 48)
    return value


def run_in_file(
    handle: Any, at: Any, end: Any, room: Any, names_room: Any,
    ids: Any, offsets: Any, name_at: Any, names: Any, block: Any, ends: Any,
) -> Any:  # fmt: skip
    """List plain members from byte `at` of a file of `end` bytes; how many.

    room: of ids, offsets and name_at (int64); names_room: of names (uint8), whose first ends[2] bytes are taken.
    block: 1,024 bytes to work in. ends: (4,) int64, afterwards: next byte of the file in ends[1], bytes of names taken
    in ends[2]. Stops at what is not plain, or when there is no room for one more.
    """
    found, used = np.int64(0), ends[2]
    while found < room and used + LONGEST_NAME <= names_room and at + BLOCK + RECORD_BYTES <= end:
        if _pread(handle, block, BLOCK, at) != BLOCK:
            break
        first = at
        if block[156] == 120:  # x
            first += _TIMES
            if _pread(handle, block, _TIMES, at) != _TIMES or not _is_times(block, 0):
                break
            if first + BLOCK + RECORD_BYTES > end or _pread(handle, block, BLOCK, first) != BLOCK:
                break
        if not _is_plain(block, 0):
            break
        photo_id = _photo_id(block, 0, names, used, ends)
        if photo_id < 0:
            break
        ids[found], offsets[found], name_at[found] = photo_id, first + BLOCK, used
        found, used, at = found + 1, ends[3], first + MEMBER
    ends[1], ends[2] = at, used
    return found


def run_in_memory(
    data: Any, at: Any, end: Any, room: Any, names_room: Any, ids: Any, records: Any, names: Any, ends: Any
) -> Any:
    """Copy plain members that lie whole in data[at:end] (uint8); how many.

    ids: (room,) int64, records: (room, 20400) uint8. Names follow each other in `names`, each with a zero byte. ends,
    names_room: as for `run_in_file`.
    """
    found, used = np.int64(0), ends[2]
    while found < room and used + LONGEST_NAME <= names_room and at + MEMBER <= end:
        first = at
        if data[at + 156] == 120:  # x
            first += _TIMES
            if first + MEMBER > end or not _is_times(data, at):
                break
        if not _is_plain(data, first):
            break
        photo_id = _photo_id(data, first, names, used, ends)
        if photo_id < 0:
            break
        ids[found] = photo_id
        for i in range(RECORD_BYTES):
            records[found * RECORD_BYTES + i] = data[first + BLOCK + i]
        found, used, at = found + 1, ends[3], first + MEMBER
    ends[1], ends[2] = at, used
    return found


_U8, _I64, _NUMBER = types.CPointer(types.uint8), types.CPointer(types.int64), types.int64
FUNCTIONS = {
    "run_in_file": (run_in_file, (*[_NUMBER] * 5, _I64, _I64, _I64, _U8, _U8, _I64)),
    "run_in_memory": (run_in_memory, (_U8, *[_NUMBER] * 4, _I64, _U8, _U8, _I64)),
}
