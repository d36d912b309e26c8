"""The bulk reader for the CPU: openat, preadv and close of the C library, called from compiled code."""

import errno
import os

import numpy as np

from engine.store.native import native
from engine.store.reader import Block
from engine.store.rows_file import aligned
from engine.store.sources import Listing

_HERE = -100  # AT_FDCWD: names are paths from the working directory
# A block of files from more folders than this is opened by path: so many open folders, times the threads, would come
# near the 1,024 files that a process may have open.
_MANY_PLACES = 16
_PAGES = 6 * 4096  # room for a record and more
_ASKED = 4  # files of a block that stand for the others


def _is_cold(records: Listing) -> bool:
    """Whether most files of a block are not in the page cache, and so better read past it.

    Nobody will read them again soon, and the pages they would take, fresh memory of the system, cost more than the
    reading: benchmarks/results/ingest_scale.md.
    """
    own = np.flatnonzero(records.offset < 0)
    if not len(own) or not hasattr(os, "RWF_NOWAIT"):
        return False
    asked = own[:: -(-len(own) // _ASKED)]
    return 2 * sum(_is_absent(records.path(int(i))) for i in asked) > len(asked)


def _is_absent(path: bytes) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.preadv(handle, [bytearray(1)], 0, os.RWF_NOWAIT) < 0
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(handle)


class DirectReader:
    """Reads blocks of files on the CPU; see `engine.store.reader.Reader`."""

    def __init__(self, files: int) -> None:
        del files  # the layers go straight to the block
        self._read = native("read_records")
        self._scratch = np.empty(16, np.int64)
        self._page = aligned(_PAGES)

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
        place, offset = local.astype(np.int32), np.ascontiguousarray(records.offset, np.int64)
        name = np.ascontiguousarray(name_at, np.int64) + names.ctypes.data
        self._scratch[13:] = self._scratch.ctypes.data, block.fc7.ctypes.data, block.fc8.ctypes.data
        try:
            for i, number in enumerate(used):
                try:
                    handles[i] = os.open(records.places[number], os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError:
                    handles[i] = -2  # every record in it is looked at again, and says why
            arrays = (handles, place, offset, name, self._scratch, block.fc7, block.fc8, block.good, self._page)
            self._read(n, *(array.ctypes.data for array in arrays), _is_cold(records))
        finally:
            for handle in handles[handles >= 0]:
                os.close(int(handle))
