"""Blocks: bounded, whole, in order, whatever pieces a reader gives."""

import io
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.store.formats import vectors as module
from engine.store.formats.vectors import MAX_DIM, Vectors, block_rows, fill, read_stream


def of(pieces: Any, rows: int, dim: int = 2, dtype: str = "f4") -> Vectors:
    return Vectors(path=Path("f"), rows=rows, dim=dim, dtype=np.dtype(dtype), read=lambda: iter(pieces))


@given(dim=st.integers(1, MAX_DIM), itemsize=st.sampled_from([1, 2, 4, 8]))
def test_a_block_is_at_most_16_mib_and_whole_store_blocks_where_they_fit(dim, itemsize):
    rows = block_rows(dim, itemsize)
    assert rows >= 1 and rows * dim * max(itemsize, 4) <= 16 << 20
    assert rows % 256 == 0 or (rows + 1) * dim * max(itemsize, 4) > 16 << 20 or rows == 256
    assert rows % 256 == 0 or rows < 256


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), block=st.integers(1, 7),
    dtype=st.sampled_from(["f4", "i2", "f8"]),
)  # fmt: skip
def test_pieces_of_any_size_become_blocks_of_one_size(sizes, block, dtype):
    total = sum(sizes)
    if not total:
        return
    rows = np.arange(total * 2).reshape(total, 2).astype(dtype)
    pieces = np.split(rows, np.cumsum(sizes)[:-1])
    with patch.object(module, "BLOCK_BYTES", block * 2 * 4 * (2 if dtype == "f8" else 1)):
        found = [part.copy() for part in of(pieces, total, dtype=dtype).blocks()]
    assert (np.concatenate(found) == rows).all()
    assert all(len(part) == block for part in found[:-1]) and 1 <= len(found[-1]) <= block


def test_more_or_fewer_rows_than_promised_are_an_error():
    rows = np.zeros((4, 2), np.float32)
    with pytest.raises(InputError, match="holds more than the 3"):
        list(of([rows], 3).blocks())
    with pytest.raises(InputError, match="holds 4 vectors, its header says 5"):
        list(of([rows], 5).blocks())


@pytest.mark.parametrize(
    ("rows", "dim", "dtype", "says"),
    [
        (0, 2, "f4", "holds 0 vectors"),
        (2**40 + 1, 2, "f4", "holds 1,099,511,627,777 vectors"),
        (1, 0, "f4", "vectors of 0 dimensions"),
        (1, MAX_DIM + 1, "f4", "vectors of 1,048,577 dimensions"),
        (1, 2, "c8", "complex64"),
        (1, 2, "O", "object"),
        (1, 2, "S4", r"\|S4"),
        (1, 2, "f16", "float128"),
    ],
)
def test_what_no_store_can_hold_is_refused(rows, dim, dtype, says):
    with pytest.raises(InputError, match=says):
        of([], rows, dim, dtype)


class Slow(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readinto(self, room: Any) -> int:
        count = min(3, len(self.data), len(room))
        room[:count], self.data = self.data[:count], self.data[count:]
        return count


def test_a_stream_that_gives_little_is_read_on():
    rows = np.arange(6, dtype="<f4").reshape(3, 2)
    (block,) = read_stream(Path("f"), Slow(rows.tobytes()), (3, 2), rows.dtype)
    assert (block == rows).all()
    with pytest.raises(InputError, match="cut short"):
        list(read_stream(Path("f"), Slow(rows.tobytes()[:-1]), (3, 2), rows.dtype))
    room = np.zeros(4, np.uint8)
    assert fill(Slow(b"abcdefg"), room) == 4 and bytes(room) == b"abcd"
