"""Blocks of bzip2 files, which begin at any bit: finding them, and cutting them out.

A block begins with the 48 bits 0x314159265359 and the checksum of its data, a stream ends with 0x177245385090 and the
checksum of its blocks' checksums (J. Seward's bzip2; "BZIP2: Format Specification" by J. Tsai).
"""

from typing import Any

import numba
import numpy as np

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


@numba.njit(nogil=True, cache=True)  # pragma: no cover (runs only compiled)
def copy_bits(data: Any, first: int, count: int, out: Any, at: int) -> None:
    """Copy `count` bits of `data` from bit `first` to bit `at` of `out`, which is zero from there on."""
    done = 0
    if at % 8 == 0:
        start, shift, target = first // 8, first % 8, at // 8
        whole = min(count // 8, len(data) - start - 1)
        for i in range(whole):
            two = (np.uint16(data[start + i]) << 8) | np.uint16(data[start + i + 1])
            out[target + i] = np.uint8((two >> (8 - shift)) & 0xFF)
        done = max(whole, 0) * 8
    while done < count:
        source, place = first + done, at + done
        bits = min(8 - place % 8, count - done)
        pair = np.int64(data[source // 8]) << 8
        if source // 8 + 1 < len(data):
            pair |= np.int64(data[source // 8 + 1])
        value = (pair >> (16 - source % 8 - bits)) & ((1 << bits) - 1)
        out[place // 8] |= np.uint8(value << (8 - place % 8 - bits))
        done += bits


def number(data: bytes, first: int, count: int) -> int:
    """`count` bits from bit `first`, as a number."""
    end = first + count
    whole = int.from_bytes(data[first // 8 : -(-end // 8)], "big")
    return whole >> (-end % 8) & ((1 << count) - 1)
