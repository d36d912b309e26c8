"""`.npy` files written in pieces: a header of fixed length first, whose shape is filled in at the end."""

import io
from pathlib import Path

import numpy as np

from engine.errors import StoreError

HEADER_BYTES = 128


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The 128-byte header (format version 1.0) of a C-ordered array."""
    buffer = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    data = buffer.getvalue()
    if len(data) != HEADER_BYTES:
        raise AssertionError(f"npy header of {len(data)} bytes for shape {shape}, expected {HEADER_BYTES}")
    return data


def check_file(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """StoreError unless the file is exactly the array that its manifest promises: header, shape and length."""
    expected = header(shape, dtype)
    size = HEADER_BYTES + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}). Restore it, or build again.") from error
    if found != size:
        raise StoreError(f"{path}: {found:,} bytes, expected {size:,}. The file is cut short or was replaced.")
    if start != expected:
        raise StoreError(f"{path}: its header is not that of a {dtype} array of shape {shape}. The file is damaged.")


def open_rows(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A read-only map of the file's array, after `check_file`."""
    check_file(path, shape, dtype)
    if 0 in shape:  # an empty file part cannot be mapped
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=shape)
