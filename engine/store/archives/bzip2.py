"""bzip2 on all cores: each block is made a stream of its own, and the C library of Python's bz2 takes it from there.

Blocks must follow each other bit by bit, and the checksum of a block is checked before its data are given (but for
blocks that say more than 2 MiB). The libraries rapidgzip and indexed_bzip2 skip a block whose mark is damaged and
notice it only at the end of the stream; their memory for a bomb grows past 1 GiB with eight threads.
"""

import bz2
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from engine.store.archives.bits import BLOCK_MARK, END_MARK, MARK_BITS, find_mark, moved, number
from engine.store.archives.decompress import MORE_DATA, Decoder, Piece
from engine.store.archives.members import DamagedError

_READ = 1 << 20
_LONGEST_BLOCK = 3 << 20  # 900,000 symbols of at most 20 bits, and tables
# A block of 900 kB may say 46 MB of zeros. Of each that waits 2 MiB are kept, with 4 MB of the decoder that has the
# rest: 32 threads and a bomb of 10 GB took less than 600 MiB.
_PIECE = 1 << 21
_MOST_THREADS = 32
_FALSE_MARKS = 3  # inside one block, by chance: one bit in 2**47 begins what looks like a mark
_CUT = "the compressed stream is cut short"
_DAMAGED = "the compressed stream is damaged"


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """`bits` bits of `data` from bit `first`: from one mark to the next. level: the "9" of "BZh9"; end: in the file."""

    data: bytes
    first: int
    bits: int
    level: bytes
    end: int

    def number(self, first: int, count: int) -> int:
        return number(self.data, self.first + first, count)

    def alone(self) -> bytes:
        """As a stream of its own: header, block, end mark, and as checksum of the stream that of its one block."""
        tail = (END_MARK << 32 | self.number(MARK_BITS, 32)).to_bytes(10, "big")
        return b"BZh" + self.level + _put_together((self.data, self.first, self.bits), (tail, 0, 80))

    def joined(self, other: "_Segment") -> "_Segment":
        """One segment of this and the one after it, when the mark between them was none."""
        data = _put_together((self.data, self.first, self.bits), (other.data, other.first, other.bits))
        return _Segment(data=data, first=0, bits=self.bits + other.bits, level=self.level, end=other.end)


def _put_together(one: tuple[bytes, int, int], other: tuple[bytes, int, int]) -> bytes:
    """Bits and the bits that follow them: of each the data, the first bit, and how many."""
    before, after = moved(*one, 0), moved(*other, one[2] % 8)
    if one[2] % 8 == 0:
        return before.tobytes() + after.tobytes()
    before[-1] |= after[0]
    return before.tobytes() + after[1:].tobytes()


@dataclass(frozen=True, kw_only=True)
class _End:
    """The end of a stream, and the checksum that it says."""

    checksum: int


_Decoded = tuple[bytes, Decoder | None] | None  # the first 2 MiB and who has the rest; None: it is no block
_Waiting = deque[tuple[_Segment | _End | DamagedError, "Future[_Decoded] | None"]]


def decompress_bzip2(path: bytes, *, threads: int) -> Generator[Piece, None, None]:
    """The content of a bzip2 file of one or more streams, in order; see `decompress.decompress`."""
    threads = max(1, min(threads, _MOST_THREADS))
    waiting: _Waiting = deque()
    checksum = 0
    with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(threads, "bunzip2") as pool:  # noqa: PTH123
        items = _Reader(file.fileno()).items()
        try:
            while True:
                while len(waiting) < threads + 4 and (item := next(items, None)) is not None:
                    waiting.append((item, pool.submit(_decode, item) if isinstance(item, _Segment) else None))
                if not waiting:
                    return
                item, future = waiting.popleft()
                if isinstance(item, DamagedError):
                    raise item
                if isinstance(item, _End):
                    if item.checksum != checksum:
                        raise DamagedError(f"{_DAMAGED} (its checksum is wrong)", all_of_it=True)
                    checksum = 0
                    continue
                decoded = future.result() if future else None
                if decoded is None:
                    item, decoded = _with_the_next(item, waiting)
                checksum = ((checksum << 1 | checksum >> 31) & 0xFFFFFFFF) ^ item.number(MARK_BITS, 32)
                yield from ((piece, item.end) for piece in _whole(*decoded))
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(segment: _Segment) -> _Decoded:
    decoder = bz2.BZ2Decompressor()
    try:
        data = decoder.decompress(segment.alone(), _PIECE)
    except (OSError, ValueError, EOFError):
        return None
    if decoder.eof:
        return data, None
    return None if decoder.needs_input else (data, decoder)


def _with_the_next(segment: _Segment, waiting: _Waiting) -> tuple[_Segment, tuple[bytes, Decoder | None]]:
    """What was no block may be one together with what follows it. DamagedError when it is not."""
    for _ in range(_FALSE_MARKS):
        if not waiting or not isinstance(following := waiting[0][0], _Segment):
            break
        waiting.popleft()
        segment = segment.joined(following)
        if segment.bits <= _LONGEST_BLOCK * 8 and (decoded := _decode(segment)) is not None:
            return segment, decoded
    if waiting and isinstance(waiting[0][0], DamagedError) and waiting[0][0].args == (_CUT,):
        raise waiting[0][0]
    raise DamagedError(_DAMAGED)


def _whole(data: bytes, rest: Decoder | None) -> Iterator[bytes]:
    yield data
    while rest is not None and not rest.eof:
        try:
            data = rest.decompress(b"", _PIECE)
        except (OSError, ValueError, EOFError):
            data = b""
        if not data and not rest.eof:  # what was given of this block is not what was put in
            raise DamagedError(_DAMAGED, all_of_it=True)
        yield data


class _Reader:
    """Cuts a file at its marks."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._data = b""  # what was read and is not done with
        self._at = 0  # where in the file it begins
        self._eof = False

    def items(self) -> Iterator[_Segment | _End | DamagedError]:
        """Segments and ends of streams, in order; the last is the error, if there is one."""
        try:
            while self._more(4) or self._data:
                if self._at and not any(self._data[:4]):
                    self._zeros()
                    return
                if self._data[:3] != b"BZh" or self._data[3:4] not in tuple(b"%d" % i for i in range(1, 10)):
                    raise DamagedError(MORE_DATA if self._at else _DAMAGED)
                yield from self._stream(self._data[3:4])
        except DamagedError as error:
            yield error
        except OSError as error:
            yield DamagedError(f"it cannot be read ({error.strerror})")

    def _stream(self, level: bytes) -> Iterator[_Segment | _End]:
        if not self._more(14):
            raise DamagedError(_CUT)
        first = 32
        if number(self._data, first, MARK_BITS) not in (BLOCK_MARK, END_MARK):
            raise DamagedError(_DAMAGED)
        while not self._ends(first):
            after = self._next_mark(first)
            data = self._data[first // 8 : -(-after // 8)]
            end = self._at + -(-after // 8)
            yield _Segment(data=data, first=first % 8, bits=after - first, level=level, end=end)
            self._drop(after // 8)
            first = after % 8
        yield _End(checksum=number(self._data, first + MARK_BITS, 32))
        self._drop(-(-(first + MARK_BITS + 32) // 8))

    def _ends(self, first: int) -> bool:
        """Whether the mark at bit `first` ends a stream: another must begin after it, or nothing but zeros follow."""
        after = -(-(first + MARK_BITS + 32) // 8)
        if number(self._data, first, MARK_BITS) != END_MARK or not self._more(after):
            return False
        self._more(after + 10)
        next_ = self._data[after : after + 10]
        return not any(next_) or (next_[:3] == b"BZh" and number(next_, 32, MARK_BITS) in (BLOCK_MARK, END_MARK))

    def _next_mark(self, first: int) -> int:
        start = first + MARK_BITS
        while (found := find_mark(np.frombuffer(self._data, np.uint8), start)) < 0:
            if len(self._data) - first // 8 > _LONGEST_BLOCK:
                raise DamagedError(_DAMAGED)
            start = max(start, (len(self._data) - 7) * 8)
            if not self._more(len(self._data) + 1):
                ended = number(self._data, first, MARK_BITS) == END_MARK and len(self._data) > (first + 80) // 8
                raise DamagedError(MORE_DATA if ended else _CUT)
        return int(found)

    def _zeros(self) -> None:
        while self._data:
            if any(self._data):
                raise DamagedError(MORE_DATA)
            self._drop(len(self._data))
            self._more(1)

    def _more(self, size: int) -> bool:
        """Read on until there are `size` bytes; whether there are."""
        while len(self._data) < size and not self._eof:
            piece = os.read(self._handle, _READ)
            self._data += piece
            self._eof = not piece
        return len(self._data) >= size

    def _drop(self, size: int) -> None:
        self._data, self._at = self._data[size:], self._at + size
