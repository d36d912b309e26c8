"""Bits cut out of bytes, against Python's own integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store.archives.bits import BLOCK_MARK, END_MARK, MARK_BITS, find_mark, moved, number


@given(st.binary(min_size=1, max_size=12), st.data())
def test_bits_move_to_any_place_and_zeros_are_around_them(data, draw):
    first = draw.draw(st.integers(0, len(data) * 8 - 1))
    count = draw.draw(st.integers(1, len(data) * 8 - first))
    to = draw.draw(st.integers(0, 7))
    out = moved(data, first, count, to)
    assert out.dtype == np.uint8
    bits = int.from_bytes(data, "big") >> (len(data) * 8 - first - count) & ((1 << count) - 1)
    assert number(data, first, count) == bits
    assert int.from_bytes(out.tobytes(), "big") == bits << (len(out) * 8 - to - count)


@pytest.mark.parametrize("mark", [BLOCK_MARK, END_MARK])
@pytest.mark.parametrize("at", [0, 1, 7, 8, 13, 31, 32])
def test_a_mark_is_found_at_any_bit_and_not_before_the_first_asked_for(mark, at):
    data = np.frombuffer((mark << (80 - at - MARK_BITS)).to_bytes(10, "big"), np.uint8)
    assert find_mark(data, 0) == find_mark(data, at) == at
    assert find_mark(data, at + 1) == -1
    assert find_mark(data[: (at + MARK_BITS - 1) // 8], 0) == -1
