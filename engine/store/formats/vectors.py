"""What a file of vectors gives: its rows, dimensions and type, and float32 blocks of bounded size."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.store.formats.exact import as_float32
from engine.store.rows_file import aligned
from engine.words import counted

BLOCK_BYTES = 16 << 20
STORE_BLOCK_ROWS = 256  # rows that a store sums and writes together
MAX_DIM = 1 << 20  # of a store's layer, engine.store.manifest.Layer
MAX_ROWS = 1 << 40


def block_rows(dim: int, itemsize: int = 4) -> int:
    """How many rows of a block fill 16 MiB: a multiple of 256 where that many fit, at least one."""
    rows = BLOCK_BYTES // (dim * max(itemsize, 4))
    return max(rows - rows % STORE_BLOCK_ROWS, min(rows, STORE_BLOCK_ROWS), 1)


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """A file of vectors, opened: its header was checked against its length, its numbers not read yet.

    read: gives the rows in order as arrays (r, dim) of `dtype`, r as it comes; each is valid until the next one.
    InputError for no rows, for fewer or more than a store can hold, and for a type that is not of real numbers.
    """

    path: Path
    rows: int
    dim: int
    dtype: np.dtype[Any]
    read: Callable[[], Iterator[npt.NDArray[Any]]] = field(repr=False)

    def __post_init__(self) -> None:
        if self.dtype.kind not in "fiub" or self.dtype.itemsize > 8:
            raise InputError(
                f"{self.path}: numbers of type {self.dtype}, expected float16, float32, float64 or integers. Convert "
                "them first."
            )
        if not self.rows or not self.dim:
            found = f"{self.rows:,} vectors of {counted(self.dim, 'dimension')}"
            raise InputError(f"{self.path}: holds {found}, expected at least one number. There is nothing to read.")
        if not 1 <= self.dim <= MAX_DIM:
            raise InputError(f"{self.path}: vectors of {self.dim:,} dimensions, expected 1 to {MAX_DIM:,}")
        if not 1 <= self.rows <= MAX_ROWS:
            raise InputError(f"{self.path}: holds {self.rows:,} vectors, expected 1 to {MAX_ROWS:,}")

    def blocks(self, *, lossy: bool = False) -> Iterator[npt.NDArray[np.float32]]:
        """All rows in order, as float32 arrays (r, dim), C order; r is `block_rows(dim)` but for the last.

        Each is valid until the next one. InputError names the first row with NaN, infinity, or a number that float32
        cannot hold; lossy: float64 is rounded to the nearest float32 instead.
        """
        size, seen = block_rows(self.dim, self.dtype.itemsize), 0
        block = np.empty((min(size, self.rows), self.dim), np.float32)
        filled = 0
        for raw in self.read():
            for start in range(0, len(raw), size):
                piece = raw[start : start + size]
                if seen + len(piece) > self.rows:
                    raise InputError(f"{self.path}: holds more than the {self.rows:,} vectors that its header says")
                rows = as_float32(piece, f"{self.path}", seen, lossy=lossy)
                seen += len(rows)
                while len(rows):
                    if not filled and len(rows) == size:
                        yield rows
                        break
                    taken = min(size - filled, len(rows))
                    block[filled : filled + taken], rows = rows[:taken], rows[taken:]
                    filled += taken
                    if filled == size:
                        yield block
                        filled = 0
        if seen != self.rows:
            raise InputError(f"{self.path}: holds {seen:,} vectors, its header says {self.rows:,}. It is cut short.")
        if filled:
            yield block[:filled]


@contextmanager
def file_errors(path: Path, what: str, *others: type[Exception]) -> Iterator[None]:
    """InputError for what a file does to its reader: the system's errors, and those of a library (`others`)."""
    try:
        yield
    except EngineError:
        raise
    except OSError as error:
        if error.strerror:
            raise InputError(f"{path}: cannot be read as {what} ({error.strerror})") from error
        raise _unreadable(path, what, error) from error
    except others as error:
        raise _unreadable(path, what, error) from error


def _unreadable(path: Path, what: str, error: Exception) -> InputError:
    return InputError(f"{path}: cannot be read as {what} ({first_line(error)}). It is damaged, or of another kind.")


def first_line(error: object) -> str:
    """The message of a library's error, or another text of its making, on one line of bearable length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def file_size(path: Path) -> int:
    """The length of a regular file, in bytes; InputError for anything else, which might never end or never begin."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is {'a folder' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}")
    return status.st_size


def check_length(path: Path, found: int, expected: int, why: str) -> None:
    """InputError unless a file has the length that its header promises."""
    if found != expected:
        what = "It is cut short" if found < expected else "It is longer than its header says"
        raise InputError(f"{path}: {found:,} bytes, expected {expected:,} for {why}. {what}.")


def read_stream(path: Path, stream: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    """The rows (r, dim) of a C-ordered array that begins where a binary stream stands, block by block.

    One buffer, which begins on a page for the writers' sake, is filled again and again. InputError where the stream
    ends early.
    """
    rows, dim = shape
    size = min(block_rows(dim, dtype.itemsize), rows)
    buffer = aligned(size * dim * dtype.itemsize).view(dtype).reshape(size, dim)
    for start in range(0, rows, size):
        block = buffer[: min(size, rows - start)]
        if fill(stream, block) < block.nbytes:
            raise InputError(f"{path}: ends within the {rows:,} vectors that its header says. It is cut short.")
        yield block


def fill(stream: Any, block: npt.NDArray[Any]) -> int:
    """Read until a C-ordered array is full or the stream ends: the bytes that came."""
    room = bytes_of(block)
    done = 0
    while done < len(room) and (count := stream.readinto(room[done:])):
        done += count
    return done


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of a C-ordered array, whatever its type, without a copy."""
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)
