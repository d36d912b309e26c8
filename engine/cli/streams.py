"""Standard streams that whoever started the command has closed: `mirsearch info store >&-`."""

import errno
import io
import os
import sys


class Closed(io.TextIOBase):
    """A stream in the place of one that is closed: what is written to it fails, as at a file that is full."""

    def write(self, text: str) -> int:
        """OSError."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def replace_closed() -> None:
    """See that all three descriptors lead somewhere, and that Python has a stream for each.

    Else the next file that is opened, of a store say, would be standard output to whatever writes there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which takes the lowest number that is free
    # Python has None for a stream that was closed when it started.
    sys.stdout = sys.stdout or Closed()
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115 — for as long as the process lives
