"""Rows that are mapped from a file and may not be in memory: asked for together, before they are read one by one.

A processor that meets a missing page waits for the disk, page by page. Asked for in time, disks answer many at once.
"""

import resource
import threading
from typing import Any

import numba
import numpy as np
from numba import types

_PAGE, _WILLNEED = resource.getpagesize(), 3  # Linux, macOS and BSD alike
_here = threading.local()

if numba.config.DISABLE_JIT:

    def _madvise(start: Any, size: Any, advice: Any) -> Any:
        """Nothing: plain Python reads what it needs."""

else:
    _madvise = types.ExternalFunction("madvise", types.int32(types.uintp, types.uintp, types.int32))


def ask_for(values: Any, rows: Any) -> None:
    """Have the system read the rows (q, r; −1 = none) of a C-ordered map (n, d) from its file, and do not wait.

    `man 2 madvise`, MADV_WILLNEED. A hint: whatever it answers, the rows can be read.
    """
    _ask_for(values.view(np.uint8), rows)  # which Numba knows, other than float16


@numba.njit(nogil=True, cache=True)
def _ask_for(values: Any, rows: Any) -> None:
    base, size = values.ctypes.data, values.strides[0]
    for line in rows:
        for row in line:
            if row >= 0:
                first = base + row * size
                start = first // _PAGE * _PAGE
                _madvise(np.uintp(start), np.uintp(first + size - start), np.int32(_WILLNEED))


def disk_was_read() -> bool:
    """Whether this thread has had anything read from a disk since it last asked."""
    if not hasattr(resource, "RUSAGE_THREAD"):  # pragma: no cover (Linux alone has it)
        return False
    blocks = resource.getrusage(resource.RUSAGE_THREAD).ru_inblock
    before, _here.blocks = getattr(_here, "blocks", blocks), blocks
    return bool(blocks > before)
