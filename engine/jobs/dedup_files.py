"""What a search for duplicates keeps while it is unfinished: arrays and pairs in a folder, and a journal of the blocks.

A block that the journal names is read against its checksum before it is believed. A run that is killed anywhere is
continued by the next one of the same job; one of another job begins anew. Without a folder all is kept in memory.
"""

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.store.durable import disk_errors, write_at
from engine.store.formats.room import check_room
from engine.store.journal import Journal
from engine.store.manifest import digest

FOLDER, JOURNAL, PAIRS = "unfinished", "dedup.journal", "pairs.bin"
# A pair of photo numbers and its score, as it is found: 20 bytes.
FOUND = np.dtype([("a", "<i8"), ("b", "<i8"), ("score", "<f4")])
Found = npt.NDArray[np.void]


class Unfinished:
    """The blocks of a job that are done, by stage and number, and what they gave. Used as a context.

    resumed: blocks that an interrupted run had left. count: pairs in all blocks that are done.
    """

    def __init__(self, folder: Path | None, job: Mapping[str, Any]) -> None:
        """Open the folder, or none: EngineError when another process works there."""
        self.folder, self.resumed, self.count = folder, 0, 0
        self._done: dict[tuple[str, int], dict[str, Any]] = {}
        self._pairs: dict[tuple[str, int], Found] = {}
        self._handles: list[int] = []
        self._end = 0
        if folder is None:
            return
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._handles.append(_alone(folder))
            self._journal = Journal(folder, job, JOURNAL)
            self._handles.append(os.open(folder / PAIRS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        for line in self._journal.entries:
            if isinstance(line.get("stage"), str) and isinstance(line.get("block"), int):
                self._done[line["stage"], line["block"]] = line

    def __enter__(self) -> Self:
        """The open folder."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the files; what is there stays for the next run of the same job."""
        for handle in self._handles:
            os.close(handle)
        if self.folder is not None:
            self._journal.close()

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        """An array that may be written to; in the folder it takes all its room at once, or DiskFullError."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if self.folder is None or not size:
            return np.zeros(shape, dtype)
        path = self.folder / name
        check_room(path, size - (path.stat().st_blocks * 512 if path.exists() else 0))
        with disk_errors(self.folder):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(handle, size)
                # Writing to a map of a file with holes ends the process where the disk is full.
                os.posix_fallocate(handle, 0, size)
            finally:
                os.close(handle)
            return np.memmap(path, dtype=dtype, mode="r+", shape=shape)

    def has(self, stage: str, block: int, *parts: npt.NDArray[Any]) -> bool:
        """Whether a block is done and these parts of arrays are what it wrote."""
        line = self._done.get((stage, block))
        if line is None or line.get("sums") != [digest(np.ascontiguousarray(part)) for part in parts]:
            return False
        self.resumed += 1
        return True

    def done(self, stage: str, block: int, *parts: npt.NDArray[Any]) -> None:
        """A block is done; parts: what it wrote of arrays."""
        if self.folder is not None:
            sums = [digest(np.ascontiguousarray(part)) for part in parts]
            self._journal.add({"stage": stage, "block": block, "sums": sums})

    def known(self, stage: str, block: int) -> bool:
        """Whether the pairs of a block are there, whole."""
        line = self._done.get((stage, block))
        if line is None or (stage, block) in self._pairs or self.folder is None:
            return (stage, block) in self._pairs
        at, count = line.get("at"), line.get("count")
        if not isinstance(at, int) or not isinstance(count, int):
            return False
        data = os.pread(self._handles[1], count * FOUND.itemsize, at)
        if digest(data) != line.get("sum"):
            return False
        self._keep(stage, block, np.frombuffer(data, FOUND))
        self._end = max(self._end, at + len(data))
        self.resumed += 1
        return True

    def add(self, stage: str, block: int, found: Found) -> None:
        """The pairs of a block, which is done. `known` is asked about all blocks before the first is added."""
        if self.folder is not None:
            data = found.tobytes()
            with disk_errors(self.folder):
                write_at(self._handles[1], memoryview(data), self._end)
                line = {"stage": stage, "block": block, "at": self._end, "count": len(found), "sum": digest(data)}
                self._journal.add(line)
            self._end += len(data)
        self._keep(stage, block, found)

    def _keep(self, stage: str, block: int, found: Found) -> None:
        self._pairs[stage, block] = found
        self.count += len(found)

    def pairs(self, stage: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """All pairs (m, 2) of a stage, each once, ascending, and their scores (m,)."""
        every = np.concatenate([np.empty(0, FOUND), *(found for key, found in self._pairs.items() if key[0] == stage)])
        order = np.lexsort((every["b"], every["a"]))
        every = every[order]
        first = np.ones(len(every), np.bool_)
        first[1:] = (every["a"][1:] != every["a"][:-1]) | (every["b"][1:] != every["b"][:-1])
        every = every[first]
        return np.stack([every["a"], every["b"]], axis=1), np.ascontiguousarray(every["score"])


def found_of(pairs: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> Found:
    """Pairs (m, 2) and scores (m,) as they are kept."""
    found = np.empty(len(pairs), FOUND)
    found["a"], found["b"], found["score"] = pairs[:, 0], pairs[:, 1], scores
    return found


def remove(folder: Path) -> None:
    """Take away what a finished search has left."""
    shutil.rmtree(folder, ignore_errors=True)


def _alone(folder: Path) -> int:
    """The handle of the locked folder; EngineError when another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise EngineError(f"{folder}: another mirsearch looks for duplicates here. Wait for it to end.") from None
    return handle
