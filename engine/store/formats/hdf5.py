"""HDF5 as ann-benchmarks lays it out: `train` (n, d), `test` (q, d), `neighbors` (q, k) rows of `train`, `distances`.

github.com/erikbern/ann-benchmarks, ann_benchmarks/datasets.py (`write_output`); the attribute `distance` names the
metric. Distances there are those of SciPy: 1 − cosine for `angular`, the root of the squared distance for `euclidean`.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.exact import as_float32
from engine.store.formats.vectors import Vectors, block_rows, bytes_of, file_errors, file_size
from engine.store.rows_file import RowsFile

METRICS = {"angular": "cosine", "cosine": "cosine", "euclidean": "l2", "l2": "l2", "ip": "ip", "dot": "ip"}
NAMES = {"cosine": "angular", "l2": "euclidean", "ip": "ip"}
_DEFLATE_AT_MOST = 1032
_CHUNK_AT_MOST = 256 << 20
_QUERIES_AT_MOST = 1 << 30
_STRUCTURE = 64 << 10  # bytes, more than the headers of four datasets take


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file for reading; InputError for what the library finds wrong with it, at any time."""
    file_size(path)
    h5py: Any = importlib.import_module("h5py")
    with file_errors(path, "an HDF5 file", Exception), h5py.File(path, "r", locking="best-effort") as file:
        yield file


def _dataset(path: Path, file: Any, key: str) -> Any:
    """A dataset (rows, columns) of numbers whose bytes are in this very file, as many as its shape takes."""
    data = file.get(key)
    where = f"{path}[{key}]"
    if not hasattr(data, "shape") or not hasattr(data, "chunks"):
        raise InputError(_no_dataset(path, file, key, data))
    if data.shape is None or len(data.shape) != 2 or data.dtype.kind not in "fiub":
        raise InputError(
            f"{where}: {data.dtype} of shape {data.shape}, expected numbers of shape (vectors, dimensions). Write it "
            "so, or choose another dataset with --key."
        )
    if data.is_virtual or data.external or data.file.filename != file.filename:
        raise InputError(f"{where}: lies in another file. Name that file instead.")
    whole, stored = int(data.shape[0]) * int(data.shape[1]) * data.dtype.itemsize, data.id.get_storage_size()
    filtered = data.chunks is not None and data.id.get_create_plist().get_nfilters() > 0
    if stored > file_size(path) or whole > stored * (_DEFLATE_AT_MOST if filtered else 1):
        raise InputError(f"{where}: shape {data.shape} takes {whole:,} bytes, {stored:,} are there. It is incomplete.")
    if data.chunks and int(np.prod(data.chunks, dtype=np.float64)) * data.dtype.itemsize > _CHUNK_AT_MOST:
        raise InputError(f"{where}: chunks of shape {data.chunks} are too large to read. Write it in smaller ones.")
    return data


def _no_dataset(path: Path, file: Any, key: str, found: Any) -> str:
    """Why a name in a file means no dataset, and which others there are."""
    if hasattr(found, "keys"):
        inside = ", ".join(f"{key}/{name}" for name in list(found)[:8])
        what = f"It holds {inside}: choose a dataset with --key." if inside else "It is empty."
        return f"{path}[{key}]: is a group, expected a dataset of shape (vectors, dimensions). {what}"
    names = [name for name in list(file)[:9] if name != key]
    others = f"Beside it: {', '.join(names[:8])}. Choose a dataset with --key." if names else "There is nothing else."
    if found is None and key in file.keys():  # noqa: SIM118 (a link that leads nowhere is a key, and not `in` the file)
        return f"{path}[{key}]: is a link that leads nowhere, expected a dataset. {others}"
    if found is not None:
        return f"{path}[{key}]: is a type, expected a dataset. {others}"
    if not names:
        return f"{path}: holds no dataset {key!r}, nor anything else"
    return f"{path}: holds no dataset {key!r} but {', '.join(names[:8])}. Choose one with --key."


def open_hdf5(path: Path, key: str | None = None) -> Vectors:
    """The vectors of the dataset `key`; else of `train`, or of the only one there is."""
    with _opened(path) as file:
        key = key or ("train" if "train" in file or len(file) != 1 else next(iter(file)))
        data = _dataset(path, file, key)
        (rows, dim), dtype = map(int, data.shape), data.dtype

    def read() -> Iterator[npt.NDArray[Any]]:
        with _opened(path) as file:
            data, size = _dataset(path, file, key), block_rows(dim, dtype.itemsize)
            for start in range(0, rows, size):
                yield data[start : start + size]

    return Vectors(path=path, rows=rows, dim=dim, dtype=dtype, read=read)


@dataclass(frozen=True, kw_only=True)
class Queries:
    """The queries of a file and what it says of their nearest neighbours.

    queries: (q, d) float32. neighbors: (q, k) int64, rows of `train`, nearest first. distances: (q, k) float32, lower
    is nearer, or None. metric: cosine, l2 or ip.
    """

    queries: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float32] | None
    metric: str


def read_queries(path: Path, vectors: Vectors, *, lossy: bool = False) -> Queries | str:
    """The query set of a file whose `train` is `vectors`; or why there is none that can be used.

    InputError where it is damaged: other dimensions, neighbours that `train` does not have, numbers that are none.
    """
    with _opened(path) as file:
        if not {"test", "neighbors"} <= set(file):
            return "it holds no queries with neighbours (datasets test and neighbors)"
        distance = file.attrs.get("distance", "")
        distance = distance.decode(errors="replace") if isinstance(distance, bytes) else str(distance)
        if distance not in METRICS:
            return f"its distance is {distance[:40] or 'not named'!r}, expected angular, euclidean or ip"
        test, near = _dataset(path, file, "test"), _dataset(path, file, "neighbors")
        far = _dataset(path, file, "distances") if "distances" in file else None
        _check_shapes(path, vectors, test, near, far)
        if test.size * 8 + near.size * 16 > _QUERIES_AT_MOST:
            return f"{len(test):,} queries with {near.shape[1]:,} neighbours take more than 1 GiB"
        neighbors = near[:]
        wrong = (neighbors < 0) | (neighbors >= vectors.rows)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"{path}[neighbors]: row {row:,} names {neighbors[row, column]}, expected rows of train (0 to "
                f"{vectors.rows - 1:,})"
            )
        return Queries(
            queries=as_float32(test[:], f"{path}[test]", 0, lossy=lossy),
            neighbors=neighbors.astype(np.int64),
            distances=None if far is None else as_float32(far[:], f"{path}[distances]", 0, lossy=True),
            metric=METRICS[distance],
        )


def _check_shapes(path: Path, vectors: Vectors, test: Any, near: Any, far: Any) -> None:
    if test.shape[1] != vectors.dim or not len(test):
        raise InputError(f"{path}[test]: shape {test.shape}, expected (queries, {vectors.dim:,}) as train has")
    if near.dtype.kind not in "iu" or len(near) != len(test) or not near.shape[1]:
        raise InputError(f"{path}[neighbors]: {near.dtype} of shape {near.shape}, expected integers ({len(test):,}, k)")
    if far is not None and far.shape != near.shape:
        raise InputError(f"{path}[distances]: shape {far.shape}, expected {near.shape} as neighbors has")


def distances_of(scores: npt.NDArray[np.float32], metric: str) -> npt.NDArray[np.float32]:
    """Scores, higher is nearer, as the distances of such files: 1 − cosine, the Euclidean distance, −inner product."""
    if metric == "l2":
        return np.sqrt(np.maximum(-scores, 0))
    return 1 - scores if metric == "cosine" else -scores


def write_hdf5(part: Path, shape: tuple[int, int], blocks: Iterable[npt.NDArray[np.float32]], queries: Queries) -> None:
    """Write float32 blocks of `shape` in all as `train`, and the query set beside; neighbors become int32.

    The library makes the file and says where each dataset lies; the numbers are written without it, because on a disk
    that fills while it writes it ends the process (HDF5 1.14, segmentation fault).
    """
    if shape[0] > 1 << 31:
        raise InputError(f"{part.name}: {shape[0]:,} vectors, neighbors (int32) can name {1 << 31:,}. Export fewer.")
    beside: dict[str, npt.NDArray[Any]] = {
        "test": np.ascontiguousarray(queries.queries, "<f4"),
        "neighbors": np.ascontiguousarray(queries.neighbors, "<i4"),
    }
    if queries.distances is not None:
        beside["distances"] = np.ascontiguousarray(queries.distances, "<f4")
    shapes = {"train": (shape, "<f4"), **{name: (array.shape, array.dtype.str) for name, array in beside.items()}}
    at = _laid_out(part, shapes, {"distance": NAMES[queries.metric], "dimension": shape[1]})
    file = RowsFile(part, create=False)
    try:
        for name, array in beside.items():
            file.write(bytes_of(array), at[name])
        offset = at["train"]
        for block in blocks:
            data = bytes_of(np.ascontiguousarray(block, "<f4"))
            file.write(data, offset)
            offset += len(data)
    finally:
        file.close()


def _laid_out(part: Path, shapes: Mapping[str, tuple[Any, str]], about: Mapping[str, Any]) -> dict[str, int]:
    """Make a file of datasets (shape, type) without their numbers, as long as it will be: where each of them begins."""
    h5py: Any = importlib.import_module("h5py")
    with part.open("wb") as file:  # what the library itself needs: here a full disk is an error and nothing worse
        os.posix_fallocate(file.fileno(), 0, _STRUCTURE)
        numbers = sum(
            int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for shape, dtype in shapes.values()
        )
        os.truncate(file.fileno(), _STRUCTURE + numbers)
    with h5py.File(part, "w", locking=False) as file:  # it is locked already
        file.attrs.update({"type": "dense", "point_type": "float", **about})
        now = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        now.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        now.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        found = {}
        for name, (shape, dtype) in shapes.items():
            kind, space = h5py.h5t.py_create(np.dtype(dtype)), h5py.h5s.create_simple(tuple(map(int, shape)))
            found[name] = h5py.h5d.create(file.id, name.encode(), kind, space, now).get_offset()
    return {name: int(offset) for name, offset in found.items()}
