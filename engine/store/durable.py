"""Files that are whole or absent: written aside, flushed to the disk, then renamed."""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DiskFullError, EngineError

PART = ".part"


def part_of(path: Path) -> Path:
    """Where the bytes of `path` are collected until they are complete."""
    return path.with_name(path.name + PART)


def flush_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(path: Path) -> None:
    """Flush the part of `path` and give it its name, in one step that cannot be seen half done."""
    handle = os.open(part_of(path), os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    part_of(path).replace(path)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that readers see the old content or the new, never a mixture."""
    with disk_errors(path.parent):
        part_of(path).write_bytes(data)
        publish(path)
        flush_folder(path.parent)


def write_at(handle: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`: the system call itself may write less."""
    while data:
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


def exchange(first: Path, second: Path) -> bool:
    """Let two files or folders change their names in one step (renameat2, Linux); False where that cannot be done."""
    function = getattr(ctypes.CDLL(None), "renameat2", None)
    if function is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(function(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def no_room(error: OSError) -> str | None:
    """What is full, and what to do, where there is no room for what is to be written; None for another error."""
    if error.errno == errno.EFBIG:
        return (
            f"a file has reached the largest size that this process, or this disk, lets it have ({error.strerror}). "
            "`ulimit -f unlimited`, where the shell may, lifts its limit; then run the same command again."
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.strerror}). Make room and run the same command again."
    return None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Say a full disk, a quota, a limit of a file's size, a missing permission or an impossible path in one line."""
    try:
        yield
    except OSError as error:
        if reason := no_room(error):
            raise DiskFullError(f"{folder}: {reason}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            message = f"{error.filename or folder}: cannot be written ({error.strerror}). Choose a folder of yours."
        elif error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            message = f"{error.filename or folder}: cannot be a folder ({error.strerror}). Choose another one."
        else:
            raise
        raise EngineError(message) from error
