"""The bulk reader for the CPU: openat, preadv and close of the C library, called from Numba."""

import os
from typing import Any

import numba
import numpy as np
from numba import types

from engine.store.dat import FC7_DIM, FC8_DIM, RECORD_BYTES
from engine.store.reader import Block
from engine.store.sources import Listing
from kernels.cpu import row_not_finite

# Symbols of the C library, found by name when the code is linked, so that Numba can cache what it compiled.
_openat = types.ExternalFunction("openat", types.int32(types.int32, types.voidptr, types.int32))
_preadv = types.ExternalFunction("preadv", types.int64(types.int32, types.voidptr, types.int32, types.int64))
_close = types.ExternalFunction("close", types.int32(types.int32))

# Without O_NONBLOCK, opening a pipe that somebody named 1.dat would wait for a writer for ever.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_HERE = -100  # AT_FDCWD: names are paths from the working directory
# A block of files from more folders than this is opened by path: so many open folders, times the threads, would come
# near the 1,024 files that a process may have open.
_MANY_PLACES = 16
_PARTS = 5  # header, fc8, header, fc7, and one byte that only a longer file fills


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def _read(
    places: Any, place: Any, offset: Any, names: Any, name_at: Any, scratch: Any, fc7: Any, fc8: Any, good: Any
) -> None:
    """Fill one row per record. scratch: (16,) int64: five (address, length) pairs, two headers, the spill byte."""
    base = scratch.ctypes.data
    scratch[0], scratch[1] = base + 80, 8
    scratch[3] = FC8_DIM * 4
    scratch[4], scratch[5] = base + 88, 8
    scratch[7] = FC7_DIM * 4
    scratch[8], scratch[9] = base + 96, 1
    at7, at8, at_names = fc7.ctypes.data, fc8.ctypes.data, names.ctypes.data
    for i in range(len(place)):
        good[i] = False
        scratch[2] = at8 + i * FC8_DIM * 4
        scratch[6] = at7 + i * FC7_DIM * 4
        if offset[i] >= 0:  # in an archive, whose member was found to be as long as a record
            length = _preadv(places[place[i]], base, _PARTS - 1, offset[i])
        else:
            handle = _openat(places[place[i]], at_names + name_at[i], _FLAGS)
            if handle < 0:
                continue
            length = _preadv(handle, base, _PARTS, 0)
            _close(handle)
        if length != RECORD_BYTES or scratch[10] != FC8_DIM or scratch[11] != FC7_DIM:
            continue
        good[i] = not (row_not_finite(fc8[i]) or row_not_finite(fc7[i]))


class DirectReader:
    """Reads blocks of files on the CPU; see `engine.store.reader.Reader`."""

    def __init__(self, files: int) -> None:
        del files  # the layers go straight to the block
        self._scratch = np.empty(16, np.int64)

    def read(self, records: Listing, block: Block) -> None:
        """See `Reader.read`."""
        n = len(records)
        names, name_at = records.names, records.name_at
        used, local = np.unique(records.place, return_inverse=True)
        by_path = len(used) > _MANY_PLACES and bool((records.offset < 0).all())
        if by_path:
            used, local = used[:0], np.zeros(n, np.int32)
            paths = [records.path(i) + b"\0" for i in range(n)]
            names, name_at = np.frombuffer(b"".join(paths), np.uint8), np.cumsum([0, *map(len, paths[:-1])])
        handles = np.full(max(len(used), 1), _HERE, np.int32)
        try:
            for i, place in enumerate(used):
                try:
                    handles[i] = os.open(records.places[place], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError:
                    handles[i] = -2  # every record in it is looked at again, and says why
            _read(
                handles, local.astype(np.int32), records.offset, names, name_at.astype(np.int64), self._scratch,
                block.fc7[:n].view("<u4"), block.fc8[:n].view("<u4"), block.good[:n],
            )  # fmt: skip
        finally:
            for handle in handles[handles >= 0]:
                os.close(int(handle))
