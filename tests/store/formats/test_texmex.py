"""`.fvecs` and its kin: every row says its dimension, and all say the same."""

import struct
from unittest.mock import patch

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.formats import vectors as module
from engine.store.formats.texmex import DTYPES, open_texmex
from tests.store.formats.samples import encoded

ROWS = np.arange(40, dtype=np.float32).reshape(8, 5)


@pytest.mark.parametrize("suffix", DTYPES)
@pytest.mark.parametrize("dim", [2**31 - 1, -1, -(2**31), 0, 2**20 + 1])
def test_a_first_dimension_that_cannot_be_is_an_error(tmp_path, suffix, dim):
    (tmp_path / f"v{suffix}").write_bytes(struct.pack("<i", dim) + bytes(60))
    with pytest.raises(InputError, match=f"row 0 says {dim:,} dimensions"):
        open_texmex(tmp_path / f"v{suffix}")


@pytest.mark.parametrize("suffix", DTYPES)
@pytest.mark.parametrize("row", [1, 5, 7])
@pytest.mark.parametrize("dim", [4, 6, -5, 2**31 - 1])
def test_a_row_of_another_dimension_is_named(tmp_path, suffix, row, dim):
    data = bytearray(encoded(suffix, ROWS))
    struct.pack_into("<i", data, row * len(data) // 8, dim)
    (tmp_path / f"v{suffix}").write_bytes(data)
    with (
        patch.object(module, "BLOCK_BYTES", 60),
        pytest.raises(InputError, match=f"row {row} says {dim:,} dimensions, row 0 says 5"),
    ):
        list(open_texmex(tmp_path / f"v{suffix}").blocks())


def test_rows_that_really_differ_in_length_are_an_error(tmp_path):
    (tmp_path / "v.fvecs").write_bytes(encoded(".fvecs", ROWS) + encoded(".fvecs", ROWS[:, :4]))
    with pytest.raises(InputError, match="expected a multiple of 24"):
        open_texmex(tmp_path / "v.fvecs")
    (tmp_path / "v.fvecs").write_bytes(encoded(".fvecs", ROWS) + encoded(".fvecs", ROWS[:6, :3]))  # 6 × 16 = 4 × 24
    with pytest.raises(InputError, match="row 8 says 3 dimensions, row 0 says 5"):
        list(open_texmex(tmp_path / "v.fvecs").blocks())


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "v.bvecs"
    path.write_bytes(encoded(".bvecs", ROWS))
    vectors = open_texmex(path)
    path.write_bytes(encoded(".bvecs", ROWS)[:-9])
    with pytest.raises(InputError, match="cut short"):
        list(vectors.blocks())
