"""What is said where something cannot be written."""

import errno
import os
from pathlib import Path

import pytest

from engine.errors import DiskFullError, EngineError
from engine.store.durable import disk_errors


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, r"^/there: the disk is full \(No space left on device\)\. Make room"),
        (errno.EDQUOT, r"^/there: the disk is full \("),
        (errno.EFBIG, r"^/there: a file has reached the largest size .*\(File too large\)\. `ulimit -f unlimited`"),
    ],
)
def test_no_room_is_said_as_what_it_is(number: int, says: str) -> None:
    with pytest.raises(DiskFullError, match=says) as error, disk_errors(Path("/there")):
        raise OSError(number, os.strerror(number))
    assert ("disk is full" in str(error.value)) == (number != errno.EFBIG)


def test_what_is_none_of_these_is_passed_on() -> None:
    with pytest.raises(EngineError, match=r"cannot be written \(Permission denied\)"), disk_errors(Path("/there")):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(OSError, match="Input/output error"), disk_errors(Path("/there")):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
