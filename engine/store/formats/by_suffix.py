"""The reader or writer of a file, chosen by its suffix."""

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.store.durable import disk_errors, flush_folder, part_of, publish
from engine.store.formats import bins, texmex
from engine.store.formats.appended import Appended
from engine.store.formats.bins import open_bin, write_bin
from engine.store.formats.hdf5 import Queries, open_hdf5, write_hdf5
from engine.store.formats.numpy_files import open_npy, open_npz, write_npy, write_npz
from engine.store.formats.parquet import open_parquet, write_parquet
from engine.store.formats.room import full_disk
from engine.store.formats.texmex import open_texmex, write_texmex
from engine.store.formats.vectors import Vectors

HDF5 = (".hdf5", ".h5")
SUFFIXES = (".npy", ".npz", *texmex.DTYPES, *bins.DTYPES, ".parquet", *HDF5)

Blocks = Iterable[npt.NDArray[np.float32]]


def open_vectors(path: Path, *, key: str | None = None, column: str | None = None) -> Vectors:
    """The vectors of a file, its header checked; key: the array of a `.npz` or HDF5 file; column: of a Parquet file.

    InputError for a suffix that is not in `SUFFIXES`, for an option that the format does not have, and for a file that
    is not what its suffix says.
    """
    suffix = known(path)
    if key is not None and suffix not in (".npz", *HDF5):
        raise InputError(f"--key {key}: {suffix} files hold one array, without a name. Leave --key out.")
    if column is not None and suffix != ".parquet":
        raise InputError(f"--column {column}: {suffix} files have no columns with names. Leave --column out.")
    if suffix == ".npz":
        return open_npz(path, key)
    if suffix == ".parquet":
        return open_parquet(path, column)
    if suffix in HDF5:
        return open_hdf5(path, key)
    if suffix == ".npy":
        return open_npy(path)
    return open_texmex(path) if suffix in texmex.DTYPES else open_bin(path)


def known(path: Path) -> str:
    """The suffix, in small letters; InputError where it names no format."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        found = f"files that end in {suffix}" if suffix else "files without a suffix"
        raise InputError(f"{path}: {found} are not known, expected {', '.join(SUFFIXES)}")
    return suffix


def write_vectors(
    path: Path, name: str, blocks: Blocks, *, photo_ids: npt.NDArray[np.int64], dim: int, queries: Queries | None = None
) -> None:
    """Write float32 blocks (r, dim), as many rows as photo ids (n,), in the format of the suffix; whole or not at all.

    name: what the array (.npz) or column (.parquet) is called. Parquet keeps the photo ids too, HDF5 the query set,
    which it must have. InputError names the first number that the format cannot hold.
    """
    suffix, shape = known(path), (len(photo_ids), dim)
    writers: dict[str, Callable[[Path], None]] = {
        ".parquet": lambda part: write_parquet(part, name, dim, blocks, photo_ids),
    }
    if queries is not None:
        writers |= dict.fromkeys(HDF5, lambda part: write_hdf5(part, shape, blocks, queries))
    with aside(path, size_of(path, shape)) as part:
        if suffix in writers:
            writers[suffix](part)
            return
        with Appended(part) as file:
            if suffix == ".npy":
                write_npy(file, shape, blocks)
            elif suffix == ".npz":
                write_npz(file, name, shape, blocks)
            elif suffix in texmex.DTYPES:
                write_texmex(path, file, dim, blocks)
            elif suffix in bins.DTYPES:
                write_bin(path, file, shape, blocks)
            else:
                raise InputError(f"{path}: {suffix} needs queries beside the vectors")


def size_of(path: Path, shape: tuple[int, int]) -> int:
    """How many bytes vectors of a shape take in the format of the suffix, headers aside; 0: it compresses them."""
    suffix = known(path)
    if suffix == ".parquet":
        return 0
    dtype = (texmex.DTYPES | bins.DTYPES).get(suffix, np.dtype("<f4"))
    return shape[0] * (shape[1] * dtype.itemsize + 4 * (suffix in texmex.DTYPES))


@contextmanager
def aside(path: Path, size: int = 0) -> Iterator[Path]:
    """Where to write a file: flushed and renamed to `path` at the end of the `with`, removed if that is not reached.

    DiskFullError names the file and the bytes that it takes, if `size` says them.
    """
    part = part_of(path)
    with disk_errors(path.parent), full_disk(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            try:
                yield part
                publish(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        flush_folder(path.parent)


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Keep other processes from writing the same file at the same time; EngineError when one does."""
    handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy = f"{part}: another mirsearch is writing this file. Wait for it, or name another."
            raise EngineError(busy) from None
        yield
    finally:
        os.close(handle)
