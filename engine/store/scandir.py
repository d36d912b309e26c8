"""What one folder holds, by Python's os.scandir: compact arrays for the usual files, a list for what needs a look.

`engine.store.scan` does the same in Numba, several times faster; this is the way of hosts without Numba, and says
what the other means.
"""

import os
import re
import stat
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PHOTO_FILE = re.compile(rb"(\d{1,18})\.dat", re.IGNORECASE)

# The d_type of <dirent.h>: the file type bits of st_mode, shifted by 12. 0 where the file system does not say.
UNKNOWN, FOLDER, REGULAR, LINK = 0, stat.S_IFDIR >> 12, stat.S_IFREG >> 12, stat.S_IFLNK >> 12


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """The entries of one folder, in the order of the disk.

    photo_ids: (m,) int64, of the regular files named `<1 to 18 digits>.dat`, in either case of letters.
    name_at: (m,) int64, where the file's name, ended by a zero byte, begins in `names` (uint8).
    others: (name, d_type) of what must be looked at: folders, links, entries of unknown type whatever their name, and
    every other name that ends in `.dat`. ignored: how many entries are none of these.
    """

    photo_ids: npt.NDArray[np.int64]
    name_at: npt.NDArray[np.int64]
    names: npt.NDArray[np.uint8]
    others: list[tuple[bytes, int]]
    ignored: int


def scan(handle: int) -> Scanned:
    """List the folder that is open for reading as `handle`. OSError when the disk fails."""
    ids: list[int] = []
    names: list[bytes] = []
    others: list[tuple[bytes, int]] = []
    ignored = 0
    with os.scandir(handle) as entries:
        for entry in entries:
            name, kind = os.fsencode(entry.name), _kind(entry)
            match = PHOTO_FILE.fullmatch(name) if kind == REGULAR else None
            if match:
                ids.append(int(match[1]))
                names.append(name + b"\0")
            elif kind in (UNKNOWN, FOLDER, LINK) or name.lower().endswith(b".dat"):
                others.append((name, kind))
            else:
                ignored += 1
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    return Scanned(
        photo_ids=np.array(ids, np.int64), name_at=np.cumsum(lengths) - lengths,
        names=np.frombuffer(b"".join(names), np.uint8), others=others, ignored=ignored,
    )  # fmt: skip


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_file(follow_symlinks=False):
        return REGULAR
    try:
        return stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
    except OSError:  # it went in the meantime
        return UNKNOWN
