"""Targets `tar` and `stream`: tars of every flavour, hostile and damaged, read by places and as compressed streams."""

import bz2
import tarfile
import zlib
from pathlib import Path
from typing import Any

from backports import zstd

from tests.fuzz import tar_format
from tests.fuzz.choices import Choices, changed, mutated
from tests.store.archives.builders import (
    DAT,
    END,
    FORMATS,
    PACK,
    PADDING,
    Read,
    header,
    member,
    oracle,
    read_places,
    read_stream,
    record,
    with_checksum,
)
from tests.store.archives.builders import tar as pack_tar

Members = list[tuple[int, str, bytes]]
_FIELDS = [(0, 100), (100, 108), (124, 136), (148, 156), (156, 157), (257, 265), (345, 500), (482, 484)]
_NUMBERS = [b"00000047660\0", b"00000047661\0", b"      47660 ", b"\x80" + (20_400).to_bytes(11, "big"), b"\xff" * 12,
            b"77777777777\0", b"00000000000\0", b"\0" * 12, b"-0000047660\0", b"00000001000\0"]  # fmt: skip
_NAMES = [b"7.dat", b"../7.dat", b"/7.dat", b"a/7.DAT", b"7.dat/", b"x.dat", b"a\x80/7.dat", b"999999999999999999.dat",
          b"a/../7.dat", b"7.txt", b"./7.dat", b"//7.dat", b".dat", b"7.dat\0x"]  # fmt: skip


def pieces() -> list[bytes]:
    """Members as they stand in a tar, headers and content; some only make sense before another."""
    found: list[bytes] = []
    for number, flavour in enumerate(FORMATS):
        found += [
            pack_tar([member(f"{number}/{number * 10 + i}.dat", record(number * 10 + i))], flavour, end=False)
            for i in range(3)
        ]
    one = member("5/5.dat", record(5))
    for flavour in ("gnu", "pax"):
        found.append(pack_tar([member("l" * 130 + "/6.dat", record(6))], flavour, end=False))
    for i in (40, 41):
        found.append(pack_tar([member(f"{i}.dat", record(i), mtime=i + 0.5)], "pax", end=False))
    found.append(pack_tar([member("p" * 90 + "/" + "q" * 60 + "/8.dat", record(8))], "ustar", end=False))
    found += [pack_tar([other], "ustar", end=False) for other in (
        member("notes.txt", b"x" * 700), member("0", type=tarfile.DIRTYPE), member("9.dat", record(9)[:-1]),
        member("9.dat", record(9) + b"x"), member("1.dat", type=tarfile.SYMTYPE, linkname="5/5.dat"),
        member("1.dat", type=tarfile.LNKTYPE, linkname="5/5.dat"), member("1.dat", type=tarfile.CHRTYPE),
        member("1.dat", record(1), type=b"Q"), member("../2.dat", record(2)), member("2.dat"),
    )]  # fmt: skip
    found += [header(b"3.dat", magic=b"") + record(3) + PADDING, header(b"4.dat", kind=b"7") + record(4) + PADDING,
              header(b"4.dat", size=_NUMBERS[3]) + record(4) + PADDING,
              header(b"4.dat", kind=b"S") + record(4) + PADDING, header(b"3.dat", kind=b"\0") + record(3) + PADDING,
    ]  # fmt: skip
    for said in (b"18 path=77/77.dat\n", b"19 size=0000020400\n", b"22 GNU.sparse.major=1\n", b"12 size=512\n",
                 b"14 size=20400\n", b"13 mtime=1.5\n", b"14 path=a.dat\n\0", b"6 x=\n\n", b"999 path=\n"):  # fmt: skip
        for kind in (b"x", b"g"):
            found.append(header(b"pax", b"%011o\0" % len(said), kind) + said.ljust(512, b"\0"))
    found.append(header(b"././@LongLink", b"%011o\0" % 11, b"L") + b"long/1.dat\0".ljust(512, b"\0"))
    found += [bytes(512), END, one[0].tobuf(tarfile.USTAR_FORMAT)]
    return found


def made(choices: Choices, library: list[bytes]) -> bytes:
    """A tar of one to six pieces, its headers changed here and there."""
    parts = [_with_field(choices, choices.pick(library)) for _ in range(1 + choices.below(6))]
    data = b"".join(parts) + (END if choices.below(4) else b"")
    if choices.below(3) == 2:
        at = [sum(map(len, parts[:i])) for i in range(len(parts))]
        data = mutated(choices, data, [(start, start + 600) for start in at], 2)
    return data


def _with_field(choices: Choices, piece: bytes) -> bytes:
    """One field of the header at the start of a member filled with something else, its checksum mostly made right."""
    if len(piece) < 512 or choices.below(3):
        return piece
    block = bytearray(piece[:512])
    how = choices.below(4)
    if how == 0:
        block[124:136] = choices.pick(_NUMBERS)
    elif how == 1:
        name = choices.pick(_NAMES)
        block[:100] = name.ljust(100, b"\0")
    elif how == 2:
        block[156] = choices.pick(b"0\x007LS123456xgKVNQA")
    else:
        block = bytearray(changed(choices, bytes(block), _FIELDS)[:512].ljust(512, b"\0"))
    return (with_checksum(block) if choices.below(4) else bytes(block)) + piece[512:]


def by_tarfile(data: bytes) -> Members | None:
    """What tarfile finds; None where it fails."""
    try:
        return oracle(data)
    except (tarfile.TarError, EOFError, ValueError, OSError, ArithmeticError, AttributeError, KeyError):
        return None


def judged(data: bytes, read: Read) -> str:
    """Whether what was read is what the archive holds: by tarfile, and where that differs by the format itself."""
    assert all(reason and "\n" not in reason for *_, reason in read.refused)
    sure = by_tarfile(data)
    same = sure is not None and read.members == sure
    if not same:
        odd: list[int] = []
        walked = tar_format.members(data, odd)
        expected = [(int(DAT.fullmatch(name)[1]), name, content) for name, content in walked]  # type: ignore[index]
        stopped = read.about_archive and len(read.members) in odd
        assert read.members == expected[: len(read.members) if stopped else None], [one[:2] for one in read.members]
    if read.members and not read.refused:
        return "accepted" if same else "accepted, tarfile differs"
    if read.members:
        return "in part" if same else "in part, tarfile differs"
    return "refused" if read.refused else "nothing in it"


class Tar:
    """A plain tar, its members read at their offsets, and again as a stream."""

    def __init__(self, folder: Path) -> None:
        self._path, self._library = folder / "a", pieces()

    def run(self, choices: Choices) -> str:
        """List it, compare; a quarter of the time stream it too."""
        data = made(choices, self._library)
        self._path.write_bytes(data)
        read = read_places(self._path)
        outcome = judged(data, read)
        if choices.one_in(4):
            streamed = read_stream(self._path, 1)
            assert streamed.members == read.members
            assert (streamed.refused != []) == (read.refused != [])
        return outcome


def unpacked(kind: str, data: bytes, step: int = 4096) -> tuple[bytes, bool]:
    """All that the standard library gets out of a compressed file of one or more streams, and whether it is whole.

    step: bytes at a time; of those that bring an error nothing is given. Bits of a gzip header that are reserved are
    none to isal, and an error to zlib: they change no content.
    """
    new: Any = {"gzip": lambda: zlib.decompressobj(31), "bzip2": bz2.BZ2Decompressor, "zstd": zstd.ZstdDecompressor}
    out = b""
    while data:
        decoder = new[kind]()
        if kind == "gzip" and data[:3] == b"\x1f\x8b\x08":
            data = data[:3] + bytes(byte & 0x1F for byte in data[3:4]) + data[4:]
        try:
            for at in range(0, len(data), step):
                out += decoder.decompress(data[at : at + step])
                if decoder.eof:
                    data = decoder.unused_data + data[at + step :]
                    break
            else:
                return out, False
        except (zlib.error, zstd.ZstdError, OSError, EOFError, ValueError):
            return out, False
        if not any(data):
            return out, True
    return out, False


class Stream:
    """A tar in gzip, bzip2 or zstd, damaged inside, outside or not at all."""

    def __init__(self, folder: Path) -> None:
        self._path, self._library = folder / "a", pieces()
        self._packed = {kind: [PACK[kind](piece) for piece in self._library] for kind in ("gzip", "bzip2", "zstd")}
        rows = [pack_tar([member(f"{i}/{i}.dat", record(i, noise=i == 2)) for i in range(n)]) for n in (1, 3, 5)]
        self._whole = {kind: [PACK[kind](row) for row in rows] for kind in self._packed}

    def run(self, choices: Choices) -> str:
        """Pack, damage, stream, compare."""
        kind, how = choices.pick(["gzip", "bzip2", "zstd"]), choices.below(4)
        if how == 0 and kind != "bzip2":  # a tar that is damaged, and whole as far as the packing goes
            data = PACK[kind](made(choices, self._library))
        elif how < 2:
            data = b"".join(choices.pick(self._packed[kind]) for _ in range(1 + choices.below(5)))
            data += PACK[kind](END if choices.below(4) else b"")
        else:
            data = choices.pick(self._whole[kind])
        if choices.below(2):
            data = mutated(choices, data, [(0, 20), (max(len(data) - 20, 0), len(data))], 2)
        self._path.write_bytes(data)
        read = read_stream(self._path, 1 + choices.below(2))
        return self._judged(kind, data, read)

    def _judged(self, kind: str, data: bytes, read: Read) -> str:
        assert all(reason and "\n" not in reason for *_, reason in read.refused)
        content, whole = unpacked(kind, data)
        if read.damaged:
            assert not whole
            assert read.about_archive
            return "called damaged"
        if whole and data[:2] in (b"\x1f\x8b", b"BZ", b"\x28\xb5"):
            return judged(content, read)
        assert read.refused or not read.members, "no word about a damaged archive"
        found = [(name, record) for _, name, record in read.members]
        if found != tar_format.members(content)[: len(found)]:
            content, _ = unpacked(kind, data, 1)
        assert found == tar_format.members(content)[: len(found)]
        return "in part" if found else "refused"
