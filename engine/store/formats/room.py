"""Room on the disk for files that are exported: looked for before the work, and missed in one line."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DiskFullError
from engine.store.durable import disk_errors, no_room
from engine.words import sized


def check_room(path: Path, size: int) -> None:
    """DiskFullError where the disk on which `path` is, or will be, has less than `size` bytes left for it."""
    absolute = path.absolute()
    folder = next(place for place in (absolute, *absolute.parents) if place.is_dir())
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFullError(
            f"{path}: takes at least {sized(size)}, {sized(free)} are free. Make room and run the same command again, "
            "or name another disk."
        )


@contextmanager
def full_disk(path: Path, size: int = 0) -> Iterator[None]:
    """DiskFullError that names `path`, and its size if that is known, for a disk that fills while it is written.

    h5py and pyarrow pack the system's error in long texts of several lines, h5py even in a RuntimeError.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = _number(error)
        reason = no_room(OSError(number, os.strerror(number)))
        if reason is None:
            raise
        takes = f" It takes at least {sized(size)}; what" if size else " What"
        raise DiskFullError(f"{path}: {reason}{takes} was begun was taken away again.") from error


def _number(error: BaseException) -> int:
    """The system's number of an error, which may stand in its text alone; 0 if there is none."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    found = re.search(r"errno\s*=?\s*(\d{1,4})", str(error))
    return int(found[1]) if found else 0
