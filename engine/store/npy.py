"""`.npy` files written in pieces: a header of fixed length first, whose shape is filled in at the end."""

import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import StoreError

HEADER_BYTES = 128
# Of the rows of a store: one page, so that rows begin on a page of the disk, as writing past the page cache asks for.
PAGE = 4096


def header(shape: tuple[int, ...], dtype: str, size: int = HEADER_BYTES) -> bytes:
    """The header (format version 1.0) of a C-ordered array, filled with spaces to `size` bytes."""
    buffer = io.BytesIO()
    description = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)
    text = buffer.getvalue()[10:].rstrip()
    if 10 + len(text) + 1 > size:
        raise AssertionError(f"npy header of {len(text)} characters for shape {shape}, expected up to {size - 11}")
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n"


def check_file(
    path: Path, shape: tuple[int, ...], dtype: str, size: int = HEADER_BYTES, *, growing: bool = False
) -> None:
    """StoreError unless the file is exactly the array that its manifest promises: header, shape and length.

    size: of its header. growing: rows are being added at its end, so it may be longer.
    """
    expected = header(shape, dtype, size)
    length = size + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    try:
        found = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(size)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}).") from error
    if found != length and not (growing and found > length):
        raise StoreError(f"{path}: {found:,} bytes, expected {length:,}. The file is cut short or was replaced.")
    if start != expected:
        raise StoreError(f"{path}: its header is not that of a {dtype} array of shape {shape}. The file is damaged.")


def open_rows(
    path: Path, shape: tuple[int, ...], dtype: str, size: int = HEADER_BYTES, *, growing: bool = False
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A read-only map of the file's array, after `check_file`."""
    check_file(path, shape, dtype, size, growing=growing)
    if 0 in shape:  # an empty file part cannot be mapped
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    try:
        return np.memmap(path, dtype=dtype, mode="r", offset=size, shape=shape)
    except (OSError, ValueError) as error:  # replaced since the look at its length
        raise StoreError(f"{path}: cannot be mapped ({error}). It is being changed, or was: try again.") from error


def forget(rows: Any) -> None:
    """Let go of the pages that this process has read of a map from `open_rows`; of any other array, do nothing.

    They stay in the page cache. Otherwise a pass over a file leaves all of it in the memory that this process is said
    to use, until the system runs short.
    """
    owner = getattr(rows, "_mmap", None)
    if owner is not None and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)
