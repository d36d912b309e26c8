"""Finding annotation files in folder trees and archives, a few thousand at a time.

`10/103169.json` belongs to photo 103169, whichever folder it lies in. Of MIRFLICKR's own annotations the raw files are
read too: `tags/10/103169.txt` and `exif/10/103169.txt`, or `tags103169.txt` and `exif103169.txt`.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import InputError
from engine.store.annotations.archived import Archived, read_archive
from engine.store.annotations.loading import LARGEST
from engine.store.archives import kind_of
from engine.store.listed import Refused

CHUNK_FILES, CHUNK_BYTES = 2000, 8 << 20
Kind = Literal["json", "tags", "exif"]
_NAME = re.compile(r"(?:(\d{1,18})\.json|(tags|exif)?_?(\d{1,18})\.txt)", re.IGNORECASE | re.ASCII)
_ARCHIVE = re.compile(r".*\.(tar|tgz|tbz2?|tzst|zip|tar\.(gz|bz2|zst))", re.IGNORECASE | re.DOTALL)


class Item(NamedTuple):  # a million of them are made and sent to other processes
    """One annotation file. name: within its chunk's place. data: its bytes, if it came out of an archive.

    size, changed, touched: its bytes, and when it was changed by its own account and by the file system's (mtime and
    ctime) in nanoseconds, if it is a file of its own.
    """

    name: str
    photo_id: int
    kind: Kind
    size: int = 0
    changed: int = 0
    touched: int = 0
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some files of one folder or archive. number: chunks are counted in the order of the sources."""

    number: int
    place: str
    items: list[Item]


@dataclass(kw_only=True)
class Finder:
    """Walks the sources and gives chunks; what it counted is complete when all were given.

    ignored: other files. refused: what cannot be used. position, total: bytes read of the archives, and in all.
    """

    sources: Sequence[Path]
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0
    position: int = 0
    total: int = 0
    _seen: set[tuple[int, int]] = field(default_factory=set)
    _number: int = 0

    def chunks(self) -> Iterator[Chunk]:
        """All annotation files, some at a time, in the order of the sources, folders and names by number."""
        for source in self.sources:
            if source.is_dir():
                yield from self._walk(source)
            else:
                yield from self._file(source, named=True)

    def __post_init__(self) -> None:
        """InputError for a source that does not exist."""
        for source in self.sources:
            if not source.exists():
                raise InputError(f"{source}: no such file or folder. Expected a folder of .json files, or an archive.")

    def _walk(self, top: Path) -> Iterator[Chunk]:
        waiting = [str(top)]
        while waiting:
            folder = waiting.pop()
            try:
                below, files, others = self._list(folder)
            except OSError as error:
                self.refused.append(
                    Refused(source=folder, photo_id=None, reason=f"the folder cannot be read ({error.strerror})")
                )
                continue
            waiting += sorted(below, key=_by_number, reverse=True)
            files.sort(key=_BY_ID)
            for items in _bounded(files):
                yield self._chunk(folder, items)
            for path in sorted(others, key=_by_number):
                yield from self._file(Path(path), named=False)

    def _list(self, folder: str) -> tuple[list[str], list[Item], list[str]]:
        """Folders, annotation files and archives in a folder; nothing when it was looked into before."""
        below, files, others = list[str](), list[Item](), list[str]()
        # By a handle of it: to ask for a file's size by its path takes twice as long.
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.fstat(handle)
            if (status.st_dev, status.st_ino) in self._seen:
                return below, files, others
            self._seen.add((status.st_dev, status.st_ino))
            with os.scandir(handle) as entries:
                for entry in entries:
                    if _is_dir(entry):
                        below.append(os.path.join(folder, entry.name))  # noqa: PTH118
                    elif item := item_in(folder, entry.name):
                        files.append(_measured(item, entry))
                    elif _ARCHIVE.fullmatch(entry.name):
                        others.append(os.path.join(folder, entry.name))  # noqa: PTH118
                    else:
                        self.ignored += 1
        finally:
            os.close(handle)
        return below, files, others

    def _file(self, path: Path, *, named: bool) -> Iterator[Chunk]:
        """An archive, or a file that was named by itself."""
        try:
            status = path.stat()
        except OSError as error:
            self.refused.append(Refused(source=str(path), photo_id=None, reason=f"cannot be opened ({error.strerror})"))
            return
        if (status.st_dev, status.st_ino) in self._seen:
            return
        self._seen.add((status.st_dev, status.st_ino))
        item = item_in(str(path.parent), path.name)
        if named and item and stat.S_ISREG(status.st_mode):
            item = item._replace(size=status.st_size, changed=status.st_mtime_ns, touched=status.st_ctime_ns)
            yield self._chunk(str(path.parent), [item])
        elif kind_of(os.fsencode(path)) is None:
            reason = "neither a .json file named by a photo id nor a tar or zip archive by its first bytes"
            self.refused.append(Refused(source=str(path), photo_id=None, reason=reason))
        else:
            self.total += status.st_size
            yield from self._archive(path, status.st_size)

    def _archive(self, path: Path, size: int) -> Iterator[Chunk]:
        before, items, held = self.position, list[Item](), 0
        found = Archived(wanted=_wanted, largest=LARGEST)
        for name, data in read_archive(path, found):
            folder, _, base = name.rpartition("/")
            item = item_in(folder, base)
            if item is None:
                continue
            items.append(item._replace(name=name, data=data))
            held += len(data)
            if len(items) >= CHUNK_FILES or held >= CHUNK_BYTES:
                self.position = before + found.position
                yield self._chunk(str(path), items)
                items, held = [], 0
        if items:
            yield self._chunk(str(path), items)
        self.position = before + size
        self.refused += found.refused
        self.ignored += found.ignored

    def _chunk(self, place: str, items: list[Item]) -> Chunk:
        self._number += 1
        return Chunk(number=self._number - 1, place=place, items=items)


def _bounded(items: list[Item]) -> Iterator[list[Item]]:
    """So many items at a time as may be held at once."""
    start = held = 0
    for end, item in enumerate(items):
        if end - start >= CHUNK_FILES or (end > start and held + item.size > CHUNK_BYTES):
            yield items[start:end]
            start, held = end, 0
        held += item.size
    if items:
        yield items[start:]


def _measured(item: Item, entry: "os.DirEntry[str]") -> Item:
    try:
        status = entry.stat()
    except OSError:  # whoever reads it says why
        return item
    return Item(item.name, item.photo_id, item.kind, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def item_in(folder: str, name: str) -> Item | None:
    """What a file of a folder is by its name and those of the folders; None for no annotation file."""
    if name.endswith(".json") and (digits := name[:-5]).isdecimal() and digits.isascii() and len(digits) <= 18:
        return Item(name, int(digits), "json")
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    if match[1]:
        return Item(name=name, photo_id=int(match[1]), kind="json")
    kind = _KINDS.get((match[2] or _meaning(folder)).lower())
    return Item(name=name, photo_id=int(match[3]), kind=kind) if kind else None


_BY_ID = itemgetter(1, 0)
_KINDS: dict[str, Kind] = {"tags": "tags", "tags_raw": "tags", "exif": "exif", "exif_raw": "exif"}


@lru_cache(maxsize=64)
def _meaning(folder: str) -> str:
    """The nearest folder whose name is no number: that of `tags/10` is `tags`."""
    return next((part for part in reversed(Path(folder).parts) if not part.isdecimal()), "")


def _wanted(name: bytes) -> bool:
    folder, _, base = os.fsdecode(name).rpartition("/")
    return item_in(folder, base) is not None


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _by_number(path: str) -> tuple[int, str]:
    name = os.path.basename(path)  # noqa: PTH119
    return (int(name[:18]) if name[:18].isdecimal() else -1, name)
