"""What kind of archive a file is, by its bytes and never by its name."""

import os
import stat
from typing import Literal

Kind = Literal["tar", "gzip", "bzip2", "zstd", "zip"]
BLOCK = 512  # a tar is made of blocks of 512 bytes
_GZIP = b"\x1f\x8b\x08"
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16)))
_MAGIC: dict[str, tuple[bytes, ...]] = {"gzip": (_GZIP,), "zstd": _ZSTD, "bzip2": (b"BZh",)}
LONGEST_MAGIC = 4


def kind_of(path: bytes) -> Kind | None:
    """The kind of an archive; None for any other file, for what is no regular file and for what cannot be read.

    Magic bytes of RFC 1952 (gzip), RFC 8878 (zstd, also when a skippable frame comes first, as pzstd writes), bzip2,
    PKWARE's APPNOTE (zip; an empty one too); a tar has POSIX's "ustar" at byte 257, or a first block whose checksum
    is right. gzip, bzip2 and zstd may hold anything: only reading shows whether it is a tar.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            head = os.pread(handle, BLOCK, 0) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
        finally:
            os.close(handle)
    except OSError:
        return None
    if head[:3] == _GZIP:
        return "gzip"
    if head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if head[:4] in _ZSTD:
        return "zstd"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    return "tar" if len(head) == BLOCK and (head[257:262] == b"ustar" or checksum_holds(head)) else None


def checksum_holds(block: bytes) -> bool:
    """Whether bytes 148 to 155 of a tar header are the sum of its bytes, that field taken as spaces."""
    try:
        said = int(block[148:156].split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        return False
    return said > 0 and said == sum(block[:148]) + sum(block[156:BLOCK]) + 8 * 32


def begins(kind: Kind, data: bytes) -> bool:
    """Whether a frame of a compressed kind begins with these bytes, which may be fewer than `LONGEST_MAGIC`."""
    return any(data[: len(magic)] == magic[: len(data)] for magic in _MAGIC[kind])
