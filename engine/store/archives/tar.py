"""Members of a plain tar, as places in its file: nothing but the headers is read."""

import importlib
import os
from types import ModuleType

import numpy as np
import numpy.typing as npt

from engine.store.archives.headers import Headers
from engine.store.archives.kinds import BLOCK
from engine.store.archives.members import DamagedError, Findings, Members

_TAIL_PIECE = 1 << 20
# Headers lie far enough apart that the system takes them for scattered reads and fetches each when it is asked for.
# So it is told to read on: the records between are wanted next anyway.
_AHEAD, _PIECE = 16 << 20, 128 << 10  # a longer piece would be cut to what the system reads at once
_RUN = 128  # members taken between two looks at how far ahead that is
# What follows the end mark is looked at so far: GNU tar pads with zeros to 10 KiB, or to a tape's record.
LONGEST_TAIL = 1 << 30
NO_END = "it ends without an end mark: it was cut short"
CUT = "it is cut short"
MORE = "other data follow its end mark (another archive, perhaps), and were not read"


def walker() -> ModuleType | None:
    """The compiled reader of plain headers; None where there is neither machine code nor Numba."""
    try:
        runs = importlib.import_module("engine.store.archives.runs")
        runs.load()
    except ImportError:
        return None
    return runs


class _Found:
    """Growing arrays of members."""

    def __init__(self) -> None:
        self.count, self.used = 0, 0
        self.ids, self.offsets, self.name_at = (np.empty(1 << 12, np.int64) for _ in range(3))
        self.names = np.empty(1 << 17, np.uint8)

    def add(self, photo_id: int, offset: int, name: bytes) -> None:
        self.room(len(name) + 1)
        self.ids[self.count], self.offsets[self.count], self.name_at[self.count] = photo_id, offset, self.used
        self.names[self.used : self.used + len(name) + 1] = np.frombuffer(name + b"\0", np.uint8)
        self.count, self.used = self.count + 1, self.used + len(name) + 1

    def room(self, name: int) -> None:
        """Make room for one more member, whose name takes so many bytes."""
        if self.count == len(self.ids):
            self.ids, self.offsets, self.name_at = map(_twice, (self.ids, self.offsets, self.name_at))
        while self.used + name > len(self.names):
            self.names = np.concatenate([self.names, np.empty_like(self.names)])


def _twice(array: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([array, np.empty_like(array)])


def list_tar(path: bytes) -> Members:
    """List the members of an uncompressed tar that are records of photos, in the order of the archive.

    The same id may come more than once; tar means the last. A member that is named as a `.dat` but is a link, a
    device, sparse, of another size, or has a path that leads elsewhere is refused; other members are counted as
    ignored. What is wrong with the archive itself is the last of `refused`, and what came before it is listed.
    """
    findings, found = Findings(archive=path), _Found()
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _list(handle, findings, found)
        finally:
            os.close(handle)
    except OSError as error:
        findings.stop(DamagedError(f"it cannot be read ({error.strerror})"))
    except DamagedError as error:
        if found.count:  # a compiled run does not keep the names
            findings.last = findings.last or _last(found)
        findings.stop(error)
    n = found.count
    return Members(
        photo_ids=found.ids[:n].copy(), offsets=found.offsets[:n].copy(), name_at=found.name_at[:n].copy(),
        names=found.names[: found.used].copy(), refused=findings.refused, ignored=findings.ignored,
    )  # fmt: skip


def _last(found: _Found) -> bytes:
    start = int(found.name_at[found.count - 1])
    return found.names[start : found.used - 1].tobytes()


def _list(handle: int, findings: Findings, found: _Found) -> None:
    size, at, headers, walk = os.fstat(handle).st_size, 0, Headers(findings), walker()
    fetched = 0
    while True:
        while walk is not None and headers.plain_next:
            while fetched < min(at + _AHEAD, size):
                os.posix_fadvise(handle, fetched, _PIECE, os.POSIX_FADV_WILLNEED)
                fetched += _PIECE
            found.room(walk.LONGEST_NAME)
            new = slice(found.count, found.count + _RUN)
            more, at, found.used = walk.run_in_file(
                handle, at, size, found.ids[new], found.offsets[new], found.name_at[new], found.names, found.used
            )
            if not more:
                break
            found.count += more
            findings.last = b""
        if at >= size:
            raise DamagedError(NO_END)
        step = headers.take(_exactly(handle, BLOCK, at))
        at += BLOCK
        if step.do == "end":
            return _check_tail(handle, at, size)
        if step.do == "extend":
            headers.extend(_exactly(handle, step.size, at))
            at += -(-step.size // BLOCK) * BLOCK
            continue
        if at + step.size > size:
            raise DamagedError(CUT)
        if step.do == "record":
            found.add(step.photo_id, at, step.name)
        at += -(-step.size // BLOCK) * BLOCK


def _exactly(handle: int, size: int, at: int) -> bytes:
    data = os.pread(handle, size, at)
    if len(data) < size:
        raise DamagedError(CUT)
    return data


def _check_tail(handle: int, at: int, size: int) -> None:
    for start in range(at, min(size, at + LONGEST_TAIL), _TAIL_PIECE):
        piece = os.pread(handle, _TAIL_PIECE, start)
        if piece.count(0) != len(piece):
            raise DamagedError(MORE)
