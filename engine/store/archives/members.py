"""What is found in an archive: members that are records, those that are refused, and the rules for either."""

import os
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.store.dat import RECORD_BYTES
from engine.store.sources import Refused

BATCH = 1024  # records of a batch at most: 21 MB
# An archive with more refused members than this is not a collection with some damage: the rest is not read.
MANY_REFUSED = 100_000
_PHOTO_ID = re.compile(rb"(\d{1,18})\.dat", re.IGNORECASE)
NO_ID = "the file name is not a photo id (expected a number, such as 103169.dat)"


class DamagedError(Exception):
    """An archive cannot be read further; the text is the reason. Never leaves this package."""

    def __init__(self, reason: str, *, all_of_it: bool = False) -> None:
        super().__init__(reason)
        self.all_of_it = all_of_it


@dataclass(frozen=True, kw_only=True)
class Members:
    """Members of an archive, in its order, that can be read in place; a few bytes each, no Python object per member.

    photo_ids: (n,) int64. offsets: (n,) int64, where in the archive file the 20,400 bytes of a member begin.
    name_at: (n,) int64, where the member's path, ended by a zero byte, begins in `names` (uint8).
    compressed: members that are records but deflated, and so are not listed here: read such a zip with `stream`.
    """

    photo_ids: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    name_at: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint8]
    refused: list[Refused]
    ignored: int
    compressed: int = 0

    def __len__(self) -> int:
        """How many members."""
        return len(self.photo_ids)

    def name(self, i: int) -> bytes:
        """The path of member i inside the archive."""
        start = int(self.name_at[i])
        end = int(self.name_at[i + 1]) if i + 1 < len(self.name_at) else len(self.names)
        return self.names[start:end].tobytes().split(b"\0", 1)[0]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Records of a stream. The arrays are valid until the next batch is asked for.

    photo_ids: (m,) int64; records: (m, 20400) uint8, C order; m <= 1024, and 0 in a batch that only tells of
    refusals. refused, ignored: since the batch before. position: bytes of the archive file consumed. damaged: a
    checksum over the whole stream is wrong, so that nothing that came out of this archive can be trusted.
    """

    photo_ids: npt.NDArray[np.int64]
    records: npt.NDArray[np.uint8]
    names: list[bytes]
    refused: list[Refused]
    ignored: int
    position: int
    damaged: bool = False


@dataclass(kw_only=True)
class Findings:
    """What the reading of one archive has refused and ignored so far, and where it is."""

    archive: bytes
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0
    last: bytes = b""
    refusals: int = 0
    damaged: bool = False

    def refuse(self, name: bytes, photo_id: int | None, reason: str) -> None:
        """Set one member aside. DamagedError when they are too many."""
        self.refused.append(Refused(source=os.fsdecode(self.archive + b"/" + name), photo_id=photo_id, reason=reason))
        self.refusals += 1
        if self.refusals >= MANY_REFUSED:
            raise DamagedError(f"more than {MANY_REFUSED:,} members are refused: this is no archive of .dat files")

    def stop(self, error: DamagedError) -> None:
        """Say about the archive itself that, and where, reading ended."""
        where = f"after {_shown(self.last)}" if self.last else "before its first member"
        self.damaged |= error.all_of_it
        reason = f"{error}; reading stopped {where}"
        self.refused.append(Refused(source=os.fsdecode(self.archive), photo_id=None, reason=reason))

    def judge(self, name: bytes, kind: str | None, size: int) -> int | None:
        """The photo id of a member that is to be read; None when it was refused, or ignored as other files are.

        kind: None for a regular file, else what it is, such as "a symbolic link".
        """
        base = name.rstrip(b"/").rsplit(b"/", 1)[-1]
        if not base.lower().endswith(b".dat"):
            self.ignored += kind != "a folder"
            return None
        photo_id = photo_id_of(base)
        reason = _reason(name, kind, size) or (NO_ID if photo_id is None else None)
        if reason is None:
            return photo_id
        self.refuse(name, photo_id, reason)
        return None


def _shown(name: bytes) -> str:
    """A member's path, on one line whatever it holds."""
    text = os.fsdecode(name)
    return text if text.isprintable() else ascii(text)


def photo_id_of(name: bytes) -> int | None:
    """The photo id that a file name such as `103169.dat` says."""
    match = _PHOTO_ID.fullmatch(name)
    return int(match[1]) if match else None


def _reason(name: bytes, kind: str | None, size: int) -> str | None:
    if kind is not None:
        return f"not a regular file but {kind}"
    if b"\0" in name:
        return "its path holds a zero byte"
    if name.startswith(b"/") or b".." in name.split(b"/"):
        return "its path leads out of the archive (expected a relative one without '..')"
    if size == 0:
        return f"empty, expected {RECORD_BYTES:,} bytes"
    if size == RECORD_BYTES:
        return None
    end = "the file is cut short" if size < RECORD_BYTES else "the file is too long"
    return f"{size:,} bytes, expected {RECORD_BYTES:,}: {end}"
