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
_MANY_FOLDERS = 16
_PARTS = 5  # header, fc8, header, fc7, and one byte that only a longer file fills


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def _read(folders: Any, folder: Any, names: Any, name_at: Any, scratch: Any, fc7: Any, fc8: Any, good: Any) -> None:
    """Fill one row per file. scratch: (16,) int64: five (address, length) pairs, two headers, the spill byte."""
    base = scratch.ctypes.data
    scratch[0], scratch[1] = base + 80, 8
    scratch[3] = FC8_DIM * 4
    scratch[4], scratch[5] = base + 88, 8
    scratch[7] = FC7_DIM * 4
    scratch[8], scratch[9] = base + 96, 1
    at7, at8, at_names = fc7.ctypes.data, fc8.ctypes.data, names.ctypes.data
    for i in range(len(folder)):
        good[i] = False
        handle = _openat(folders[folder[i]], at_names + name_at[i], _FLAGS)
        if handle < 0:
            continue
        scratch[2] = at8 + i * FC8_DIM * 4
        scratch[6] = at7 + i * FC7_DIM * 4
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

    def read(self, files: Listing, block: Block) -> None:
        """See `Reader.read`."""
        n = len(files)
        names, name_at = files.names, files.name_at
        used, local = np.unique(files.folder, return_inverse=True)
        if len(used) > _MANY_FOLDERS:
            used, local = used[:0], np.zeros(n, np.int32)
            paths = [files.path(i) + b"\0" for i in range(n)]
            names, name_at = np.frombuffer(b"".join(paths), np.uint8), np.cumsum([0, *map(len, paths[:-1])])
        handles = np.full(max(len(used), 1), _HERE, np.int32)
        try:
            for i, folder in enumerate(used):
                try:
                    handles[i] = os.open(files.folders[folder], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except OSError:
                    handles[i] = -2  # every file in it is looked at again, and says why
            _read(
                handles, local.astype(np.int32), names, name_at.astype(np.int64), self._scratch,
                block.fc7[:n].view("<u4"), block.fc8[:n].view("<u4"), block.good[:n],
            )  # fmt: skip
        finally:
            for handle in handles[handles >= 0]:
                os.close(int(handle))
