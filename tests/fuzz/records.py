"""Target `dat`: files and members of an archive that are, or nearly are, records; the bulk readers and `examine`."""

import math
import os
import struct
from pathlib import Path
from unittest.mock import patch

import numpy as np

from engine.store import direct
from engine.store.copy import read_block
from engine.store.dat import Record
from engine.store.reader import Block, Reader, RecordReader, open_reader
from engine.store.sources import Listing
from kernels import Device, load
from tests.builders import DAT_BYTES, photo_bytes
from tests.fuzz.choices import Choices, Range, mutated

MOST_FILES = 3
_HOT: list[Range] = [(0, 16), (4000, 4024), (20_384, 20_400)]
_FLOATS = (0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0x7F7FFFFF, 1, 0x80000000, 0x007FFFFF)


def truth(content: bytes | None) -> tuple[bytes, bytes] | None:
    """(fc7, fc8) as they stand in a file that is a record, by `struct`; None for any other."""
    if content is None or len(content) != DAT_BYTES:
        return None
    if struct.unpack_from("<q", content, 0) != (1000,) or struct.unpack_from("<q", content, 4008) != (4096,):
        return None
    # In float64 no sum of so many float32 is past the range: it is finite if all of them are.
    total = sum(struct.unpack_from("<1000f", content, 8)) + sum(struct.unpack_from("<4096f", content, 4016))
    return (content[4016:], content[8:4008]) if math.isfinite(total) else None


class Dat:
    """Up to three files, or members that follow each other in one file, through every reader."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        device = Device(kind="cpu", why="asked for")
        self._readers: list[Reader] = [open_reader(device, MOST_FILES), RecordReader(load(device), MOST_FILES)]
        self._block = Block(MOST_FILES)
        self._records = [photo_bytes(i) for i in range(4)] + [struct.pack("<q4000xq16384x", 1000, 4096)]
        (folder / "a folder").mkdir()

    def run(self, choices: Choices) -> str:
        """Write, read, compare."""
        contents = [self._content(choices) for _ in range(1 + choices.below(MOST_FILES))]
        listing, there = self._archived(contents) if choices.one_in(4) else self._files(choices, contents)
        expected = [truth(content) for content in there]
        for i, true in enumerate(expected):
            self._examined(listing.examine(i), true)
        reader, n = choices.pick(self._readers), len(contents)
        self._block.fc7[:], self._block.fc8[:], self._block.good[:] = -1, -1, False
        past_cache = choices.below(2) == 1  # as files are read that do not lie in the page cache
        with patch.object(direct, "_is_cold", lambda _: past_cache):
            ids, refused = read_block(listing, reader, self._block)
        good = [i for i in range(n) if expected[i]]
        assert ids.tolist() == good
        assert [one.photo_id for one in refused] == [i for i in range(n) if not expected[i]]
        assert all(one.reason and "\n" not in one.reason for one in refused)
        for row, i in enumerate(good):
            assert (self._block.fc7[row].tobytes(), self._block.fc8[row].tobytes()) == expected[i]
        return "accepted" if len(good) == n else "in part" if good else "refused"

    def _content(self, choices: Choices) -> bytes:
        data = choices.pick(self._records)
        if choices.below(4) == 0:
            at = choices.pick([8, 4004, 4016, 20_396, 8 + 4 * choices.below(1000), 4016 + 4 * choices.below(4096)])
            data = data[:at] + struct.pack("<I", choices.pick(_FLOATS)) + data[at + 4 :]
        return mutated(choices, data, _HOT) if choices.below(2) else data

    @staticmethod
    def _examined(found: tuple[str | None, Record | None], true: tuple[bytes, bytes] | None) -> None:
        reason, record = found
        assert (record is None) == (true is None) == (reason is not None), reason
        if record is not None:
            assert (record["fc7"].tobytes(), record["fc8"].tobytes()) == true
        else:
            assert reason and "\n" not in reason

    def _files(self, choices: Choices, contents: list[bytes]) -> tuple[Listing, list[bytes | None]]:
        """Files of their own, some of which are none."""
        there: list[bytes | None] = list(contents)
        for i, content in enumerate(contents):
            path = self._folder / f"{i}.dat"
            path.unlink(missing_ok=True)
            if not choices.one_in(16):
                path.write_bytes(content)
                continue
            there[i] = None
            if (what := choices.below(5)) == 1:
                os.mkfifo(path)
            elif what > 1:
                path.symlink_to(["nowhere", "a folder", f"{i}.dat"][what - 2])
        names = b"".join(b"%d.dat\0" % i for i in range(len(contents)))
        listing = self._listing(os.fsencode(self._folder), len(contents), np.arange(len(contents)) * 6, names)
        return listing, there

    def _archived(self, contents: list[bytes]) -> tuple[Listing, list[bytes | None]]:
        """All in one file: a record is what its offset and the 20,400 bytes from there say."""
        path, whole = self._folder / "archive", b"".join(contents)
        path.write_bytes(whole)
        offsets = np.cumsum([0, *map(len, contents[:-1])])
        listing = self._listing(os.fsencode(path), len(contents), np.zeros(len(contents), np.int64), b"in it\0")
        listing.offset[:] = offsets
        return listing, [whole[at : at + DAT_BYTES] for at in offsets.tolist()]

    @staticmethod
    def _listing(place: bytes, n: int, name_at: np.ndarray, names: bytes) -> Listing:
        return Listing(
            places=[place], photo_ids=np.arange(n), place=np.zeros(n, np.int32), offset=np.full(n, -1, np.int64),
            name_at=name_at.astype(np.int64), names=np.frombuffer(names, np.uint8),
        )  # fmt: skip
