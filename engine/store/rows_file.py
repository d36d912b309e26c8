"""A file of rows written in large pieces from several threads, past the page cache where the file system allows it."""

import errno
import os
import threading
from pathlib import Path

import numpy as np

from engine.store.durable import write_at

PAGE = 4096
# Shorter pieces than this are not worth the trouble of alignment.
_DIRECT_LEAST = 16 * PAGE
_REFUSED = (
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.ENOTSUP,
    errno.EFAULT,
)  # the last: of page-locked memory, by some drivers


class RowsFile:
    """Whole pages go straight from the caller's memory to the disk (O_DIRECT), what begins or ends a page through
    the page cache.

    That copies nothing, needs no fresh memory for pages that nobody will read soon (on virtual machines the first
    touch of one costs more than reading the file it holds), and leaves little to flush at the end:
    benchmarks/results/ingest.md.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self._local = threading.local()
        self._handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644)
        self._direct = -1
        try:
            self._direct = os.open(path, os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_DIRECT", 0))
        except OSError as error:
            if error.errno not in _REFUSED:
                os.close(self._handle)
                raise

    def write(self, data: memoryview, offset: int) -> None:
        """Write bytes at `offset`; safe from several threads for ranges that do not overlap."""
        first = -(-offset // PAGE) * PAGE
        end = offset + len(data)
        last = end // PAGE * PAGE
        if self._direct < 0 or last - first < _DIRECT_LEAST:
            write_at(self._handle, data, offset)
            return
        if offset < first:
            write_at(self._handle, data[: first - offset], offset)
        self._write_pages(data[first - offset : last - offset], first)
        if last < end:
            write_at(self._handle, data[last - offset :], last)

    def _write_pages(self, pages: memoryview, offset: int) -> None:
        if np.frombuffer(pages, np.uint8).ctypes.data % PAGE:
            pages = self._aligned(pages)
        while pages:
            try:
                written = os.pwrite(self._direct, pages, offset)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                written = 0
            if not written or written % PAGE:  # the page cache takes what this way does not
                write_at(self._handle, pages[written:], offset + written)
                return
            pages, offset = pages[written:], offset + written

    def _aligned(self, pages: memoryview) -> memoryview:
        scratch: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < len(pages):
            scratch = self._local.scratch = aligned(len(pages))
        scratch[: len(pages)] = pages
        return scratch[: len(pages)].data

    def read(self, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        return os.pread(self._handle, size, offset)

    def cut(self, size: int) -> None:
        """Give the file a length of `size` bytes, if it has another."""
        if os.fstat(self._handle).st_size != size:
            os.ftruncate(self._handle, size)

    def sync(self) -> None:
        """Return when all that was written is on the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)
        if self._direct >= 0:
            os.close(self._direct)


def aligned(size: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """`size` bytes of memory that begin on a page."""
    room = np.empty(size + PAGE, np.uint8)
    start = -room.ctypes.data % PAGE
    return room[start : start + size]
