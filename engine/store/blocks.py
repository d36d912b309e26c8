"""The checksummed blocks of a store's layers, read at the speed of the disk and in bounded memory."""

import ctypes
import errno
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from engine.store.manifest import Manifest, digest
from engine.store.rows_file import PAGE, aligned
from kernels.device import cpu_threads

# One read. Pieces of 4 MiB were a tenth slower on the build machine, larger ones no faster.
PIECE = 8 << 20
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_REFUSED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP)


def read_threads() -> int:
    """How many threads read: two for each core, so that one waits for the disk while the other sums; 32 at most."""
    return min(2 * cpu_threads(), 32)


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows start to stop−1 of a layer, which have one checksum, of their `size` bytes from `offset` of the file."""

    layer: str
    number: int
    start: int
    stop: int
    offset: int
    size: int
    xxh3: str


def layer_blocks(manifest: Manifest, name: str) -> Iterator[Block]:
    """The blocks of a layer, in order."""
    layer, start = manifest.layers[name], 0
    for number, (rows, xxh3) in enumerate(zip(manifest.block_rows, layer.xxh3, strict=True)):
        yield Block(
            layer=name, number=number, start=start, stop=start + rows, size=rows * layer.dim * 4, xxh3=xxh3,
            offset=manifest.header_bytes + start * layer.dim * 4,
        )  # fmt: skip
        start += rows


def grouped(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    """Neighbours together, as many as one read takes."""
    group: list[Block] = []
    for block in blocks:
        if group and block.offset + block.size - group[0].offset > PIECE:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def in_order(pool: ThreadPoolExecutor, work: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """What `work` gives for each item, in order, with no more than a few under way."""
    waiting: deque[Future[_Out]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > read_threads():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class DiskFile:
    """A file read in large pieces, from several threads at once.

    What does not lie in the page cache is read past it (O_DIRECT) into memory that is used again: fresh memory for
    pages that nobody will read soon costs more on virtual machines than the disk itself. What lies there is taken
    from there. keep: read everything through the page cache, for it will soon be wanted again.
    """

    def __init__(self, path: Path, *, keep: bool = False) -> None:
        self._local = threading.local()
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._direct = -1
        self._map: npt.NDArray[np.uint8] | None = None
        try:
            if not keep and _mincore() and (size := os.fstat(self._handle).st_size):
                self._map = np.frombuffer(mmap.mmap(self._handle, size, prot=mmap.PROT_READ), np.uint8)
                self._direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_DIRECT", 0))
        except OSError:  # then through the page cache, as any file
            pass

    def read(self, size: int, offset: int) -> npt.NDArray[np.uint8]:
        """Up to `size` bytes from `offset`, fewer at the end of the file; overwritten by this thread's next read."""
        first = offset // PAGE * PAGE
        room = self._room(-(-(offset + size) // PAGE) * PAGE - first)
        got = 0
        if self._direct >= 0 and not self._cached(first, len(room)):
            got = self._read_direct(room, first)
        while got < len(room) and (more := os.preadv(self._handle, [room[got:].data], first + got)):
            got += more
        return room[offset - first : max(min(got, offset - first + size), offset - first)]

    def _read_direct(self, room: npt.NDArray[np.uint8], offset: int) -> int:
        got = 0
        while got < len(room) and got % PAGE == 0:
            try:
                more = os.preadv(self._direct, [room[got:].data], offset + got)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                return got
            if not more:
                return got
            got += more
        return got

    def _room(self, size: int) -> npt.NDArray[np.uint8]:
        room: npt.NDArray[np.uint8] | None = getattr(self._local, "room", None)
        if room is None or len(room) < size:
            room = self._local.room = aligned(max(size, PIECE + 2 * PAGE))
        return room[:size]

    def _cached(self, offset: int, size: int) -> bool:
        """Whether most pages lie in the page cache. Where the system does not tell, they are said to."""
        if self._map is None or offset >= len(self._map):
            return True
        size = min(size, len(self._map) - offset)
        pages = np.empty(-(-size // PAGE), np.uint8)
        failed = _mincore()(self._map.ctypes.data + offset, size, pages.ctypes.data)
        return bool(failed) or 2 * int((pages & 1).sum()) > len(pages)

    def check(self, blocks: Sequence[Block]) -> list[tuple[Block, str]]:
        """Which of some neighbouring blocks are damaged, and how."""
        begin = blocks[0].offset
        size = blocks[-1].offset + blocks[-1].size - begin
        if size <= PIECE:
            try:
                data = self.read(size, begin)
            except OSError:  # one after the other then, to see which
                data = np.empty(0, np.uint8)
            parts = ((data[b.offset - begin : b.offset - begin + b.size], b.xxh3) for b in blocks)
            if len(data) == size and all(digest(part) == xxh3 for part, xxh3 in parts):
                return []
        return [(block, reason) for block in blocks if (reason := self.damage(block.offset, block.size, block.xxh3))]

    def damage(self, offset: int, size: int, xxh3: str) -> str:
        """Why these bytes are not what has this checksum; nothing, when they are. In bounded memory."""
        found = xxhash.xxh3_64()
        try:
            for at in range(0, size, PIECE):
                data = self.read(min(PIECE, size - at), offset + at)
                if len(data) < min(PIECE, size - at):
                    return "is cut short"
                found.update(data.data)
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        return "" if found.hexdigest() == xxh3 else "does not match its checksum"

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)
        if self._direct >= 0:
            os.close(self._direct)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@cache
def _mincore() -> Any:
    """The C library's function, which Python's mmap does not offer; None where there is none."""
    function = getattr(ctypes.CDLL(None), "mincore", None)
    if function:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return function
