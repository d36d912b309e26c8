"""Headers of `.fbin` and its kin that lie about the file."""

import struct

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.formats.bins import DTYPES, open_bin, write_bin


@pytest.mark.parametrize("suffix", DTYPES)
@pytest.mark.parametrize(
    ("rows", "dim"),
    [(2**32 - 1, 2**32 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (2**16, 2**16), (0, 0), (0, 4), (4, 0), (2, 3), (3, 5)],
)
def test_a_header_that_does_not_fit_the_file_is_an_error(tmp_path, suffix, rows, dim):
    path = tmp_path / f"v{suffix}"
    path.write_bytes(struct.pack("<II", rows, dim) + bytes(12 * DTYPES[suffix].itemsize))
    with pytest.raises(InputError, match=r"bytes, expected [\d,]+ for"):
        open_bin(path)


@pytest.mark.parametrize(("rows", "dim"), [(0, 4), (4, 0), (0, 0)])
def test_no_vectors_are_an_error(tmp_path, rows, dim):
    (tmp_path / "v.fbin").write_bytes(struct.pack("<II", rows, dim))
    with pytest.raises(InputError, match=r"holds 0 vectors|of 0 dimensions"):
        open_bin(tmp_path / "v.fbin")


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    path = tmp_path / "v.fbin"
    path.write_bytes(struct.pack("<II", 4, 2) + bytes(32))
    vectors = open_bin(path)
    path.write_bytes(struct.pack("<II", 4, 2) + bytes(31))
    with pytest.raises(InputError, match="cut short"):
        list(vectors.blocks())


def test_more_vectors_than_the_header_can_count_are_refused(tmp_path):
    with (tmp_path / "v.fbin").open("wb") as file, pytest.raises(InputError, match=r"4,294,967,296 vectors"):
        write_bin(tmp_path / "v.fbin", file, (2**32, 1), [np.zeros((1, 1), np.float32)])
