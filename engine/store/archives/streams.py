"""Compressed archives as batches of records, one pass from front to back."""

from collections.abc import Generator, Iterator

import numpy as np

from engine.store.archives.decompress import Piece, decompress
from engine.store.archives.headers import Headers, Step
from engine.store.archives.kinds import BLOCK, Kind, kind_of
from engine.store.archives.members import BATCH, Batch, DamagedError, Findings
from engine.store.archives.tar import CUT, LONGEST_TAIL, MORE, NO_END, walker
from engine.store.archives.zip import stream_zip
from engine.store.dat import RECORD_BYTES

_NAMES = 1 << 17
_JOINED = 1 << 16
_FULL_OF_REFUSALS = 1024


def stream(path: bytes, *, threads: int) -> Generator[Batch, None, None]:
    """Read an archive whose members cannot be read in place: a tar in gzip, bzip2 or zstd, or a zip.

    A tar comes in its own order, a zip in ascending order of photo id (a plain tar is read too). Members are judged
    as `list_tar` does. An archive that is cut short or damaged gives what was read before, then a batch that refuses
    the archive and says where reading ended; no error of a library leaves here. bzip2 and zip are decompressed by
    `threads` threads, gzip and zstd by one that works ahead. Closing the generator ends its threads. DependencyError
    when the library for a format is missing.
    """
    kind = kind_of(path)
    if kind == "zip":
        return stream_zip(path, threads=threads)
    return _TarStream(path, kind, threads).batches()


class _TarStream:
    """A tar that comes in pieces. What is not yet complete is carried over to the next piece."""

    def __init__(self, path: bytes, kind: Kind | None, threads: int) -> None:
        self._kind = kind
        self._pieces = _plain(path) if kind is None or kind == "tar" else decompress(path, kind, threads=threads)
        self._findings = Findings(archive=path)
        self._headers = Headers(self._findings)
        self._walk = walker()
        self._records = np.empty((BATCH, RECORD_BYTES), np.uint8)
        self._ids = np.empty(BATCH, np.int64)
        self._names = np.empty(_NAMES, np.uint8)
        self._found: list[bytes] = []
        self._step: Step | None = None  # what the last header said is to be done with what follows
        self._skip = 0
        self._position = 0
        self._tail: int | None = None  # bytes after the end mark

    def batches(self) -> Generator[Batch, None, None]:
        try:
            yield from self._read()
        except DamagedError as error:
            self._findings.stop(self._whole_checked(error))
        except OSError as error:
            self._findings.stop(DamagedError(f"it cannot be read ({error.strerror})"))
        finally:
            self._pieces.close()
        if self._found or self._findings.refused or self._findings.ignored:
            yield self._batch()

    def _read(self) -> Iterator[Batch]:
        carry = b""
        for data, position in self._pieces:
            self._position, at = position, 0
            if carry:  # joined to as much as a member takes: to join everything would copy each byte once more
                head = carry + data[:_JOINED]
                at = (yield from self._all(head, 0)) - len(carry)
                if at < 0:  # a longer header
                    data, at = head[at + len(carry) :] + data[_JOINED:], 0
            at = yield from self._all(data, at)
            carry = data[at:]
        if self._step is not None and self._step.do == "record" and len(carry) >= RECORD_BYTES:
            self._add(carry, 0, self._step)  # the last record, whose padding is missing
            raise DamagedError(NO_END)
        if carry or self._skip or self._step is not None:
            raise DamagedError(CUT)
        if self._tail is None:
            raise DamagedError(NO_END)

    def _all(self, data: bytes, at: int) -> Generator[Batch, None, int]:
        """Batches of what is complete in data[at:]; the next byte."""
        while True:
            at, full = self._take(data, at)
            if not full:
                return at
            yield self._batch()

    def _whole_checked(self, error: DamagedError) -> DamagedError:
        """Of gzip and zstd, whose checksum comes last, read the rest: it says whether what was handed out is true."""
        if self._kind in ("gzip", "zstd"):
            try:
                for _, position in self._pieces:
                    self._position = position
            except DamagedError as later:
                return later if later.all_of_it else error
        return error

    def _take(self, data: bytes, at: int) -> tuple[int, bool]:
        """Go on from data[at:] until it holds nothing complete or the batch is full: the next byte, and which."""
        while True:
            if len(self._found) == BATCH or len(self._findings.refused) >= _FULL_OF_REFUSALS:
                return at, True
            if self._tail is not None:
                self._check_tail(data, at)
                return len(data), False
            passed = min(self._skip, len(data) - at)
            at, self._skip = at + passed, self._skip - passed
            if self._step is None:
                at = self._run(data, at)
                if len(self._found) == BATCH:
                    continue
                if len(data) - at < BLOCK:
                    return at, False
                self._step = self._headers.take(data[at : at + BLOCK])
                at += BLOCK
            at, done = self._follow(data, at, self._step)
            if not done:
                return at, False
            self._step = None

    def _run(self, data: bytes, at: int) -> int:
        """Take the plain members that lie whole in data[at:]."""
        if self._walk is None or not self._headers.plain_next or self._skip:
            return at
        n = len(self._found)
        more, at, used = self._walk.run_in_memory(
            np.frombuffer(data, np.uint8), at, self._ids[n:], self._records[n:], self._names, 0
        )
        if more:
            self._found += self._names[: used - 1].tobytes().split(b"\0")
            self._findings.last = self._found[-1]
        return int(at)

    def _follow(self, data: bytes, at: int, step: Step) -> tuple[int, bool]:
        """Do what a header said; whether all of it was there."""
        padded = -(-step.size // BLOCK) * BLOCK
        if step.do == "skip":
            self._skip = step.size
        elif step.do == "end":
            self._tail = 0
        elif len(data) - at < padded:
            return at, False
        elif step.do == "record":
            self._add(data, at, step)
            at += padded
        else:
            self._headers.extend(data[at : at + step.size])
            at += padded
        return at, True

    def _add(self, data: bytes, at: int, step: Step) -> None:
        n = len(self._found)
        self._ids[n] = step.photo_id
        self._records[n] = np.frombuffer(data, np.uint8, RECORD_BYTES, at)
        self._found.append(step.name)

    def _check_tail(self, data: bytes, at: int) -> None:
        self._tail = (self._tail or 0) + len(data) - at
        if data.count(0, at) != len(data) - at:
            raise DamagedError(MORE)
        if self._tail > LONGEST_TAIL:
            raise DamagedError(f"more than {LONGEST_TAIL >> 30} GiB of zeros follow its end mark")

    def _batch(self) -> Batch:
        """Hand out what was found since the last batch."""
        n, findings = len(self._found), self._findings
        batch = Batch(
            photo_ids=self._ids[:n], records=self._records[:n], names=self._found, refused=findings.refused,
            ignored=findings.ignored, position=self._position, damaged=findings.damaged,
        )  # fmt: skip
        self._found, findings.refused, findings.ignored = [], [], 0
        return batch


def _plain(path: bytes) -> Generator[Piece, None, None]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes: names may not be text)
        while piece := file.read(1 << 22):
            yield piece, file.tell()
