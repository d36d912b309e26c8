"""`.npy` and `.npz`: what is not a plain matrix of numbers, and archives that lie."""

import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.formats.numpy_files import open_npy, open_npz

ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


def rows_of(vectors: Any) -> Any:
    return np.concatenate([block.copy() for block in vectors.blocks()])


def npy(header: str, data: bytes = bytes(96), version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "i1", "u1", "i2", ">i4", "u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_type_and_order_is_read(tmp_path, dtype, order):
    rows = (ROWS > 9 if dtype == "?" else ROWS).astype(dtype, order=order)
    np.save(tmp_path / "v.npy", rows)
    vectors = open_npy(tmp_path / "v.npy")
    assert (vectors.rows, vectors.dim, vectors.dtype) == (6, 4, rows.dtype)
    assert (rows_of(vectors) == rows).all()


@pytest.mark.parametrize(
    "array",
    [np.zeros(4), np.zeros((2, 3, 4)), np.zeros((2, 2), "c8"), np.array([["a", "b"]]), np.zeros((2, 2), "i4,f4"),
     np.array([[{}, 1]], object), np.zeros((2, 2), "M8[s]"), np.zeros(()), np.zeros((0, 4)), np.zeros((4, 0))],
)  # fmt: skip
def test_what_is_no_matrix_of_numbers_is_an_error(tmp_path, array):
    np.save(tmp_path / "v.npy", array, allow_pickle=True)
    np.savez(tmp_path / "v.npz", array)
    for read in (open_npy, open_npz):
        with pytest.raises(InputError, match=f"expected|arrays of {array.dtype}"):
            read(tmp_path / f"v.{read.__name__[-3:]}")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-6, -4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6, -4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 5), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (6, 2147483647), }",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': (6, 4), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (6.0, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (3, 4), }",
        "{'descr': '<f4', 'fortran_order': False, }",
        "__import__('os').system('false')",
        "(" * 100,
        "[" * 50 + "]" * 50,
        "",
    ],
)
def test_a_hostile_header_is_one_line(tmp_path, header):
    (tmp_path / "v.npy").write_bytes(npy(header))
    with pytest.raises(InputError) as error:
        open_npy(tmp_path / "v.npy")
    assert str(error.value).startswith(f"{tmp_path / 'v.npy'}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("version", [(3, 0), (9, 9)])
def test_another_version_is_named(tmp_path, version):
    (tmp_path / "v.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4), }", b"", version))
    with pytest.raises(InputError, match=f"version {version[0]}.{version[1]}"):
        open_npy(tmp_path / "v.npy")


def test_version_2_is_read(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6, 4), }"
    (tmp_path / "v.npy").write_bytes(npy(header, ROWS.tobytes(), (2, 0)))
    assert (rows_of(open_npy(tmp_path / "v.npy")) == ROWS).all()


class Boom:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_a_pickle_is_never_opened(tmp_path):
    (tmp_path / "v.npy").write_bytes(pickle.dumps(Boom()))
    np.savez(tmp_path / "v.npz", np.array([[Boom()]], object))
    for read in (open_npy, open_npz):
        with pytest.raises(InputError):
            read(tmp_path / f"v.{read.__name__[-3:]}")


def test_an_array_is_chosen_by_its_key(tmp_path):
    np.savez(tmp_path / "v.npz", a=ROWS, b=ROWS + 1)
    assert (rows_of(open_npz(tmp_path / "v.npz", "b")) == ROWS + 1).all()
    with pytest.raises(InputError, match=r"holds 2 arrays \(a, b\). Choose one with --key"):
        open_npz(tmp_path / "v.npz")
    with pytest.raises(InputError, match="no array 'c' but a, b"):
        open_npz(tmp_path / "v.npz", "c")


def test_a_fortran_array_in_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "v.npz", np.asfortranarray(ROWS))
    with pytest.raises(InputError, match="Fortran order"):
        open_npz(tmp_path / "v.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compression_whose_bounds_are_not_known_is_refused(tmp_path, method):
    file = io.BytesIO()
    np.save(file, ROWS)
    with zipfile.ZipFile(tmp_path / "v.npz", "w", method) as archive:
        archive.writestr("a.npy", file.getvalue())
    with pytest.raises(InputError, match="neither stored nor deflated"):
        open_npz(tmp_path / "v.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_that_promises_more_than_it_holds_is_an_error(tmp_path, save):
    save(tmp_path / "v.npz", a=ROWS)
    data = bytearray((tmp_path / "v.npz").read_bytes())
    central = data.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", data, central + 24)
    for wrong in (size - 16, size + 16, 1 << 31):
        struct.pack_into("<I", data, central + 24, wrong)
        (tmp_path / "v.npz").write_bytes(data)
        with pytest.raises(InputError):
            rows_of(open_npz(tmp_path / "v.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_of_the_last_row_is_seen_by_the_checksum(tmp_path, save):
    save(tmp_path / "v.npz", a=np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32))
    data = bytearray((tmp_path / "v.npz").read_bytes())
    data[data.index(b"PK\x01\x02") - 40] ^= 1
    (tmp_path / "v.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"v\.npz"):
        list(open_npz(tmp_path / "v.npz").blocks())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"v\.npy: is empty, expected b'\\x93NUMPY'"),
        (b"1,2,3\n", r"v\.npy: begins with b'1,2,3\\n', expected b'\\x93NUMPY' .* np.save"),
        (b"\x93NUMPY\1\0\x76\0" + b"x" * 118, r"v\.npy: its header cannot be read, .* damaged: save it again"),
    ],
)
def test_what_is_no_array_says_what_it_is(tmp_path, content, says):
    (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        open_npy(tmp_path / "v.npy")
    assert " at 0x" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_an_array_of_no_numbers_is_an_error(tmp_path, shape):
    np.save(tmp_path / "v.npy", np.empty(shape, np.float32))
    with pytest.raises(InputError, match=r"v\.npy: holds \d vectors of \d dimensions, expected at least one number"):
        open_npy(tmp_path / "v.npy")
