"""Runs of plain tar headers, by the compiled functions of `engine.store.archives.walk`."""

from typing import Any

import numpy as np

from engine.store.native import native

LONGEST_NAME = 101  # with the zero byte after it


def load() -> None:
    """Have the compiled functions ready. ImportError where they cannot be had: nothing compiled yet, and no Numba."""
    native("run_in_file"), native("run_in_memory")


def run_in_file(
    handle: int, at: int, end: int, ids: Any, offsets: Any, name_at: Any, names: Any, used: int
) -> tuple[int, int, int]:
    """List plain members from byte `at` of a file of `end` bytes. (members, next byte, bytes of `names` used).

    ids, offsets, name_at: (room,) int64. Stops at what is not plain, or when there is no room for one more.
    """
    block, ends = np.empty(1024, np.uint8), np.array([0, at, used, 0], np.int64)
    arrays = (ids, offsets, name_at, names, block, ends)
    found = native("run_in_file")(handle, at, end, len(ids), len(names), *(array.ctypes.data for array in arrays))
    return found, int(ends[1]), int(ends[2])


def run_in_memory(data: Any, at: int, ids: Any, records: Any, names: Any, used: int) -> tuple[int, int, int]:
    """Copy plain members that lie whole in data[at:]. (members, next byte, bytes of `names` used).

    data: uint8. ids: (room,) int64, records: (room, 20400) uint8. Names follow each other, each with a zero byte.
    """
    ends = np.array([0, at, used, 0], np.int64)
    arrays = (ids, records, names, ends)
    found = native("run_in_memory")(
        data.ctypes.data, at, len(data), len(ids), len(names), *(array.ctypes.data for array in arrays)
    )
    return found, int(ends[1]), int(ends[2])
