"""Blocks of bzip2 files, which begin at any bit: finding them, and cutting them out.

A block begins with the 48 bits 0x314159265359 and the checksum of its data, a stream ends with 0x177245385090 and the
checksum of its blocks' checksums (J. Seward's bzip2; "BZIP2: Format Specification" by J. Tsai).
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

BLOCK_MARK = 0x314159265359
END_MARK = 0x177245385090
MARK_BITS = 48


def _second_and_third_byte() -> Any:
    """Whether two neighbouring bytes may be the second and third of either mark, at any of eight alignments."""
    table = np.zeros(1 << 16, np.bool_)
    for mark in (BLOCK_MARK, END_MARK):
        for shift in range(8):
            table[mark >> (24 + shift) & 0xFFFF] = True
    return table


_MAY_BE = _second_and_third_byte()


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def find_mark(data: Any, first: int) -> int:
    """The first bit, `first` or later, where a mark lies whole in `data` (bytes, uint8); -1 when there is none."""
    for i in range(first // 8 + 1, len(data) - 1):
        if not _MAY_BE[(np.int64(data[i]) << 8) | np.int64(data[i + 1])]:
            continue
        word = np.int64(0)
        for j in range(i - 1, i + 6):
            word = (word << 8) | (np.int64(data[j]) if j < len(data) else np.int64(0))
        for shift in range(8):
            mark = (word >> (8 - shift)) & 0xFFFFFFFFFFFF
            at = (i - 1) * 8 + shift
            if at >= first and at + MARK_BITS <= len(data) * 8 and mark in (BLOCK_MARK, END_MARK):
                return at
    return -1


def moved(data: bytes, first: int, count: int, to: int) -> npt.NDArray[np.uint8]:
    """`count` bits from bit `first`, so that they begin at bit `to` (0 to 7) of an array (m,) uint8; zeros around."""
    source = np.zeros(-(-count // 8) + 3, np.uint8)  # a zero before, and bytes enough after
    start, end = first // 8, -(-(first + count) // 8)
    source[1 : 1 + end - start] = np.frombuffer(data, np.uint8, end - start, start)
    size = -(-(to + count) // 8)
    left = first % 8 - to
    if left >= 0:
        out = source[1 : 1 + size] << left | source[2 : 2 + size] >> (8 - left)
    else:
        out = source[1 : 1 + size] >> -left | source[:size] << (8 + left)
    out[0] &= 0xFF >> to
    out[-1] &= 0xFF << (-(to + count) % 8) & 0xFF
    return out.astype(np.uint8, copy=False)


def number(data: bytes, first: int, count: int) -> int:
    """`count` bits from bit `first`, as a number."""
    end = first + count
    whole = int.from_bytes(data[first // 8 : -(-end // 8)], "big")
    return whole >> (-end % 8) & ((1 << count) - 1)
