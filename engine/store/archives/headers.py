"""Tar headers without hurry: every flavour, with Python's tarfile for the fields.

Formats: POSIX.1-2017 pax (ustar and extended headers), GNU tar's manual (long names, sparse files), Unix V7.
`engine.store.archives.walk` takes the plain ones before they come here.
"""

import re
import tarfile
from dataclasses import dataclass
from typing import Literal

from engine.store.archives.kinds import BLOCK
from engine.store.archives.members import DamagedError, Findings

_LARGEST_EXTENSION = 1 << 20  # a long name or a pax header is held in memory; PATH_MAX is 4,096 bytes
_LARGEST_MEMBER = 1 << 40
_KINDS = {
    tarfile.LNKTYPE: "a hard link", tarfile.SYMTYPE: "a symbolic link", tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device", tarfile.DIRTYPE: "a folder", tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}  # fmt: skip
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_PAX_LENGTH = re.compile(rb"(\d{1,7}) ")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do with the `size` bytes after a header: read a record, hand them to `extend`, pass over them, or end."""

    do: Literal["record", "extend", "skip", "end"]
    size: int = 0
    photo_id: int = -1
    name: bytes = b""


class Headers:
    """Reads one header after another. `plain_next` tells whether the next one stands for itself."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._extension = b""
        self._long_name: bytes | None = None
        self._pax: dict[bytes, bytes] = {}
        self._global: dict[bytes, bytes] = {}
        self._after_sparse: int | None = None

    @property
    def plain_next(self) -> bool:
        """False after an extended header, or while one for all members is in force."""
        return self._long_name is None and not self._pax and not self._global and self._after_sparse is None

    def take(self, block: bytes) -> Step:
        """Read the 512 bytes of one header. DamagedError when they are none."""
        if self._after_sparse is not None:
            return self._sparse_map(bool(block[504]))
        if not any(block):
            return Step(do="end")
        try:
            info = tarfile.TarInfo.frombuf(block, "latin-1", "strict")
        except (tarfile.HeaderError, ValueError, ArithmeticError):
            raise DamagedError("what follows is no tar header (garbage, or a checksum that is wrong)") from None
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                         tarfile.SOLARIS_XHDTYPE):  # fmt: skip
            if not 0 <= info.size <= _LARGEST_EXTENSION:
                raise DamagedError(f"a header that goes on for {info.size:,} bytes")
            self._extension = info.type
            return Step(do="extend", size=info.size)
        return self._member(block, info)

    def extend(self, data: bytes) -> None:
        """Read what an extended header says. DamagedError when it says nothing that makes sense."""
        if self._extension == tarfile.GNUTYPE_LONGNAME:
            self._long_name = data.split(b"\0", 1)[0]
        elif self._extension == tarfile.XGLTYPE:
            self._global |= _of_interest(_pax(data))
        elif self._extension in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._pax |= _of_interest(_pax(data))

    def _member(self, block: bytes, info: tarfile.TarInfo) -> Step:
        pax = self._global | self._pax
        name = pax.get(b"path") or self._long_name or _name(block)
        self._long_name, self._pax = None, {}
        size = info.size
        if b"size" in pax:
            if not re.fullmatch(rb"\d{1,20}", pax[b"size"]):
                raise DamagedError("a pax header whose size is no number")
            size = int(pax[b"size"])
        if not 0 <= size <= _LARGEST_MEMBER:
            raise DamagedError(f"a member that claims {size:,} bytes")
        kind = None if info.type in _REGULAR else _KINDS.get(info.type, f"of type {info.type!r}, which is not known")
        if kind is None and name.endswith(b"/"):  # as tars of Unix V7 have it, and GNU tar still
            kind = "a folder"
        if any(key.startswith(b"GNU.sparse.") for key in pax):
            kind = "a sparse file"
        photo_id = self._findings.judge(name, kind, size)
        self._findings.last = name
        # As GNU tar and tarfile have it, links, devices and folders have no content whatever their size says.
        held = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        padded = -(-held // BLOCK) * BLOCK
        if info.type == tarfile.GNUTYPE_SPARSE and block[482]:
            self._after_sparse = padded
            return Step(do="skip")
        if photo_id is None:
            return Step(do="skip", size=padded)
        return Step(do="record", size=size, photo_id=photo_id, name=name)

    def _sparse_map(self, more: bool) -> Step:  # noqa: FBT001
        """A block of the map of an old GNU sparse file, after which another or the content comes."""
        size = self._after_sparse or 0
        if more:
            return Step(do="skip")
        self._after_sparse = None
        return Step(do="skip", size=size)


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""  # GNU keeps times there
    return prefix + b"/" + name if prefix else name


def _of_interest(said: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: value for key, value in said.items() if key in (b"path", b"size") or key.startswith(b"GNU.sparse.")}


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records 'length key=value', each with a line feed; length is decimal and counts itself."""
    said, at = dict[bytes, bytes](), 0
    while at < len(data) and data[at]:
        match = _PAX_LENGTH.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or end > len(data) or data[end - 1] != ord("\n"):
            raise DamagedError("a pax header that is damaged")
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals:
            raise DamagedError("a pax header that is damaged")
        said[key] = value
        at = end
    return said
