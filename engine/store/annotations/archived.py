"""The annotation files in an archive, one after the other, from front to back: tar in gzip, bzip2 or zstd, plain, zip.

What is damaged in an archive ends its reading; what came before is read.
"""

import os
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine.store.archives.decompress import Piece, decompress
from engine.store.archives.headers import Headers
from engine.store.archives.kinds import BLOCK, kind_of
from engine.store.archives.members import DamagedError, Findings
from engine.store.listed import Refused
from kernels.device import cpu_threads

_PIECE = 1 << 22
_CUT = "it is cut short"


@dataclass(kw_only=True)
class Archived:
    """What was found in one archive beside its files.

    wanted: whether a member is one, by its path. largest: bytes of a member at most. position: bytes of the archive
    read. refused: members that cannot be used, and what is wrong with the archive. ignored: other members.
    """

    wanted: Callable[[bytes], bool]
    largest: int
    position: int = 0
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0


def read_archive(path: Path, found: Archived) -> Iterator[tuple[str, bytes]]:
    """The path and the bytes of each member that is wanted."""
    name = os.fsencode(path)
    kind = kind_of(name)
    findings = _Judge(archive=name, found=found)
    try:
        if kind == "zip":
            yield from _zip(path, findings)
        else:
            packed = kind if kind in ("gzip", "bzip2", "zstd") else None
            pieces = decompress(name, packed, threads=cpu_threads()) if packed else _plain(name)
            try:
                yield from _tar(pieces, findings)
            finally:
                pieces.close()
    except DamagedError as error:
        findings.stop(error)
    except OSError as error:
        findings.stop(DamagedError(f"it cannot be read ({error.strerror})"))
    found.refused += findings.refused
    found.ignored += findings.ignored


@dataclass(kw_only=True)
class _Judge(Findings):
    """Judges members by what is wanted here, not as records of features."""

    found: Archived

    def judge(self, name: bytes, kind: str | None, size: int) -> int | None:
        """0 for a member that is to be read; None when it was refused or ignored."""
        if kind == "a folder" or not self.found.wanted(name):
            self.ignored += kind != "a folder"
            return None
        reason = None
        if kind is not None:
            reason = f"not a regular file but {kind}"
        elif name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
            reason = "its path leads out of the archive (expected a relative one without '..')"
        elif size > self.found.largest:
            reason = f"{size:,} bytes, expected at most {self.found.largest:,}"
        if reason is None:
            return 0
        self.refuse(name, None, reason)
        return None


def _tar(pieces: Iterator[Piece], findings: _Judge) -> Iterator[tuple[str, bytes]]:
    source = _Bytes(pieces, findings.found)
    headers = Headers(findings)
    while True:
        block = source.take(BLOCK)
        if not block:
            raise DamagedError("it ends without an end mark: it was cut short")
        step = headers.take(block)
        if step.do == "end":
            return
        padded = -(-step.size // BLOCK) * BLOCK
        if step.do == "skip":
            source.skip(padded)
        elif step.do == "extend":
            headers.extend(source.take(padded)[: step.size])
        else:
            data = source.take(padded)
            yield os.fsdecode(step.name), data[: step.size]


class _Bytes:
    """Pieces as one stream."""

    def __init__(self, pieces: Iterator[Piece], found: Archived) -> None:
        self._pieces, self._found, self._data, self._at = pieces, found, b"", 0

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._data, self._at = self._data[self._at :] + piece[0], 0
        self._found.position = piece[1]
        return True

    def take(self, size: int) -> bytes:
        """Exactly so many bytes; b"" at the end. DamagedError when it ends before."""
        while len(self._data) - self._at < size:
            if not self._more():
                if self._at == len(self._data):
                    return b""
                raise DamagedError(_CUT)
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def skip(self, size: int) -> None:
        """Pass over bytes, however many."""
        while size:
            here = min(size, len(self._data) - self._at)
            self._at, size = self._at + here, size - here
            if size:
                self._data, self._at = b"", 0
                if not self._more():
                    raise DamagedError(_CUT)


def _plain(path: bytes) -> Generator[Piece]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (bytes: names may not be text)
        while piece := file.read(_PIECE):
            yield piece, file.tell()


def _zip(path: Path, findings: _Judge) -> Iterator[tuple[str, bytes]]:
    """Members in the order of the directory, their checksums checked by Python's zipfile."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name, kind = os.fsencode(info.filename), "a folder" if info.is_dir() else None
                if findings.judge(name, kind, info.file_size) is None:
                    continue
                findings.last = name
                try:
                    with archive.open(info) as member:
                        data = member.read(info.file_size + 1)
                except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
                    findings.refuse(name, None, f"cannot be read ({' '.join(str(error).split()) or 'it is damaged'})")
                    continue
                findings.found.position = info.header_offset
                if len(data) == info.file_size:
                    yield info.filename, data
                else:
                    findings.refuse(name, None, "is not of the size that the archive says")
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DamagedError(f"it is no zip that can be read ({' '.join(str(error).split())})") from None
