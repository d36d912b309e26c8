"""`.fbin`, `.u8bin`, `.i8bin`, `.ibin`, `.f16bin` (`.hbin`): vectors of big-ann-benchmarks and cuVS.

Little-endian: uint32 number of vectors, uint32 dimensions, then the numbers row by row (docs.rapids.ai/api/cuvs, "cuVS
Bench Datasets").
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.exact import from_float32
from engine.store.formats.vectors import Vectors, bytes_of, check_length, file_errors, file_size, read_stream

DTYPES: dict[str, np.dtype[Any]] = {
    ".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"), ".i8bin": np.dtype("i1"), ".ibin": np.dtype("<i4"),
    ".f16bin": np.dtype("<f2"), ".hbin": np.dtype("<f2"),
}  # fmt: skip
_HEADER = struct.Struct("<II")


def open_bin(path: Path) -> Vectors:
    """The vectors of a file whose length is exactly what its header says."""
    dtype, size = DTYPES[path.suffix.lower()], file_size(path)
    if size < _HEADER.size:
        raise InputError(f"{path}: {size} bytes, expected a header of {_HEADER.size} bytes (vectors, dimensions)")
    with file_errors(path, f"a {path.suffix} file"), path.open("rb") as file:
        rows, dim = _HEADER.unpack(file.read(_HEADER.size))
    expected = _HEADER.size + rows * dim * dtype.itemsize
    check_length(path, size, expected, f"{rows:,} × {dim:,} × {dtype.name}")
    return Vectors(path=path, rows=rows, dim=dim, dtype=dtype, read=lambda: _read(path, (rows, dim), dtype))


def _read(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    with file_errors(path, f"a {path.suffix} file"), path.open("rb", buffering=0) as file:
        file.seek(_HEADER.size)
        yield from read_stream(path, file, shape, dtype)


def write_bin(path: Path, file: Any, shape: tuple[int, int], blocks: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write float32 blocks of `shape` in all, in the format of the suffix; InputError for what it cannot hold."""
    if max(shape) >= 1 << 32:
        raise InputError(f"{path.name}: {shape[0]:,} vectors, the header has room for {(1 << 32) - 1:,}. Choose .npy.")
    dtype, first = DTYPES[path.suffix.lower()], 0
    file.write(_HEADER.pack(*shape))
    for block in blocks:
        file.write(bytes_of(np.ascontiguousarray(from_float32(block, dtype, path.name, first))))
        first += len(block)
