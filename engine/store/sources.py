"""Finding `.dat` files in folder trees and archives: compact lists, ordered by photo id, not as the disk gives them."""

import importlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.progress import Progress, silent
from engine.store.dat import Record, examine, examine_member
from engine.store.listed import Refused, name_of
from engine.store.scandir import FOLDER, PHOTO_FILE, Scanned

_ARCHIVE = re.compile(rb".*\.(tar|tgz|tbz2?|tzst|zip|tar\.(gz|bz2|zst))", re.IGNORECASE | re.DOTALL)
OWN_FILE = -1


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Records that can be read in any order, ascending by photo id, then path; a few bytes each, no Python object.

    places: folders, and archives whose members lie in them as they are. photo_ids: (n,) int64. place: (n,) int32, an
    index into `places`. offset: (n,) int64, where the record begins in its archive; −1 for a file of its own.
    name_at: (n,) int64, where the name within the place, ended by a zero byte, begins in `names` (uint8).
    """

    places: list[bytes]
    photo_ids: npt.NDArray[np.int64]
    place: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    name_at: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        """How many records."""
        return len(self.photo_ids)

    def path(self, i: int) -> bytes:
        """The path of record i: of its file, or of its archive and the member in it."""
        return os.path.join(self.places[self.place[i]], self.name(i))  # noqa: PTH118 (bytes: names may not be text)

    def name(self, i: int) -> bytes:
        """The name of record i inside its place."""
        return name_of(self.names, int(self.name_at[i]))

    def examine(self, i: int) -> tuple[str | None, Record | None]:
        """Read record i without hurry: (why it is refused, or None; its record, shape (), or None)."""
        if self.offset[i] == OWN_FILE:
            return examine(self.path(i))
        return examine_member(self.places[self.place[i]], int(self.offset[i]))

    def take(self, at: npt.NDArray[Any] | slice) -> "Listing":
        """The records at these positions, in their order."""
        return Listing(
            places=self.places, photo_ids=self.photo_ids[at], place=self.place[at], offset=self.offset[at],
            name_at=self.name_at[at], names=self.names,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Found:
    """What lies below the sources.

    listing: records to be read in any order. streams: archives that must be read from their beginning. refused: what
    cannot be used, by source. ignored: how many other files.
    """

    listing: Listing
    streams: list[bytes]
    refused: list[Refused]
    ignored: int


@dataclass
class _Search:
    progress: Progress
    places: list[bytes] = field(default_factory=list)
    photo_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    place: list[npt.NDArray[np.int32]] = field(default_factory=list)
    offset: list[npt.NDArray[np.int64]] = field(default_factory=list)
    name_at: list[npt.NDArray[np.int64]] = field(default_factory=list)
    names: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    name_bytes: int = 0
    streams: list[bytes] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0
    records: int = 0
    seen: set[tuple[int, int]] = field(default_factory=set)

    def refuse(self, path: bytes, reason: str, photo_id: int | None = None) -> None:
        self.refused.append(Refused(source=os.fsdecode(path), photo_id=photo_id, reason=reason))

    def add(self, place: bytes, found: Any, offsets: npt.NDArray[np.int64] | None = None) -> None:
        """Add records of one place; found: photo_ids, name_at and names as in `Scanned`."""
        n = len(found.photo_ids)
        if not n:
            return
        self.photo_ids.append(found.photo_ids)
        self.place.append(np.full(n, len(self.places), np.int32))
        self.offset.append(np.full(n, OWN_FILE, np.int64) if offsets is None else offsets)
        self.name_at.append(found.name_at + self.name_bytes)
        self.names.append(found.names)
        self.name_bytes += len(found.names)
        self.places.append(place)
        self.records += n

    def look(self, path: bytes, *, named: bool) -> None:
        """Take a source or an entry of a folder for what it is; named: by the user, so that it must be something."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if named or path.lower().endswith(b".dat"):
                self.refuse(path, f"cannot be opened ({error.strerror})", _photo_id(path))
            else:  # a link that leads nowhere, or round in a circle
                self.ignored += 1
            return
        if stat.S_ISDIR(status.st_mode):
            self.walk(path)
        elif stat.S_ISREG(status.st_mode) and not path.lower().endswith(b".dat") and (named or _ARCHIVE.match(path)):
            self.archive(path, (status.st_dev, status.st_ino))
        elif named or path.lower().endswith(b".dat"):
            self.file(path, status.st_mode)
        else:
            self.ignored += 1

    def file(self, path: bytes, mode: int) -> None:
        photo_id = _photo_id(path)
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
            self.refuse(path, f"not a regular file but {kinds.get(stat.S_IFMT(mode), 'a device')}", photo_id)
        elif photo_id is None:
            self.refuse(path, "the file name is not a photo id (expected a number, such as 103169.dat)")
        else:
            folder, name = os.path.split(path)
            one = Scanned(
                photo_ids=np.array([photo_id]), name_at=np.zeros(1, np.int64),
                names=np.frombuffer(name + b"\0", np.uint8), others=[], ignored=0,
            )  # fmt: skip
            self.add(folder or b".", one)

    def archive(self, path: bytes, identity: tuple[int, int]) -> None:
        from engine.store import archives

        if identity in self.seen:
            return
        self.seen.add(identity)
        kind = archives.kind_of(path)
        if kind is None:
            self.refuse(path, "neither a .dat file nor a tar or zip archive by its first bytes")
        elif kind == "tar":
            members = archives.list_tar(path)
            self.refused += members.refused
            self.ignored += members.ignored
            self.add(path, members, members.offsets)
        else:  # a zip too: its members have checksums, which only reading them whole can prove
            self.streams.append(path)
        self.progress("find files", self.records, 0, unit="files")

    def walk(self, top: bytes) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                waiting += sorted(self.folder(folder), reverse=True)
            except OSError as error:
                self.refuse(folder, f"the folder cannot be read ({error.strerror})")
            self.progress("find files", self.records, 0, unit="files")

    def folder(self, folder: bytes) -> list[bytes]:
        """Add the files of one folder; gives the folders in it."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if (status.st_dev, status.st_ino) in self.seen:
                return []
            self.seen.add((status.st_dev, status.st_ino))
            found = _scan()(handle)
            # Few folders hold anything else, so a second look at their names costs nothing where it counts.
            os.lseek(handle, 0, os.SEEK_SET)  # the scan has left it at its end
            names = os.listdir(handle) if found.ignored else []  # noqa: PTH208 (an open folder)
            others = [name for name in map(os.fsencode, names) if _ARCHIVE.fullmatch(name)]
        finally:
            os.close(handle)
        self.add(folder, found)
        self.ignored += found.ignored - len(others)
        below = [os.path.join(folder, name) for name, kind in found.others if kind == FOLDER]  # noqa: PTH118
        for path in below:
            if path.lower().endswith(b".dat"):
                self.refuse(path, "not a regular file but a folder", _photo_id(path))
        for name in sorted([*others, *(name for name, kind in found.others if kind != FOLDER)]):
            path = os.path.join(folder, name)  # noqa: PTH118
            if os.path.isdir(path):  # noqa: PTH112 (a link to one)
                below.append(path)
            else:
                self.look(path, named=False)
        return below


def find_sources(sources: Sequence[Path], *, progress: Progress = silent) -> Found:
    """What there is to read below the given folders and archives, or the given `.dat` files themselves.

    The photo id is the name without `.dat`; a name that is no number is refused, not guessed. Links are followed; a
    folder or archive reached twice is read once. Archives in folders are read too, by their names' ends. Other files
    are counted, not read. InputError for a source that does not exist.
    """
    search = _Search(progress)
    for source in sources:
        try:
            source.stat()
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}. Expected a folder of .dat files, or an archive.") from error
        search.look(os.fsencode(source), named=True)
    refused = sorted(search.refused, key=lambda refusal: refusal.source)
    return Found(listing=_ordered(search), streams=sorted(set(search.streams)), refused=refused, ignored=search.ignored)


def _scan() -> Any:
    """The fast scan where Numba is, else the one that Python has."""
    try:
        return importlib.import_module("engine.store.scan").scan
    except ImportError:
        return importlib.import_module("engine.store.scandir").scan


def _photo_id(path: bytes) -> int | None:
    match = PHOTO_FILE.fullmatch(os.path.basename(path))  # noqa: PTH119
    return int(match[1]) if match else None


def _ordered(search: _Search) -> Listing:
    def joined(parts: list[Any], dtype: type) -> Any:
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    found = Listing(
        places=search.places, photo_ids=joined(search.photo_ids, np.int64), place=joined(search.place, np.int32),
        offset=joined(search.offset, np.int64), name_at=joined(search.name_at, np.int64),
        names=np.append(joined(search.names, np.uint8), np.uint8(0)),
    )  # fmt: skip
    order = np.argsort(found.photo_ids, kind="stable")
    for same in _runs(found.photo_ids[order]):  # 5.dat of two folders, or 5.dat and 005.dat of one
        order[same] = sorted(order[same].tolist(), key=lambda i: (found.places[found.place[i]], found.name(i)))
    return found.take(order)


def _runs(ordered: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Where equal values stand side by side, two or more."""
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    ends = np.append(starts[1:], len(ordered))
    longer = np.flatnonzero(ends[: len(starts)] - starts > 1)
    return (slice(starts[i], ends[i]) for i in longer.tolist())


__all__ = ["Found", "Listing", "Refused", "find_sources"]
