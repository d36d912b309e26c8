"""Room for files that are exported: looked for, and missed in one line that names the file."""

import errno
from pathlib import Path

import pytest

from engine.errors import DiskFullError
from engine.store.formats.room import check_room, full_disk

LONG = "Can't decrement id ref count (file write failed: time = now\n, errno = 28, error message = 'No space left')"


def test_too_little_room_is_said_before_the_work(tmp_path: Path) -> None:
    check_room(tmp_path / "not" / "yet" / "v.npy", 1)
    with pytest.raises(DiskFullError, match=r"^.*/v\.npy: takes at least 1,000,000,000\.0 GB, .* are free\. Make room"):
        check_room(tmp_path / "not" / "yet" / "v.npy", 10**18)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"), OSError(errno.ENOSPC, LONG), RuntimeError(LONG),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line_however_a_library_says_it(error: Exception) -> None:
    with pytest.raises(DiskFullError) as found, full_disk(Path("v.hdf5"), 5000):
        raise error
    assert str(found.value).startswith("v.hdf5: the disk is full (No space left on device). Make room")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), RuntimeError("errno = 5"), OSError("other")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, full_disk(Path("v.hdf5")):
        raise error
    assert found.value is error
