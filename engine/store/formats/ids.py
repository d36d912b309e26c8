"""Photo ids of vectors that come without: one for each row, from a file beside them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.formats.numpy_files import read_header
from engine.store.formats.texmex import open_texmex, write_ivecs
from engine.store.formats.vectors import bytes_of, check_length, file_errors, file_size, read_stream

SUFFIXES = (".npy", ".txt", ".ivecs")


def read_ids(path: Path, rows: int) -> npt.NDArray[np.int64]:
    """The photo ids (rows,) int64 of a `.npy` (n,), a text file with one a line, or an `.ivecs` file (n × 1 or 1 × n).

    InputError where they are not as many as the rows, not unique, or not from 0 to 2**63 − 1.
    """
    readers = {".npy": _npy, ".txt": _text, ".ivecs": _ivecs}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: ids in a file of this kind are not known, expected {', '.join(SUFFIXES)}")
    return check_ids(readers[path.suffix.lower()](path, rows), rows, str(path))


def check_ids(ids: npt.NDArray[np.int64], rows: int, where: str) -> npt.NDArray[np.int64]:
    """The ids as they are; InputError unless there is one for each row, none negative and none twice."""
    if len(ids) != rows:
        raise InputError(f"{where}: holds {len(ids):,} photo ids for {rows:,} vectors")
    if len(ids) and ids.min() < 0:
        row = int(np.argmax(ids < 0))
        raise InputError(f"{where}: row {row:,} is {ids[row]}, expected a photo id (0 to 2**63 - 1)")
    order = np.argsort(ids, kind="stable")
    again = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(again):
        row = int(again.min())
        before = int(np.argmax(ids == ids[row]))
        raise InputError(f"{where}: row {row:,} is photo {ids[row]}, and so is row {before:,}. Ids are unique.")
    return ids


def _npy(path: Path, rows: int) -> npt.NDArray[np.int64]:
    size = file_size(path)
    with file_errors(path, "a .npy array"), path.open("rb") as file:
        shape, _, dtype = read_header(path, file)
        if len(shape) != 1 or dtype.kind not in "iu":
            raise InputError(f"{path}: {dtype} of shape {shape}, expected integers (n,)")
        check_length(path, size, file.tell() + shape[0] * dtype.itemsize, f"{shape[0]:,} × {dtype.name}")
        if shape[0] != rows:
            raise InputError(f"{path}: holds {shape[0]:,} photo ids for {rows:,} vectors")
        parts = [block[:, 0].astype(dtype) for block in read_stream(path, file, (rows, 1), dtype)]
    ids = np.concatenate(parts)
    if dtype.kind == "u" and ids.max() >= 1 << 63:
        raise InputError(f"{path}: {ids.max()} is no photo id, expected less than 2**63")
    return ids.astype(np.int64)


def _text(path: Path, rows: int) -> npt.NDArray[np.int64]:
    file_size(path)
    with file_errors(path, "a list of photo ids", UnicodeDecodeError), path.open("rb") as file:
        return np.fromiter(_numbers(path, file, rows), np.int64)


def _numbers(path: Path, file: Iterator[bytes], rows: int) -> Iterator[int]:
    found = 0
    for number, line in enumerate(file, 1):
        text = line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").split(b"#", 1)[0].strip()
        if not text:
            continue
        if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
            shown = text[:40].decode(errors="replace")
            raise InputError(f"{path}, line {number}: {shown!r} is not a photo id")
        found += 1
        if found > rows:
            raise InputError(f"{path}: holds more than {rows:,} photo ids, one for each vector was expected")
        yield int(text)


def _ivecs(path: Path, rows: int) -> npt.NDArray[np.int64]:
    vectors = open_texmex(path)
    if vectors.rows * vectors.dim != rows or 1 not in (vectors.rows, vectors.dim):
        raise InputError(f"{path}: {vectors.rows:,} × {vectors.dim:,} numbers, expected {rows:,} × 1 or 1 × {rows:,}")
    return np.concatenate([block.reshape(-1).astype(np.int64) for block in vectors.read()])


def write_ids(part: Path, suffix: str, ids: npt.NDArray[np.int64]) -> None:
    """Write ids (n,) as `.npy`, `.txt` or `.ivecs` (n × 1); InputError for ids that int32 cannot hold in the last."""
    with part.open("wb") as file:
        if suffix == ".npy":
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (len(ids),)})
            file.write(bytes_of(ids.astype("<i8")))
        elif suffix == ".txt":
            file.writelines(b"%d\n" % photo_id for photo_id in ids.tolist())
        elif suffix == ".ivecs":
            if len(ids) and ids.max() >= 1 << 31:
                raise InputError(f"photo id {ids.max()}: .ivecs holds int32 alone. Choose .npy or .txt for the ids.")
            write_ivecs(file, ids[:, None])
        else:
            raise InputError(f"ids in a {suffix or 'nameless'} file: expected {', '.join(SUFFIXES)}")
