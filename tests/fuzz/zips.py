"""Target `zip`: directories that lie, members that overlap, damage anywhere; by places and as streams."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

from engine.store.archives import list_zip
from tests.fuzz import zip_format
from tests.fuzz.choices import NUMBERS, Choices, mutated
from tests.store.archives.builders import DAT, Read, read_places, read_stream, record

RECORD_BYTES = 20_400
_NAMES = [b"1.dat", b"10/2.dat", b"3.DAT", b"../4.dat", b"/5.dat", b"x.dat", b"notes.txt", b"6.dat/", b"0/",
          b"a\xff/7.dat", b"7.dat\0x", b"\xc3\xa9/8.dat", b"1.dat"]  # fmt: skip
_LOCAL, _ENTRY, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_END64, _PLACE64 = struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")


def contents() -> list[tuple[int, bytes, int, int, bytes]]:
    """(method, packed, checksum, size, content) of members: records, and what is none."""
    found = []
    for data in [*(record(i) for i in range(3)), record(9, noise=True), record(4)[:-1], record(4) + b"x", b"", b"text"]:
        squeeze = zlib.compressobj(6, wbits=-15)
        for method, packed in ((0, data), (8, squeeze.compress(data) + squeeze.flush())):
            found.append((method, packed, zlib.crc32(data), len(data), data))
    return found


class Zip:
    """A zip put together by hand, so that every field may say something else."""

    def __init__(self, folder: Path) -> None:
        self._path, self._contents = folder / "a", contents()

    def run(self, choices: Choices) -> str:
        """Read it both ways; all that comes out must stand in it, and all that is good in it must come out."""
        data, hot = self._made(choices)
        if choices.below(3) == 2:
            data = mutated(choices, data, hot, 2)
        self._path.write_bytes(data)
        places, streamed = read_places(self._path, list_zip), read_stream(self._path, 1)
        for read in (places, streamed):
            assert all(reason and "\n" not in reason for *_, reason in read.refused), read.refused
        if data[:2] == b"PK":  # anything else is no zip to `stream`
            self._judged(data, places, streamed)
        return "accepted" if streamed.members and not streamed.refused else "in part" if streamed.members else "refused"

    def _made(self, choices: Choices) -> tuple[bytes, list[tuple[int, int]]]:
        body, entries, hot, start, made = b"", b"", list[tuple[int, int]](), 0, 1 + choices.below(6)
        for _ in range(made):
            method, packed, checksum, size, _ = choices.pick(self._contents)
            name, at = choices.pick(_NAMES), len(body)
            flags = choices.pick([0, 0, 0, 8, 0x800, 1]) if choices.below(3) == 2 else 0
            said = [method, checksum, len(packed), size, at]
            entry = list(said)
            if choices.one_in(6):  # one of the two headers lies
                liar, field = choices.pick([said, entry]), choices.below(5)
                liar[field] = choices.pick([choices.pick(NUMBERS), liar[field] ^ 1, start]) & 0xFFFFFFFF
            extra = b""
            if choices.one_in(8):
                extra = struct.pack("<2H3Q", 1, 24, entry[3], entry[2], entry[4])
                entry[2:] = [0xFFFFFFFF] * 3
            sizes = [0, 0, 0] if flags & 8 else said[1:4]
            body += _LOCAL.pack(b"PK\3\4", 20, flags, said[0] & 0xFFFF, 0, 33, *sizes, len(name), 0) + name + packed
            if flags & 8:
                body += struct.pack("<4s3I", b"PK\7\x08", *said[1:4])
            mode = choices.pick([0, 0o100644, 0o120777, 0o040755]) << 16 if choices.one_in(4) else 0
            entries += _ENTRY.pack(
                b"PK\1\2", 3 << 8 | 20, 20, flags, entry[0] & 0xFFFF, 0, 33, *entry[1:4], len(name), len(extra), 0, 0,
                0, mode, entry[4],
            ) + name + extra  # fmt: skip
            hot.append((at, at + 30 + len(name)))
            start = at
        at = len(body)
        end = b""
        if choices.one_in(8):
            end = _END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, made, made, len(entries), at)
            end += _PLACE64.pack(b"PK\6\7", 0, at + len(entries), 1)
        end += _END.pack(b"PK\5\6", 0, 0, made, made, len(entries), at, 0)
        return body + entries + end, [*hot, (at, at + len(entries)), (at + len(entries), at + len(entries) + len(end))]

    @staticmethod
    def _judged(data: bytes, places: Read, streamed: Read) -> None:
        """By zipfile, and the members of the list by their headers as the specification has them."""
        unchecked, checked = zip_format.members(data)
        for one in streamed.members:
            assert one in checked, one[:2]
        for one in places.members:  # whose checksum nobody has looked at yet
            assert one in unchecked, one[:2]
        if not streamed.about_archive:
            named = {source.removeprefix("a/") for source, *_ in streamed.refused}
            for photo_id, name, content in by_zipfile(data):
                given = (photo_id, name, content) in streamed.members
                assert given or name in named, f"{name} is good, and was neither given nor refused"
        ids = [photo_id for photo_id, *_ in streamed.members]
        assert ids == sorted(ids)


def names_of(info: zipfile.ZipInfo) -> str:
    """The name as the bytes of the archive say it."""
    raw = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437")
    return raw.decode("utf-8", "surrogateescape")


def by_zipfile(data: bytes) -> list[tuple[int, str, bytes]]:
    """(photo id, path, content) of the records that zipfile reads without complaint."""
    found: list[tuple[int, str, bytes]] = []
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except Exception:  # hostile bytes bring many errors out of it
        return found
    for info in archive.infolist():
        name = names_of(info)
        match = DAT.fullmatch(name.rstrip("/"))
        if match is None or info.file_size != RECORD_BYTES:
            continue
        try:
            content = archive.read(info)
        except Exception:
            continue
        found.append((int(match[1]), name, content))
    return found
