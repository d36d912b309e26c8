"""What one folder holds, by getdents64 of the C library, called from Numba: no Python object per file, no GIL.

`scan` means what `engine.store.scandir.scan` means. Importing this module fails with ImportError where it cannot work:
without Numba, or with a C library that has no getdents64 (glibc before 2.30).
"""
# mypy: disallow-untyped-decorators=False

import ctypes
import os
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types

from engine.store.scandir import FOLDER, LINK, REGULAR, UNKNOWN, Scanned

if not hasattr(ctypes.CDLL(None), "getdents64"):  # LLVM would end the process when it cannot find the symbol
    raise ImportError("the C library has no getdents64")

_getdents64 = types.ExternalFunction("getdents64", types.int64(types.int32, types.voidptr, types.uint64))
_errno = types.ExternalFunction("__errno_location", types.CPointer(types.int32)())

_BUFFER = 1 << 17  # bytes asked for at once: about 4,000 entries of 32 bytes
# struct dirent64 of getdents(2): d_ino 8 bytes, d_off 8, d_reclen 2, d_type 1, d_name up to a zero byte; padded to 8.
_SHORTEST, _RECLEN, _TYPE, _NAME = 24, 16, 18, 19
_ENOENT = 2
_FOUND, _NAMES, _OTHERS, _IGNORED = 0, 1, 2, 3
_ZERO, _NINE, _DOT, _D, _A, _T, _LOWER = 48, 57, 46, 100, 97, 116, 32


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def _ends_in_dat(entries: Any, dot: Any) -> Any:
    """Whether the four bytes from `dot` are `.dat` in either case of letters."""
    return (
        entries[dot] == _DOT
        and entries[dot + 1] | _LOWER == _D
        and entries[dot + 2] | _LOWER == _A
        and entries[dot + 3] | _LOWER == _T
    )


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def _sort_out(entries: Any, read: Any, ids: Any, name_at: Any, names: Any, others: Any, counts: Any) -> None:
    """Sort out the entries in the first `read` bytes of a buffer.

    entries, names: (b,) uint8. ids, name_at, others: (b // 24,) int64; others: where an entry begins in `entries`.
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
        dat = stop - start >= 4 and _ends_in_dat(entries, stop - 4)
        kind = entries[at + _TYPE]
        if dat and digits > 0 and stop == start + digits + 4 and kind == REGULAR:
            ids[found], name_at[found] = photo_id, end
            found += 1
            for i in range(start, stop + 1):
                names[end] = entries[i]
                end += 1
        elif entries[start] == _DOT and (stop == start + 1 or (stop == start + 2 and entries[start + 1] == _DOT)):
            pass  # the folder itself and the one above it
        elif dat or kind in (FOLDER, LINK, UNKNOWN):
            others[left] = at
            left += 1
        else:
            ignored += 1
        at += np.int64(entries[at + _RECLEN]) | np.int64(entries[at + _RECLEN + 1]) << 8
    counts[_FOUND], counts[_NAMES], counts[_OTHERS], counts[_IGNORED] = found, end, left, ignored


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def _fill(handle: Any, entries: Any, ids: Any, name_at: Any, names: Any, others: Any, counts: Any) -> Any:
    """Read one buffer of entries and sort them out: bytes read, 0 at the end, or minus errno. Arrays: `_sort_out`."""
    read = _getdents64(handle, entries.ctypes.data, len(entries))
    if read < 0:
        return -_errno()[0]
    _sort_out(entries, read, ids, name_at, names, others, counts)
    return read


def scan(handle: int) -> Scanned:
    """List the folder that is open for reading as `handle`; see `engine.store.scandir.scan`."""
    entries, names = np.empty(_BUFFER, np.uint8), np.empty(_BUFFER, np.uint8)
    ids, name_at, left = (np.empty(_BUFFER // _SHORTEST, np.int64) for _ in range(3))
    counts = np.zeros(4, np.int64)
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]] = []
    others: list[tuple[bytes, int]] = []
    ignored = end = 0
    while (read := _fill(handle, entries, ids, name_at, names, left, counts)) > 0:
        found, length, more, passed = counts.tolist()
        parts.append((ids[:found].copy(), name_at[:found] + end, names[:length].copy()))
        others += [_other(entries, at) for at in left[:more].tolist()]
        ignored, end = ignored + passed, end + length
    if read < 0 and read != -_ENOENT:  # ENOENT: the folder was removed while it was open, and so holds nothing
        raise OSError(-read, os.strerror(-read))
    if not parts:
        parts = [(ids[:0], name_at[:0], names[:0])]
    photo_ids, positions, blob = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Scanned(photo_ids=photo_ids, name_at=positions, names=blob, others=others, ignored=ignored)


def _other(entries: npt.NDArray[np.uint8], at: int) -> tuple[bytes, int]:
    """The name and d_type of the entry that begins at `at`."""
    record = entries[at : at + _NAME + 256].tobytes()  # a name has at most 255 bytes
    return record[_NAME:].split(b"\0", 1)[0], record[_TYPE]
