"""`.npy` and `.npz` (numpy.org, "NEP 1: A simple file format for NumPy arrays"); nothing is ever unpickled."""

import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.vectors import (
    Vectors,
    block_rows,
    bytes_of,
    check_length,
    file_errors,
    file_size,
    read_stream,
)

_MAGIC = b"\x93NUMPY"
_DEFLATE_AT_MOST = 1032  # bytes from one: the format's own limit (zlib.net/zlib_tech.html)


def read_header(path: Path, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and type of the array whose `.npy` header a stream begins with."""
    with file_errors(path, "a .npy array"):
        magic = stream.read(len(_MAGIC) + 2)
        if not magic.startswith(_MAGIC) or len(magic) < len(_MAGIC) + 2:
            begins = f"begins with {magic!r}" if magic else "is empty"
            raise InputError(f"{path}: {begins}, expected {_MAGIC!r} and a version. It is no .npy array: use np.save.")
        version = tuple(magic[len(_MAGIC) :])
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            said = ".".join(map(str, version))
            raise InputError(f"{path}: .npy format version {said}, expected 1.0 or 2.0. Save it again with np.save.")
        try:
            shape, fortran, dtype = readers[version](stream)
        except OSError:
            raise
        except Exception as error:  # a hostile header fails in many ways, some of which name addresses in memory
            raise InputError(
                f"{path}: its header cannot be read, expected type, order and shape of an array. It is damaged: save "
                "it again with np.save."
            ) from error
    if any(type(length) is bool or length < 0 for length in shape):
        raise InputError(f"{path}: an array of shape {shape}, expected one of numbers. Its header is damaged.")
    if dtype.kind not in "fiub":
        raise InputError(f"{path}: an array of {dtype}, expected one of numbers. Save it as float32, say.")
    return tuple(int(length) for length in shape), bool(fortran), dtype


def _matrix(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise InputError(f"{path}: an array of shape {shape}, expected (vectors, dimensions). Save it reshaped.")
    return shape[0], shape[1]


def open_npy(path: Path) -> Vectors:
    """The rows of a `.npy` array (n, dim); its length must be what the header says."""
    size = file_size(path)
    with file_errors(path, "a .npy array"), path.open("rb") as file:
        shape, fortran, dtype = read_header(path, file)
        offset = file.tell()
    rows, dim = _matrix(path, shape)
    check_length(path, size, offset + rows * dim * dtype.itemsize, f"{rows:,} × {dim:,} × {dtype.name}")

    def read() -> Iterator[npt.NDArray[Any]]:
        with file_errors(path, "a .npy array"), path.open("rb", buffering=0) as file:
            file.seek(offset)
            yield from read_stream(path, file, (rows, dim), dtype)

    def read_columns() -> Iterator[npt.NDArray[Any]]:
        with file_errors(path, "a .npy array"):
            data = np.memmap(path, dtype, "r", offset, (rows, dim), "F")
            size = block_rows(dim, dtype.itemsize)
            for start in range(0, rows, size):
                yield data[start : start + size]

    return Vectors(path=path, rows=rows, dim=dim, dtype=dtype, read=read_columns if fortran else read)


def open_npz(path: Path, key: str | None = None) -> Vectors:
    """The rows of one array (n, dim) of a `.npz`, stored or deflated; key: its name where there are several."""
    size = file_size(path)
    with _member(path, key) as (member, file):
        shape, fortran, dtype = read_header(path, file)
        offset = file.tell()
    where = Path(f"{path}[{member.filename.removesuffix('.npy')}]")
    rows, dim = _matrix(where, shape)
    if fortran:
        raise InputError(f"{where}: is in Fortran order. Save it with np.ascontiguousarray, or as .npy.")
    check_length(where, member.file_size, offset + rows * dim * dtype.itemsize, f"{rows:,} × {dim:,} × {dtype.name}")
    if member.compress_size > size or member.file_size > (member.compress_size + 64) * _DEFLATE_AT_MOST:
        raise InputError(f"{where}: {member.compress_size:,} bytes cannot hold {member.file_size:,}. It is damaged.")

    def read() -> Iterator[npt.NDArray[Any]]:
        with _member(path, member.filename.removesuffix(".npy")) as (_, file):
            file.read(offset)
            yield from read_stream(path, file, (rows, dim), dtype)
            if file.read(1):  # and with its end the checksum is compared
                raise InputError(f"{where}: is longer than its header says")

    return Vectors(path=where, rows=rows, dim=dim, dtype=dtype, read=read)


@contextmanager
def _member(path: Path, key: str | None) -> Iterator[tuple[zipfile.ZipInfo, Any]]:
    """One array of a `.npz`, opened, and what the archive says of it."""
    with file_errors(path, "a .npz archive", Exception), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if not names:
            raise InputError(f"{path}: holds no arrays, expected one of shape (vectors, dimensions). Use np.savez.")
        if key is None and len(names) != 1:
            raise InputError(f"{path}: holds {len(names)} arrays ({_some(names)}). Choose one with --key.")
        if key is not None and key not in names:
            raise InputError(f"{path}: holds no array {key!r} but {_some(names)}")
        member = archive.infolist()[names.index(key) if key is not None else 0]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: {member.filename} is neither stored nor deflated, as np.savez does")
        with archive.open(member) as file:
            yield member, file


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "none"


def _header(shape: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def write_npy(file: Any, shape: tuple[int, int], blocks: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write float32 blocks of `shape` in all as a `.npy` array."""
    file.write(_header(shape))
    for block in blocks:
        file.write(bytes_of(np.ascontiguousarray(block)))


def write_npz(file: Any, name: str, shape: tuple[int, int], blocks: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write float32 blocks of `shape` in all as the one array, stored under `name`, of a `.npz`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # noqa: SIM117 (the member ends before the archive)
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            write_npy(member, shape, blocks)
