"""One writer at a time: a lock on `.lock` in the folder of a store."""

import fcntl
import os
import time
from pathlib import Path

from engine.errors import StoreError

NAME = ".lock"
WRITING = "another mirsearch is writing here. Wait for it to end."


def take_lock(store: Path, *, seconds: float = 0) -> int:
    """The handle of the lock of a folder; closing it, or ending the process, frees it. StoreError when it is taken.

    seconds: how long to wait for it. Who only looks, or changes a few marks, has it for less than half of one.
    """
    until = time.monotonic() + seconds
    while (handle := _lock(store / NAME)) < 0:
        if time.monotonic() >= until:
            raise StoreError(f"{store}: {WRITING}")
        time.sleep(0.01)
    return handle


def _lock(file: Path) -> int:
    """The handle of the locked file, or −1 when another has it."""
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:  # the folder is gone: see below
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever leaves nothing behind removes the file, and a folder it made: what was locked may be gone by now.
        if os.path.samestat(os.fstat(handle), file.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return -1


def is_locked(store: Path) -> bool:
    """Whether a process is writing here now. It changes nothing, and may be asked by who may only read."""
    try:
        handle = os.open(store / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no writer has ever been here, or none that lets us know
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False
