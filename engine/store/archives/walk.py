"""Plain tar headers in bulk, in Numba: regular files of 20,400 bytes whose name is a photo id.

A header that is not wholly plain ends a run: `engine.store.archives.headers` takes it, knows every flavour, and says
what is wrong. Nothing is refused here.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from engine.store.archives.kinds import BLOCK
from engine.store.dat import RECORD_BYTES

_pread = types.ExternalFunction("pread", types.int64(types.int32, types.voidptr, types.uint64, types.int64))
MEMBER = BLOCK + -(-RECORD_BYTES // BLOCK) * BLOCK  # a header and a record, padded
LONGEST_NAME = 101  # with the zero byte after it
_USTAR = np.frombuffer(b"ustar", np.uint8)
_TIME = np.frombuffer(b"time", np.uint8)
_TIMES = 2 * BLOCK  # a pax header that says nothing else


@numba.njit(nogil=True, cache=True, inline="never")  # pragma: no cover (runs only compiled)
def _octal(block: Any, start: int, end: int) -> int:
    """A number in octal digits, spaces before and a space or zero byte after; -1 for anything else."""
    value, digits = 0, 0
    for i in range(start, end):
        c = block[i]
        if 48 <= c < 56:
            value = value * 8 + (c - 48)
            digits += 1
        elif c == 32 and digits == 0:
            continue
        elif c in (0, 32):
            break
        else:
            return -1
    return value if digits else -1


@numba.njit(nogil=True, cache=True, inline="never")  # pragma: no cover (runs only compiled)
def _sum_is_right(block: Any) -> bool:
    """Whether a header has its checksum."""
    total = 0
    for i in range(BLOCK):
        total += block[i]
    for i in range(148, 156):
        total += 32 - int(block[i])
    return bool(_octal(block, 148, 156) == total)


@numba.njit(nogil=True, cache=True, inline="never")  # pragma: no cover (runs only compiled)
def _is_times(block: Any) -> bool:
    """Whether two blocks are a pax header of one block that says nothing but mtime, atime and ctime.

    Such a header stands before every member where times have fractions, and changes nothing in how to read it. Its
    records: a length in decimal digits, a space, key=value and a line feed (POSIX.1-2017, pax Interchange Format).
    """
    size = _octal(block, 124, 136)
    if block[156] != 120 or size < 1 or size > BLOCK or not _sum_is_right(block):  # 120: x
        return False
    for i in range(5):
        if block[257 + i] != _USTAR[i]:
            return False
    at, end = BLOCK, BLOCK + size
    while at < end:
        length, key = 0, at
        while key < end and 48 <= block[key] <= 57 and length < BLOCK:
            length = length * 10 + (int(block[key]) - 48)
            key += 1
        key += 1
        if key == at + 1 or length < key - at + 7 or at + length > end:
            return False
        if block[key - 1] != 32 or block[key + 5] != 61 or block[at + length - 1] != 10:
            return False
        if block[key] not in (109, 97, 99):  # m, a, c
            return False
        for i in range(4):
            if block[key + 1 + i] != _TIME[i]:
                return False
        at += length
    return True


@numba.njit(nogil=True, cache=True, inline="never")  # pragma: no cover (runs only compiled)
def _is_plain(block: Any) -> bool:
    """Checksum, type, size and magic of a header; neither a prefix nor a number in base 256."""
    if block[156] not in (48, 0) or _octal(block, 124, 136) != RECORD_BYTES or not _sum_is_right(block):
        return False
    posix = True
    for i in range(5):
        posix &= block[257 + i] == _USTAR[i]
    if posix and block[262] == 32:  # GNU's magic: where POSIX has a prefix there are times
        return bool(block[263] == 32 and block[264] == 0)
    return bool((posix or block[257] == 0) and block[262] == 0 and block[345] == 0)


@numba.njit(nogil=True, cache=True, inline="never")  # pragma: no cover (runs only compiled)
def _photo_id(block: Any, names: Any, at: int) -> tuple[int, int]:
    """Copy the path to names[at:] with a zero byte; its photo id, or -1, and where the copy ends."""
    length, base, dots = 0, 0, 0
    while length < 100 and block[length] != 0:
        c = block[length]
        if c == 47:
            if length == 0 or (dots == 2 and length - base == 2):  # absolute, or '..'
                return -1, at
            base, dots = length + 1, 0
        dots += c == 46
        names[at + length] = c
        length += 1
    names[at + length] = 0
    digits = length - base - 4
    if digits < 1 or digits > 18 or block[length - 4] != 46:
        return -1, at
    # 'dat' in either case
    if block[length - 3] | 32 != 100 or block[length - 2] | 32 != 97 or block[length - 1] | 32 != 116:
        return -1, at
    value = 0
    for i in range(base, base + digits):
        c = block[i]
        if c < 48 or c > 57:
            return -1, at
        value = value * 10 + (int(c) - 48)
    return value, at + length + 1


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def run_in_file(handle: int, at: int, end: int, ids: Any, offsets: Any, name_at: Any, names: Any, used: int) -> Any:
    """List plain members from byte `at` of a file of `end` bytes. (members, next byte, bytes of `names` used).

    Stops at what is not plain, or when `ids` or `names` has no room for one more.
    """
    block = np.empty(_TIMES, np.uint8)
    found = 0
    while found < len(ids) and used + LONGEST_NAME <= len(names) and at + BLOCK + RECORD_BYTES <= end:
        if _pread(handle, block.ctypes.data, BLOCK, at) != BLOCK:
            break
        first = at
        if block[156] == 120:
            first += _TIMES
            if _pread(handle, block.ctypes.data, _TIMES, at) != _TIMES or not _is_times(block):
                break
            if first + BLOCK + RECORD_BYTES > end or _pread(handle, block.ctypes.data, BLOCK, first) != BLOCK:
                break
        if not _is_plain(block):
            break
        photo_id, after = _photo_id(block, names, used)
        if photo_id < 0:
            break
        ids[found], offsets[found], name_at[found] = photo_id, first + BLOCK, used
        found, used, at = found + 1, after, first + MEMBER
    return found, at, used


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def run_in_memory(data: Any, at: int, ids: Any, records: Any, names: Any, used: int) -> Any:
    """Copy plain members that lie whole in data[at:]. (members, next byte, bytes of `names` used).

    ids: (room,) int64, records: (room, 20400) uint8. Names follow each other in `names`, each with a zero byte.
    """
    found = 0
    while found < len(ids) and used + LONGEST_NAME <= len(names) and at + MEMBER <= len(data):
        first = at
        if data[at + 156] == 120:
            first += _TIMES
            if first + MEMBER > len(data) or not _is_times(data[at:first]):
                break
        block = data[first : first + BLOCK]
        if not _is_plain(block):
            break
        photo_id, after = _photo_id(block, names, used)
        if photo_id < 0:
            break
        ids[found] = photo_id
        records[found, :] = data[first + BLOCK : first + BLOCK + RECORD_BYTES]
        found, used, at = found + 1, after, first + MEMBER
    return found, at, used
