"""Files in every format, made without the code under test, and arrays to fill them with."""

import io
import struct
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

FLOAT = (".npy", ".npz", ".fvecs", ".fbin", ".parquet", ".hdf5", ".h5")
WHOLE = {".bvecs": "u1", ".ivecs": "<i4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4"}
HALF = (".f16bin", ".hbin")
ALL = (*FLOAT, *WHOLE, *HALF)

_BINS = {".fbin": "<f4", ".u8bin": "u1", ".i8bin": "i1", ".ibin": "<i4", ".f16bin": "<f2", ".hbin": "<f2"}
_TEXMEX = {".fvecs": "<f4", ".bvecs": "u1", ".ivecs": "<i4"}

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
shapes = st.tuples(st.integers(1, 12), st.integers(1, 7))
float_rows = arrays.arrays(np.float32, shapes, elements=finite)


def whole_rows(suffix: str) -> st.SearchStrategy[Any]:
    """Rows (n, d) of the integers of a format that float32 holds exactly."""
    limits = np.iinfo(WHOLE[suffix])
    low, high = max(limits.min, -(2**24)), min(limits.max, 2**24)
    return arrays.arrays(np.int64, shapes, elements=st.integers(low, high)).map(lambda rows: rows.astype("f4"))


def encoded(suffix: str, rows: Any) -> Any:
    """The bytes of a file of rows (n, d), put together by hand or by the format's own library."""
    n, d = rows.shape
    file = io.BytesIO()
    if suffix in _TEXMEX:
        return b"".join(struct.pack("<i", d) + row.astype(_TEXMEX[suffix]).tobytes() for row in rows)
    if suffix in _BINS:
        return struct.pack("<II", n, d) + rows.astype(_BINS[suffix]).tobytes()
    if suffix == ".npy":
        np.save(file, rows)
    elif suffix == ".npz":
        np.savez_compressed(file, vectors=rows)
    elif suffix == ".parquet":
        pq.write_table(pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), d)}), file)
    else:
        with h5py.File(file, "w") as h5:
            h5["train"] = rows
    return file.getvalue()


def decoded(path: Path) -> Any:
    """The rows (n, d) float32 of a file, by hand or by the format's own library."""
    data, suffix = path.read_bytes(), path.suffix
    if suffix in _TEXMEX:
        (d,) = struct.unpack_from("<i", data)
        record = np.frombuffer(data, np.dtype([("d", "<i4"), ("row", _TEXMEX[suffix], (d,))]))
        assert (record["d"] == d).all()
        return record["row"].astype("f4")
    if suffix in _BINS:
        shape = struct.unpack_from("<II", data)
        return np.frombuffer(data, _BINS[suffix], offset=8).reshape(shape).astype("f4")
    if suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return file["layer"]
    if suffix == ".parquet":
        return np.array(pq.read_table(path)["layer"].to_pylist(), np.float32)
    with h5py.File(path) as h5:
        return h5["train"][:]


def same_bits(a: Any, b: Any) -> Any:
    """Whether two float32 arrays are the same to the last bit, −0.0 and denormals too."""
    return a.shape == b.shape and a.dtype == b.dtype == np.float32 and a.tobytes() == b.tobytes()
