"""Small archives of every kind, and what Python's own tarfile says is in them."""

import bz2
import gzip
import io
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from backports import zstd

from engine.store.archives import Batch, list_tar, stream
from engine.store.dat import RECORD_BYTES
from engine.store.sources import Refused

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PACK: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gzip": lambda data: gzip.compress(data, 1),
    "bzip2": lambda data: bz2.compress(data, 1),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}
COMPRESSED = ["gzip", "bzip2", "zstd"]
DAT = re.compile(r"(?:.*/)?(\d{1,18})\.dat", re.IGNORECASE | re.DOTALL)


def record(seed: int, *, noise: bool = False) -> bytes:
    """20,400 bytes that tell whose they are; with noise, bytes that nothing can compress."""
    if noise:
        return np.random.default_rng(seed).bytes(RECORD_BYTES)
    text = f"{seed:>10}".encode() * 40
    return text + bytes(RECORD_BYTES - 2 * len(text)) + text


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(members: list[tuple[tarfile.TarInfo, bytes]], flavour: str = "ustar", *, end: bool = True) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[flavour]) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
        members_end = archive.offset
    return out.getvalue() if end else out.getvalue()[:members_end]


def dats(n: int, *, noise: bool = False) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [member(f"{i // 3}/{i}.dat", record(i, noise=noise)) for i in range(n)]


def header(name: bytes, size: bytes = b"00000047660\0", kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A tar header made by hand, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257 : 257 + len(magic)] = magic
    return with_checksum(block)


def with_checksum(block: bytes | bytearray) -> bytes:
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)
PADDING = bytes(80)


def oracle(data: bytes) -> list[tuple[int, str, bytes]]:
    """(photo id, path, content) of the members that are records, in order, by tarfile."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for info in archive:
            match = DAT.fullmatch(info.name)
            plain = info.isreg() and not info.issparse() and info.size == RECORD_BYTES
            if match and plain and not info.name.startswith("/") and ".." not in info.name.split("/"):
                found.append((int(match[1]), info.name, archive.extractfile(info).read()))  # type: ignore[union-attr]
    return found


class Read:
    """Everything that came out of an archive."""

    def __init__(self) -> None:
        self.members: list[tuple[int, str, bytes]] = []
        self.refused: list[tuple[str, int | None, str]] = []
        self.ignored = 0
        self.damaged = False
        self.batches: list[int] = []
        self.positions: list[int] = []

    @property
    def about_archive(self) -> list[str]:
        return [reason for source, photo_id, reason in self.refused if photo_id is None and "/" not in source]

    def add(self, batch: Batch, archive: Path) -> None:
        for photo_id, name, data in zip(batch.photo_ids, batch.names, batch.records, strict=True):
            self.members.append((int(photo_id), os.fsdecode(name), data.tobytes()))
        self._refuse(batch.refused, archive)
        self.ignored += batch.ignored
        self.damaged |= batch.damaged
        self.batches.append(len(batch.photo_ids))
        self.positions.append(batch.position)

    def _refuse(self, refused: Sequence[Refused], archive: Path) -> None:
        for one in refused:
            assert one.source.startswith(str(archive))
            self.refused.append((one.source.removeprefix(f"{archive.parent}/"), one.photo_id, one.reason))


def read_stream(path: Path, threads: int = 2) -> Read:
    read = Read()
    for batch in stream(os.fsencode(path), threads=threads):
        assert len(batch.photo_ids) == len(batch.names) == len(batch.records) <= 1024
        read.add(batch, path)
    return read


def read_places(path: Path, lister=list_tar) -> Read:
    read = Read()
    found = lister(os.fsencode(path))
    data = path.read_bytes() if path.exists() else b""
    for i in range(len(found)):
        start = int(found.offsets[i])
        content = data[start : start + RECORD_BYTES]
        assert len(content) == RECORD_BYTES
        read.members.append((int(found.photo_ids[i]), os.fsdecode(found.name(i)), content))
    read._refuse(found.refused, path)
    read.ignored = found.ignored
    return read


def read_tar(tmp_path: Path, data: bytes, kind: str = "tar") -> Read:
    """Pack a tar and read it: a plain one by places, others as streams."""
    path = tmp_path / "a"
    path.write_bytes(PACK[kind](data))
    return read_places(path) if kind == "tar" else read_stream(path)
