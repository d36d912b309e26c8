"""`.fvecs`, `.bvecs`, `.ivecs`: the TEXMEX corpus' vectors (corpus-texmex.irisa.fr).

Little-endian; before each vector its dimension as int32, the same for all vectors of a file; then float32, uint8 or
int32 numbers.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.exact import from_float32
from engine.store.formats.vectors import MAX_DIM, Vectors, block_rows, bytes_of, file_errors, file_size, fill

DTYPES: dict[str, np.dtype[Any]] = {".fvecs": np.dtype("<f4"), ".bvecs": np.dtype("u1"), ".ivecs": np.dtype("<i4")}


def _record(dtype: np.dtype[Any], dim: int) -> np.dtype[Any]:
    return np.dtype([("dim", "<i4"), ("row", dtype, (dim,))])


def open_texmex(path: Path) -> Vectors:
    """The vectors of a file; the first dimension is believed if the file's length is a multiple of such rows."""
    dtype, size = DTYPES[path.suffix.lower()], file_size(path)
    if size < 4:
        raise InputError(f"{path}: {size} bytes, expected the dimension of the first vector (4 bytes) and its numbers")
    with file_errors(path, f"a {path.suffix} file"), path.open("rb") as file:
        dim = int.from_bytes(file.read(4), "little", signed=True)
    if not 1 <= dim <= MAX_DIM:
        raise InputError(f"{path}: row 0 says {dim:,} dimensions, expected 1 to {MAX_DIM:,}")
    each = 4 + dim * dtype.itemsize
    if size % each:
        raise InputError(
            f"{path}: {size:,} bytes, expected a multiple of {each:,} (rows of {dim:,} × {dtype.name}). It is cut "
            "short, or its rows differ in length."
        )
    rows = size // each
    return Vectors(path=path, rows=rows, dim=dim, dtype=dtype, read=lambda: _read(path, rows, dim, dtype))


def _read(path: Path, rows: int, dim: int, dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    size = min(block_rows(dim, dtype.itemsize), rows)
    buffer = np.empty(size, _record(dtype, dim))
    with file_errors(path, f"a {path.suffix} file"), path.open("rb", buffering=0) as file:
        for start in range(0, rows, size):
            block = buffer[: min(size, rows - start)]
            if fill(file, block) < block.nbytes:
                raise InputError(f"{path}: was cut short while it was read")
            other = np.flatnonzero(block["dim"] != dim)
            if len(other):
                found = block["dim"][other[0]]
                raise InputError(f"{path}: row {start + other[0]:,} says {found:,} dimensions, row 0 says {dim:,}")
            yield block["row"]


def write_texmex(path: Path, file: Any, dim: int, blocks: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write float32 blocks (r, dim) in the format of the suffix; InputError for what it cannot hold."""
    dtype, first = DTYPES[path.suffix.lower()], 0
    for block in blocks:
        records = np.empty(len(block), _record(dtype, dim))
        records["dim"], records["row"] = dim, from_float32(block, dtype, path.name, first)
        file.write(bytes_of(records))
        first += len(block)


def write_ivecs(file: Any, rows: npt.NDArray[np.integer[Any]]) -> None:
    """Write integers (r, dim) as `.ivecs`; the caller knows that they fit into int32."""
    records = np.empty(len(rows), _record(DTYPES[".ivecs"], rows.shape[1]))
    records["dim"], records["row"] = rows.shape[1], rows
    file.write(bytes_of(records))
