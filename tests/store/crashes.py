"""Work that dies: at any call to the system that writes, at any moment, or on a disk that is full."""

import os
import resource
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError
from engine.store.store import Store
from engine.store.verify import verify_store

_WRITES = ("pwrite", "fsync", "replace", "ftruncate", "unlink", "truncate")
_DEAD, _REFUSED = 77, 78


def child(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """The process number of a fork that does the work: exit code 0 when it ended well, 78 for an EngineError."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        prepare()
        work()
        code = 0
    except EngineError:
        code = _REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def dies_at(call: int, work: Callable[[], object]) -> bool:
    """Do the work in a process that ends at its n-th writing call, half done if that can be; False if it lived."""
    code = ended(child(work, lambda: _die_at(call)))
    assert code in (0, _DEAD)
    return code == _DEAD


def _die_at(call: int) -> None:
    calls = iter(range(1, 1 << 40))

    def dying(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            if next(calls) == call:
                if name == "pwrite":
                    handle, data, offset = args
                    function(handle, data[: len(data) // 2 // 4096 * 4096 or len(data) // 2], offset)
                os._exit(_DEAD)
            return function(*args, **named)

        return run

    for name in _WRITES:
        setattr(os, name, dying(getattr(os, name), name))


def killed_after(seconds: float, work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed; False when it had ended before."""
    number = child(work)
    time.sleep(seconds)
    os.kill(number, signal.SIGKILL)  # until it has been waited for, nobody else can have this number
    code = ended(number)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def refused_for_room(work: Callable[[], object], largest: int) -> bool:
    """Do the work where no file may grow beyond `largest` bytes; whether that was an EngineError."""
    code = ended(child(work, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))))
    assert code in (0, _REFUSED)
    return code == _REFUSED


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own with room for `size` bytes; the test is skipped where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small file system can be mounted here: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def said(path: Path) -> dict[str, bytes]:
    """All that a store says when it is opened, after it was read against its checksums."""
    store = Store.open(path)
    assert verify_store(path).damage == []
    known = {name: rows.tobytes() for name, rows in store.layers.items()}
    removed = b"" if store.removed is None else store.removed.tobytes()
    quarantine = (path / "quarantine.jsonl").read_bytes()
    return known | {"ids": store.photo_ids.tobytes(), "removed": removed, "quarantine": quarantine}


def leftovers(path: Path) -> list[str]:
    """What no finished store holds."""
    return sorted(file.name for file in path.iterdir() if file.suffix == ".part" or file.name == "commit.json")
