"""Finding `.dat` files in folder trees: compact lists, ordered by photo id, whatever order the disk gives."""

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.progress import Progress, silent

_PHOTO_ID = re.compile(rb"(\d{1,18})\.dat", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A file that was set aside: where it lies, its photo id if the name has one, and why."""

    source: str
    photo_id: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files in ascending order of photo id, then of path; a few bytes each, no Python object per file.

    photo_ids: (n,) int64. folder: (n,) int32, an index into `folders`. name_at: (n,) int64, where the file's name,
    ended by a zero byte, begins in `names` (uint8).
    """

    folders: list[bytes]
    photo_ids: npt.NDArray[np.int64]
    folder: npt.NDArray[np.int32]
    name_at: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint8]
    refused: list[Refused]
    ignored: int

    def __len__(self) -> int:
        """How many files."""
        return len(self.photo_ids)

    def path(self, i: int) -> bytes:
        """The path of file i."""
        return os.path.join(self.folders[self.folder[i]], self.name(i))  # noqa: PTH118 (bytes: names may not be text)

    def name(self, i: int) -> bytes:
        """The name of file i inside its folder."""
        start = int(self.name_at[i])
        return self.names[start : start + 300].tobytes().split(b"\0", 1)[0]

    def take(self, at: npt.NDArray[Any] | slice) -> "Listing":
        """The files at these positions, in their order."""
        return Listing(
            folders=self.folders, photo_ids=self.photo_ids[at], folder=self.folder[at], name_at=self.name_at[at],
            names=self.names, refused=self.refused, ignored=self.ignored,
        )  # fmt: skip


@dataclass
class _Scan:
    folders: list[bytes] = field(default_factory=list)
    photo_ids: list[npt.NDArray[np.int64]] = field(default_factory=list)
    folder: list[npt.NDArray[np.int32]] = field(default_factory=list)
    name_bytes: list[npt.NDArray[np.int64]] = field(default_factory=list)
    names: bytearray = field(default_factory=bytearray)
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0
    files: int = 0
    seen: set[tuple[int, int]] = field(default_factory=set)

    def refuse(self, path: bytes, reason: str, photo_id: int | None = None) -> None:
        self.refused.append(Refused(source=os.fsdecode(path), photo_id=photo_id, reason=reason))

    def add(self, folder: bytes, found: list[tuple[int, bytes]]) -> None:
        if not found:
            return
        self.photo_ids.append(np.array([photo_id for photo_id, _ in found], np.int64))
        self.folder.append(np.full(len(found), len(self.folders), np.int32))
        self.name_bytes.append(np.array([len(name) + 1 for _, name in found], np.int64))
        self.folders.append(folder)
        self.names += b"".join(name + b"\0" for _, name in found)
        self.files += len(found)


def find_dat_files(sources: Sequence[Path], *, progress: Progress = silent) -> Listing:
    """List the `.dat` files below the given folders, or the given files themselves.

    The photo id is the name without `.dat`; a name that is no number is refused, not guessed. Links are followed; a
    folder reached twice is read once. Files that are not `.dat` are counted, not read. InputError for a source
    that does not exist.
    """
    scan = _Scan()
    for source in sources:
        path = os.fsencode(source)
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            raise InputError(f"{source}: {error.strerror}. Expected a folder of .dat files.") from error
        if stat.S_ISDIR(status.st_mode):
            _walk(path, scan, progress)
        else:
            name = os.path.basename(path)  # noqa: PTH119
            photo_id = _photo_id(name)
            if photo_id is None:
                scan.refuse(path, _NO_ID)
            else:
                scan.add(os.path.dirname(path) or b".", [(photo_id, name)])  # noqa: PTH120
    return _ordered(scan)


_NO_ID = "the file name is not a photo id (expected a number, such as 103169.dat)"


def _photo_id(name: bytes) -> int | None:
    match = _PHOTO_ID.fullmatch(name)
    return int(match[1]) if match else None


def _walk(top: bytes, scan: _Scan, progress: Progress) -> None:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in scan.seen:
                continue
            scan.seen.add((status.st_dev, status.st_ino))
            waiting += sorted(_read_folder(folder, scan), reverse=True)
        except OSError as error:
            scan.refuse(folder, f"the folder cannot be read ({error.strerror})")
        progress("find files", scan.files, 0, unit="files")


def _read_folder(folder: bytes, scan: _Scan) -> list[bytes]:
    found: list[tuple[int, bytes]] = []
    below: list[bytes] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is(entry.is_dir):
                below.append(entry.path)
                if not entry.name.lower().endswith(b".dat"):
                    continue
            if not entry.name.lower().endswith(b".dat"):
                scan.ignored += 1
                continue
            photo_id = _photo_id(entry.name)
            if not _is(entry.is_file):
                scan.refuse(entry.path, _kind(entry), photo_id)
            elif photo_id is None:
                scan.refuse(entry.path, _NO_ID)
            else:
                found.append((photo_id, entry.name))
    scan.add(folder, found)
    return below


def _is(kind: Callable[[], bool]) -> bool:
    """Whether an entry is of a kind; a link that leads nowhere or round in a circle is of none."""
    try:
        return kind()
    except OSError:
        return False


def _kind(entry: "os.DirEntry[bytes]") -> str:
    try:
        mode = entry.stat().st_mode
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"not a regular file but {names.get(stat.S_IFMT(mode), 'a device')}"


def _ordered(scan: _Scan) -> Listing:
    def joined(parts: list[Any], dtype: type) -> Any:
        return np.concatenate(parts) if parts else np.empty(0, dtype)

    ids, folder = joined(scan.photo_ids, np.int64), joined(scan.folder, np.int32)
    lengths = joined(scan.name_bytes, np.int64)
    name_at = np.cumsum(lengths) - lengths
    names = np.frombuffer(bytes(scan.names) + b"\0", np.uint8)
    found = Listing(
        folders=scan.folders, photo_ids=ids, folder=folder, name_at=name_at, names=names,
        refused=sorted(scan.refused, key=lambda refused: refused.source), ignored=scan.ignored,
    )  # fmt: skip
    order = np.argsort(ids, kind="stable")
    for same in _runs(ids[order]):  # 5.dat of two folders, or 5.dat and 005.dat of one
        order[same] = sorted(order[same].tolist(), key=lambda i: (found.folders[folder[i]], found.name(i)))
    return found.take(order)


def _runs(ordered: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Where equal values stand side by side, two or more."""
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    ends = np.append(starts[1:], len(ordered))
    longer = np.flatnonzero(ends[: len(starts)] - starts > 1)
    return (slice(starts[i], ends[i]) for i in longer.tolist())
