"""The `.dat` file of the MIRFLICKR-1M s16a extension: one photo, two layers of the Caffe reference network.

20,400 bytes, little-endian, as published at semanticmultimedia.org/mirflickr with a reader built on `struct`:
int64 1000, 1,000 × float32 (fc8), int64 4096, 4,096 × float32 (fc7).
"""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError

FC7_DIM = 4096
FC8_DIM = 1000
RECORD = np.dtype([("fc8_dim", "<i8"), ("fc8", "<f4", FC8_DIM), ("fc7_dim", "<i8"), ("fc7", "<f4", FC7_DIM)])
RECORD_BYTES = RECORD.itemsize
Record = npt.NDArray[np.void]
LAYERS = {"fc7": FC7_DIM, "fc8": FC8_DIM}
PHOTOS_PER_FOLDER = 10_000


def relative_path(photo_id: int, suffix: str = ".dat") -> str:
    """`10/103169.dat` for photo 103169: folders of 10,000, named as the pictures are."""
    return f"{photo_id // PHOTOS_PER_FOLDER}/{photo_id}{suffix}"


def records(fc7: npt.NDArray[np.float32], fc8: npt.NDArray[np.float32]) -> npt.NDArray[np.void]:
    """Raw records, shape (n,), from fc7 (n, 4096) and fc8 (n, 1000); `.tobytes()` of one is one file."""
    out = np.empty(len(fc7), RECORD)
    out["fc8_dim"], out["fc8"], out["fc7_dim"], out["fc7"] = FC8_DIM, fc8, FC7_DIM, fc7
    return out


def write_dat(path: Path, fc7: npt.NDArray[np.float32], fc8: npt.NDArray[np.float32]) -> None:
    """Write one photo's layers, shapes (4096,) and (1000,), in the publisher's layout."""
    path.write_bytes(records(fc7[None], fc8[None]).tobytes())


def examine(path: bytes | Path) -> tuple[str | None, Record | None]:
    """Read one file without hurry: (why it is refused, or None; its record, shape (), or None).

    The reasons name what was found and what was expected.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(handle)
            if not stat.S_ISREG(mode.st_mode):
                return "not a regular file", None
            data = _read_up_to(handle, RECORD_BYTES, 0)
        finally:
            os.close(handle)
    except OSError as error:
        return _unreadable(path, error), None
    if not data:
        return f"empty, expected {RECORD_BYTES:,} bytes", None
    if len(data) < RECORD_BYTES:
        return f"{len(data):,} bytes, expected {RECORD_BYTES:,}: the file is cut short", None
    if mode.st_size > RECORD_BYTES:
        return f"{mode.st_size:,} bytes, expected {RECORD_BYTES:,}: the file is too long", None
    return examine_bytes(data)


def examine_member(archive: bytes, offset: int) -> tuple[str | None, Record | None]:
    """The same for a record that lies in an archive as it is, from `offset`."""
    try:
        handle = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = _read_up_to(handle, RECORD_BYTES, offset)
        finally:
            os.close(handle)
    except OSError as error:
        return _unreadable(archive, error), None
    if len(data) < RECORD_BYTES:
        return f"{len(data):,} bytes, expected {RECORD_BYTES:,}: the archive is cut short", None
    return examine_bytes(data)


def examine_bytes(data: bytes) -> tuple[str | None, Record | None]:
    """The same for the 20,400 bytes of a record."""
    record = np.frombuffer(data, RECORD)[0]
    for layer, dim in (("fc8", FC8_DIM), ("fc7", FC7_DIM)):
        if record[f"{layer}_dim"] != dim:
            return f"the {layer} header says {record[f'{layer}_dim']}, expected {dim}", None
        bad = np.flatnonzero(~np.isfinite(record[layer]))
        if len(bad):
            return (
                f"{layer}[{bad[0]}] is {record[layer][bad[0]]}, expected finite values ({len(bad)} are not)",
                None,
            )
    return None, record


def _unreadable(path: bytes | Path, error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # says nothing about the file
        raise EngineError(f"{os.fsdecode(path)}: {error.strerror}. Raise the limit (ulimit -n), run again.") from error
    return f"cannot be read ({error.strerror})"


def _read_up_to(handle: int, size: int, offset: int) -> bytes:
    data = b""
    while len(data) < size and (piece := os.pread(handle, size - len(data), offset + len(data))):
        data += piece
    return data
