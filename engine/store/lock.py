"""One writer at a time: a lock on `.lock` in the folder of a store."""

import fcntl
import os
from pathlib import Path

from engine.errors import StoreError

NAME = ".lock"
WRITING = "another mirsearch is writing here. Wait for it to end."


def take_lock(store: Path) -> int:
    """The handle of the lock of a folder; closing it, or ending the process, frees it. StoreError when it is taken."""
    file = store / NAME
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever leaves nothing behind removes the file, and a folder it made: what was locked may be gone by now.
        if not os.path.samestat(os.fstat(handle), file.stat()):
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        raise StoreError(f"{store}: {WRITING}") from None
    except BaseException:
        os.close(handle)
        raise
    return handle


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
