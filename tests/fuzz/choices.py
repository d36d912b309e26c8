"""Decisions read from bytes, and bytes changed by them: what makes an input out of what a fuzzer hands over.

Like Atheris' FuzzedDataProvider, but without Atheris: the bytes of a finding give the same input everywhere.
"""

import struct
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
# What lies at the borders of the integers that formats use, and of the sizes that this project knows.
NUMBERS = (
    0, 1, 2, 3, 8, 127, 128, 255, 256, 511, 512, 513, 1000, 4095, 4096, 4097, 20_399, 20_400, 20_401, 0x7FFF, 0x8000,
    0xFFFF, 0x1_0000, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63,
    (1 << 64) - 1,
)  # fmt: skip
Range = tuple[int, int]


class Choices:
    """Reads decisions from bytes; when they are used up, every decision is the first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def raw(self, size: int) -> bytes:
        """The next `size` bytes, filled up with zeros."""
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece.ljust(size, b"\0")

    def below(self, limit: int) -> int:
        """A number from 0 to limit − 1."""
        size = 1 if limit <= 1 << 8 else 2 if limit <= 1 << 16 else 4
        return int.from_bytes(self.raw(size), "little") % max(limit, 1)

    def pick(self, options: Sequence[_T]) -> _T:
        """One of them."""
        return options[self.below(len(options))]

    def one_in(self, times: int) -> bool:
        """True once in so many times; False when the bytes are used up."""
        return self.below(times) == times - 1


def mutated(choices: Choices, data: bytes, hot: Sequence[Range] = (), most: int = 3) -> bytes:
    """Data after 0 to `most` changes; hot: (first, last + 1) of the bytes where half of them go."""
    out = bytearray(data)
    for _ in range(choices.below(most + 1)):
        _change(choices, out, hot)
    return bytes(out)


def changed(choices: Choices, data: bytes, hot: Sequence[Range] = ()) -> bytes:
    """Data after one change."""
    out = bytearray(data)
    _change(choices, out, hot)
    return bytes(out)


def _place(choices: Choices, size: int, hot: Sequence[Range]) -> int:
    if hot and choices.below(2) == 0:
        first, end = choices.pick(hot)
        return min(first + choices.below(end - first), size)
    return choices.below(size + 1)


def _change(choices: Choices, out: bytearray, hot: Sequence[Range]) -> None:
    at, how = _place(choices, len(out), hot), choices.below(16)
    if how < 6:
        if at < len(out):
            out[at] ^= 1 << choices.below(8)
    elif how < 8:
        if at < len(out):
            out[at] = choices.below(256)
    elif how < 11:
        form = choices.pick(["<B", "<H", "<I", "<Q", ">I", ">Q"])
        value = choices.pick(NUMBERS) & (256 ** struct.calcsize(form) - 1)
        piece = struct.pack(form, value)[: len(out) - at]
        out[at : at + len(piece)] = piece
    elif how == 11:
        del out[at:]
    elif how == 12:
        del out[at : at + 1 + choices.below(600)]
    elif how == 13:
        out[at:at] = choices.raw(choices.below(9))
    elif how == 14:
        out += choices.pick([b"\0", b"\n", b"x", b"PK\x05\x06"]) * (1 + choices.below(1 << 10))
    else:
        start = choices.below(len(out) + 1)
        out[at:at] = out[start : start + 1 + choices.below(600)]
