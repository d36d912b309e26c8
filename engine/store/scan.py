"""What one folder holds, by getdents64 and a compiled loop: no Python object per file, no GIL.

`scan` means what `engine.store.scandir.scan` means. Importing this module fails with ImportError where it cannot work:
where the loop is not compiled yet and Numba is absent, or with a C library that has no getdents64 (glibc before 2.30).
"""

import ctypes
import os

import numpy as np
import numpy.typing as npt

from engine.store.native import native
from engine.store.scandir import Scanned

try:
    _getdents64 = ctypes.CDLL(None, use_errno=True).getdents64
except AttributeError:
    raise ImportError("the C library has no getdents64") from None
_getdents64.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_getdents64.restype = ctypes.c_ssize_t
_sort_out = native("sort_out")

_BUFFER = 1 << 17  # bytes asked for at once: about 4,000 entries of 32 bytes
_SHORTEST, _TYPE, _NAME = 24, 18, 19  # of an entry: bytes, and where its d_type and its name stand
_ENOENT = 2


def scan(handle: int) -> Scanned:
    """List the folder that is open for reading as `handle`; see `engine.store.scandir.scan`."""
    entries, names = np.empty(_BUFFER, np.uint8), np.empty(_BUFFER, np.uint8)
    ids, name_at, left = (np.empty(_BUFFER // _SHORTEST, np.int64) for _ in range(3))
    counts = np.zeros(4, np.int64)
    into = [array.ctypes.data for array in (ids, name_at, names, left, counts)]
    parts: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]] = []
    others: list[tuple[bytes, int]] = []
    ignored = end = 0
    while read := _read(handle, entries):
        _sort_out(entries.ctypes.data, read, *into)
        found, length, more, passed = counts.tolist()
        parts.append((ids[:found].copy(), name_at[:found] + end, names[:length].copy()))
        others += [_other(entries, at) for at in left[:more].tolist()]
        ignored, end = ignored + passed, end + length
    if not parts:
        parts = [(ids[:0], name_at[:0], names[:0])]
    photo_ids, positions, blob = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Scanned(photo_ids=photo_ids, name_at=positions, names=blob, others=others, ignored=ignored)


def _read(handle: int, entries: npt.NDArray[np.uint8]) -> int:
    """Read the next entries of an open folder, whole ones; gives the bytes, 0 at the end."""
    read: int = _getdents64(handle, entries.ctypes.data, len(entries))
    if read < 0:
        error = ctypes.get_errno()
        if error != _ENOENT:  # the folder was removed while it was open, and so holds nothing
            raise OSError(error, os.strerror(error))
    return max(read, 0)


def _other(entries: npt.NDArray[np.uint8], at: int) -> tuple[bytes, int]:
    """The name and d_type of the entry that begins at `at`."""
    record = entries[at : at + _NAME + 256].tobytes()  # a name has at most 255 bytes
    return record[_NAME:].split(b"\0", 1)[0], record[_TYPE]
