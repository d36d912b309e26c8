"""Loops over system calls and bytes for Numba to compile; `engine.store.native` keeps and loads what they become.

Plain functions of numbers and pointers that allocate nothing and raise nothing, so that their machine code stands
alone: it calls the C library and no part of Numba or Python. Each gives an int64.
"""
# mypy: disallow-untyped-decorators=False

import os
from typing import Any

import numpy as np
from numba import njit, types

from engine.store.archives.walk import FUNCTIONS as TAR
from engine.store.dat import FC7_DIM, FC8_DIM, RECORD_BYTES

_openat = types.ExternalFunction("openat", types.int32(types.int32, types.intp, types.int32))
_preadv = types.ExternalFunction(
    "preadv", types.int64(types.int32, types.CPointer(types.int64), types.int32, types.int64)
)
_pread = types.ExternalFunction(
    "pread", types.int64(types.int32, types.CPointer(types.uint32), types.uint64, types.int64)
)
_close = types.ExternalFunction("close", types.int32(types.int32))

# Without O_NONBLOCK, opening a pipe that somebody named 1.dat would wait for a writer for ever.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_DIRECT = _FLAGS | getattr(os, "O_DIRECT", 0)
_PARTS = 5  # header, fc8, header, fc7, and one byte that only a longer file fills
_PAGES = -(-(RECORD_BYTES + 1) // 4096) * 4096  # a record and at least one byte more, in whole pages
_EXPONENT = np.uint32(0x7F800000)

# struct dirent64 of getdents(2): d_ino 8 bytes, d_off 8, d_reclen 2, d_type 1, d_name up to a zero byte; padded to 8.
_RECLEN, _TYPE, _NAME = 16, 18, 19
_UNKNOWN, _FOLDER, _REGULAR, _LINK = 0, 4, 8, 10  # values of d_type
_ZERO, _NINE, _DOT, _D, _A, _T, _LOWER = 48, 57, 46, 100, 97, 116, 32


def sort_out(entries: Any, read: Any, ids: Any, name_at: Any, names: Any, others: Any, counts: Any) -> Any:
    """Sort out the first `read` bytes of what getdents64 wrote to `entries` (uint8); see `engine.store.scan`.

    names: (read,) uint8. ids, name_at, others: (read // 24,) int64; others: where an entry begins in `entries`.
    counts: (4,) int64, of ids, bytes of names, others, and ignored entries.
    """
    found = end = left = ignored = 0
    at = np.int64(0)
    while at < read:
        start = at + _NAME
        digits, photo_id = 0, np.int64(0)
        while digits < 18 and _ZERO <= entries[start + digits] <= _NINE:
            photo_id = photo_id * 10 + np.int64(entries[start + digits] - _ZERO)
            digits += 1
        stop = start + digits
        while entries[stop] != 0:
            stop += 1
        dat = (
            stop - start >= 4
            and entries[stop - 4] == _DOT
            and entries[stop - 3] | _LOWER == _D
            and entries[stop - 2] | _LOWER == _A
            and entries[stop - 1] | _LOWER == _T
        )
        kind = entries[at + _TYPE]
        if dat and digits > 0 and stop == start + digits + 4 and kind == _REGULAR:
            ids[found], name_at[found] = photo_id, end
            found += 1
            for i in range(start, stop + 1):
                names[end] = entries[i]
                end += 1
        elif entries[start] == _DOT and (stop == start + 1 or (stop == start + 2 and entries[start + 1] == _DOT)):
            pass  # the folder itself and the one above it
        elif dat or kind == _FOLDER or kind == _LINK or kind == _UNKNOWN:  # noqa: SIM109 (a tuple is slower)
            others[left] = at
            left += 1
        else:
            ignored += 1
        at += np.int64(entries[at + _RECLEN]) | np.int64(entries[at + _RECLEN + 1]) << 8
    counts[0], counts[1], counts[2], counts[3] = found, end, left, ignored
    return 0


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _not_finite(values: Any, start: Any, length: Any) -> Any:
    """Whether float32 values, seen as uint32, hold a NaN or an infinity: an exponent of all ones."""
    found = np.int32(0)
    for i in range(start, start + length):
        found += np.int32((values[i] & _EXPONENT) == _EXPONENT)
    return found > 0


@njit(error_model="numpy")  # pragma: no cover (runs only compiled)
def _past_cache(folder: Any, name: Any, page: Any, fc7: Any, at7: Any, fc8: Any, at8: Any) -> Any:
    """Read a file by way of `page` (24,576 bytes on a page boundary): bytes read, −1 where that way does not exist."""
    handle = _openat(folder, name, _DIRECT)
    if handle < 0:
        return np.int64(-1)
    length = _pread(handle, page, _PAGES, 0)
    _close(handle)
    if length == RECORD_BYTES:
        headers = page[0] == FC8_DIM and page[1] == 0 and page[2 + FC8_DIM] == FC7_DIM and page[3 + FC8_DIM] == 0
        if not headers:
            return np.int64(0)
        for i in range(FC8_DIM):
            fc8[at8 + i] = page[2 + i]
        for i in range(FC7_DIM):
            fc7[at7 + i] = page[4 + FC8_DIM + i]
    return length


def read_records(
    n: Any,
    places: Any,
    place: Any,
    offset: Any,
    name_at: Any,
    scratch: Any,
    fc7: Any,
    fc8: Any,
    good: Any,
    page: Any,
    direct: Any,
) -> Any:
    """Fill row i of fc7 (n, 4096) and fc8 (n, 1000), seen as uint32, from record i; good: (n,) uint8, if it is.

    places: int32 handles; place: (n,) int32, into them. offset: (n,) int64, where the record begins in the archive
    that is its place; below 0, the place is the folder of a file whose name is at address name_at[i] (n,) int64.
    scratch: (16,) int64: five (address, length) pairs for preadv, two headers, the spill byte, and in the last three
    the addresses of itself, fc7 and fc8. direct: whether files are read past the page cache, by way of `page`,
    24,576 bytes that begin on a page.
    """
    base, at7, at8 = scratch[13], scratch[14], scratch[15]
    scratch[0], scratch[1] = base + 80, 8
    scratch[3] = FC8_DIM * 4
    scratch[4], scratch[5] = base + 88, 8
    scratch[7] = FC7_DIM * 4
    scratch[8], scratch[9] = base + 96, 1
    for i in range(n):
        good[i] = 0
        scratch[2] = at8 + i * FC8_DIM * 4
        scratch[6] = at7 + i * FC7_DIM * 4
        if offset[i] >= 0:  # in an archive, whose member was found to be as long as a record
            length = _preadv(places[place[i]], scratch, _PARTS - 1, offset[i])
        else:
            if direct:
                length = _past_cache(places[place[i]], name_at[i], page, fc7, i * FC7_DIM, fc8, i * FC8_DIM)
                if length >= 0:
                    finite = not (_not_finite(fc8, i * FC8_DIM, FC8_DIM) or _not_finite(fc7, i * FC7_DIM, FC7_DIM))
                    good[i] = length == RECORD_BYTES and finite
                    continue
            handle = _openat(places[place[i]], name_at[i], _FLAGS)
            if handle < 0:
                continue
            length = _preadv(handle, scratch, _PARTS, 0)
            _close(handle)
        if length != RECORD_BYTES or scratch[10] != FC8_DIM or scratch[11] != FC7_DIM:
            continue
        if not (_not_finite(fc8, i * FC8_DIM, FC8_DIM) or _not_finite(fc7, i * FC7_DIM, FC7_DIM)):
            good[i] = 1
    return 0


_U8, _U32, _I32, _I64 = (types.CPointer(kind) for kind in (types.uint8, types.uint32, types.int32, types.int64))
FUNCTIONS = {
    **TAR,
    "sort_out": (sort_out, (_U8, types.int64, _I64, _I64, _U8, _I64, _I64)),
    "read_records": (read_records, (types.int64, _I32, _I32, _I64, _I64, _I64, _U32, _U32, _U8, _U32, types.int64)),
}
# What the machine code may call: the C library, and what LLVM itself makes of loops.
CALLS = {"openat", "pread", "preadv", "close", "memcpy", "memmove", "memset", "strlen"}


def compiled(name: str) -> str:
    """The LLVM module of a function, which is called as the function is."""
    python, arguments = FUNCTIONS[name]
    made = njit(types.int64(*arguments), error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(python)
    (signature,) = made.signatures
    text: str = made.inspect_llvm(signature)
    return text.replace(made.overloads[signature].fndesc.llvm_func_name, name)
