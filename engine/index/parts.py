"""The files of an index: written and summed in one go, copied, extended, read against their sums."""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import xxhash

from engine.errors import IndexUnusableError
from engine.index.manifest import Part
from engine.store import npy
from kernels import Codes

READ_BYTES = 1 << 20  # stays in the cache between the read and the sum


@dataclass(frozen=True, kw_only=True)
class Old:
    """An index that another one is made from. rows: how many it holds."""

    folder: Path
    parts: Mapping[str, Part]
    rows: int

    def file(self, name: str) -> tuple[Path, Part]:
        """A file of it, and what its manifest promises."""
        return self.folder / name, self.parts[name]

    def checked(self, name: str) -> Path:
        """A file of it, after it was read; IndexUnusableError when it is damaged."""
        path, expected = self.file(name)
        if sum_file(path) != expected:
            raise IndexUnusableError(f"{path}: does not match its checksum. Build the index again.")
        return path

    def carry(self, name: str, folder: Path) -> dict[str, Part]:
        """Copy a file of it into a folder as it is, after it was read."""
        copy_file(self.checked(name), folder / name)
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
        return {name: self.parts[name]}


class PartFile:
    """A file of the index, summed while it is written and flushed when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._sum = xxhash.xxh3_64()
        self._bytes = 0

    @classmethod
    def longer(cls, path: Path, old: tuple[Path, Part], begin: bytes) -> Self:
        """A copy of a file that `begin` takes the place of the first bytes of, to be written on at its end.

        IndexUnusableError when the old file is not what its manifest promises: damage would get a checksum of its own.
        """
        source, expected = old
        file = cls.__new__(cls)
        file._sum = xxhash.xxh3_64(begin)
        found = sum_file(source, also=(file._sum, len(begin)))
        if found != expected:
            raise IndexUnusableError(f"{source}: does not match its checksum. Build the index again.")
        copy_file(source, path)
        file._file, file._bytes = path.open("r+b"), found.bytes
        file._file.write(begin)
        file._file.seek(0, os.SEEK_END)
        return file

    def write(self, data: Any) -> None:
        """Add the bytes of a buffer."""
        view = memoryview(data).cast("B")
        self._sum.update(view)
        self._file.write(view)
        self._bytes += len(view)

    def close(self) -> Part:
        """Flush the file to the disk; its length and checksum."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Part(bytes=self._bytes, xxh3=self._sum.hexdigest())


class CodeWriter:
    """Codes of a layer's rows, in two files: NAME.npy (n, d), of uint4 (n, ⌈d/2⌉), and NAME_scale.npy (3, n): low,
    step, norm2.

    old: the index whose codes are those of the first rows.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        shape: tuple[int, int],
        dtype: str,
        *,
        old: Old | None = None,
    ) -> None:
        self._folder, self._name = folder, name
        self._scale = np.empty((3, shape[0]), np.float32)
        self._at = 0
        header = npy.header(shape, dtype)
        if old is None:
            self._values = PartFile(folder / f"{name}.npy")
            self._values.write(header)
        else:
            self._values = PartFile.longer(folder / f"{name}.npy", old.file(f"{name}.npy"), header)
            self._at = old.rows
            scale = old.checked(f"{name}_scale.npy")
            self._scale[:, : self._at] = npy.open_rows(scale, (3, old.rows), "<f4")

    def write(self, codes: Codes) -> None:
        """Add the codes of the next rows."""
        self._values.write(np.ascontiguousarray(codes.values))
        end = self._at + len(codes.values)
        self._scale[:, self._at : end] = codes.low, codes.step, codes.norm2
        self._at = end

    def close(self) -> dict[str, Part]:
        """Write the scales too, and flush; both files' lengths and checksums."""
        scale = PartFile(self._folder / f"{self._name}_scale.npy")
        scale.write(npy.header(self._scale.shape, "<f4"))
        scale.write(self._scale)
        return {f"{self._name}.npy": self._values.close(), f"{self._name}_scale.npy": scale.close()}


def copy_file(source: Path, target: Path) -> None:
    """Copy a file; where the file system can share what is alike (Btrfs, XFS), nothing is written."""
    with source.open("rb") as old, target.open("wb") as new:
        left = os.fstat(old.fileno()).st_size
        try:
            while left and (done := os.copy_file_range(old.fileno(), new.fileno(), left)):
                left -= done
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            os.lseek(old.fileno(), 0, os.SEEK_SET)
            os.lseek(new.fileno(), 0, os.SEEK_SET)
            shutil.copyfileobj(old, new, 1 << 24)


def sum_file(path: Path, *, flush: bool = False, also: tuple[Any, int] | None = None) -> Part:
    """Length and checksum of a file as it is on the disk.

    also: a second sum, of the bytes from an offset on; the offset lies in the first 4 KiB.
    """
    total, size = xxhash.xxh3_64(), 0
    buffer = memoryview(bytearray(READ_BYTES))
    with path.open("rb+" if flush else "rb", buffering=0) as file:
        if flush:
            os.fsync(file.fileno())
        while count := file.readinto(buffer):
            total.update(buffer[:count])
            if also:
                also[0].update(buffer[max(also[1] - size, 0) : count])
            size += count
    return Part(bytes=size, xxh3=total.hexdigest())
