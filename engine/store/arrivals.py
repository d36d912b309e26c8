"""Archives that must be read from their beginning: records in the order they come, rows in the order of photo ids.

A window of records is held in memory, and whenever it is full the lowest ids leave it: replacement selection (Knuth,
The Art of Computer Programming 3, 5.4.1). An archive of folders of up to 10,000 photos, whatever their order inside,
so comes out ascending as a whole; one in wilder order comes in ascending runs, and is sorted at the end.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.copy import BLOCK_FILES
from engine.store.dat import FC7_DIM, FC8_DIM, examine_bytes
from engine.store.doubles import again
from engine.store.durable import disk_errors
from engine.store.listed import Refused
from engine.store.manifest import digest
from engine.store.writer import StoreWriter, Written
from kernels import Device, load

WINDOW = 12_288
_FREE = np.iinfo(np.int64).max
_WRITES_AHEAD = 4


@dataclass
class Arrived:
    """What an archive gave beside its rows."""

    refused: list[Refused] = field(default_factory=list)
    repeated: int = 0
    known: int = 0
    ignored: int = 0
    records: int = 0


class ArchiveCopy:
    """Copies one archive into a store. known: ids (n,) that the store had before, sorted; they are passed over."""

    def __init__(
        self, archive: bytes, writer: StoreWriter, device: Device, *, threads: int, known: npt.NDArray[np.int64]
    ) -> None:
        self.archive, self.writer, self.device, self.threads, self.known = archive, writer, device, threads, known
        status = os.stat(archive)  # noqa: PTH116
        self.key = digest(archive + f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
        self.size = status.st_size
        self.result = Arrived()
        self._blocks = 0

    def resume(self) -> bool:
        """Take over the rows that an interrupted run has written, if it came to the end of this archive."""
        mark = self.writer.marks.get(self.key)
        if mark is None:
            return False
        blocks: list[Written] = []
        row = self.writer.rows
        for number in range(mark["blocks"]):
            block = self.writer.found.get(f"{self.key}-{number}")
            if block is None or block.start != row:
                return False
            blocks.append(block)
            row += block.rows
        for block in blocks:
            self.writer.keep(block)
        refused = [Refused(source=s, photo_id=i, reason=r) for s, i, r in mark["refused"]]
        self.result = Arrived(refused, mark["repeated"], mark["known"], mark["ignored"], mark["records"])
        return True

    def run(self) -> Iterator[tuple[int, int, list[Refused]]]:
        """Copy it; yields (compressed bytes read, records so far, what was refused just now)."""
        from engine.store import archives  # its libraries are needed by no folder

        kernels, result = load(self.device), self.result
        window = _Window(self.writer)
        self._queue: deque[Future[None]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="write") as self._pool:
            for batch in archives.stream(self.archive, threads=self.threads):
                refused = list(batch.refused)
                n = len(batch.photo_ids)
                fc7, fc8 = np.empty((n, FC7_DIM), np.float32), np.empty((n, FC8_DIM), np.float32)
                flags = kernels.decode(batch.records, fc7, fc8) if n else np.empty(0, np.uint8)
                new = ~np.isin(batch.photo_ids, self.known)
                result.known += n - int(new.sum())
                for i in np.flatnonzero(new).tolist():
                    photo_id = int(batch.photo_ids[i])
                    reason = examine_bytes(batch.records[i].tobytes())[0] if flags[i] else None
                    if reason is None and (place := window.find(photo_id)) is not None:
                        if window.holds(place, fc7[i], fc8[i], self._drain):
                            result.repeated += 1
                            continue
                        reason = again(photo_id, b"the one that came before it")
                    if reason is not None:
                        source = os.fsdecode(os.path.join(self.archive, batch.names[i]))  # noqa: PTH118
                        refused.append(Refused(source=source, photo_id=photo_id, reason=reason))
                        continue
                    if window.full:
                        self._write(*window.leave(BLOCK_FILES))
                    window.enter(photo_id, fc7[i], fc8[i])
                    result.records += 1
                result.refused += refused
                result.ignored += batch.ignored
                yield batch.position, result.records, refused
            while window.used:
                self._write(*window.leave(BLOCK_FILES))
            self._drain()
        self._mark()

    def _write(self, ids: npt.NDArray[np.int64], rows: dict[str, npt.NDArray[np.float32]]) -> None:
        place = self.writer.reserve(len(ids))
        key = f"{self.key}-{self._blocks}"
        self._blocks += 1
        if len(self._queue) >= _WRITES_AHEAD:
            self._queue.popleft().result()

        def write() -> None:
            with disk_errors(self.writer.path):
                self.writer.write(place, ids, rows, key=key)

        self._queue.append(self._pool.submit(write))

    def _drain(self) -> None:
        while self._queue:
            self._queue.popleft().result()

    def _mark(self) -> None:
        result = self.result
        refused = [(refusal.source, refusal.photo_id, refusal.reason) for refusal in result.refused]
        counts = {"repeated": result.repeated, "known": result.known, "ignored": result.ignored}
        facts: dict[str, Any] = {"blocks": self._blocks, "records": result.records, "refused": refused}
        self.writer.mark(self.key, {**facts, **counts})


class _Window:
    """Records waiting for their turn, and where every record of this job is."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._ids = np.full(WINDOW, _FREE, np.int64)
        self._rows = {"fc7": np.empty((WINDOW, FC7_DIM), np.float32), "fc8": np.empty((WINDOW, FC8_DIM), np.float32)}
        self._free = list(range(WINDOW - 1, -1, -1))
        self._last = -1
        before = writer.ids()[writer.base.rows if writer.base else 0 :]
        self._order = np.argsort(before)
        self._before = before[self._order]
        self._first_row = writer.rows - len(before)
        self._slots: dict[int, int] = {}  # of this archive: a slot, or −1 − row once it has left

    @property
    def full(self) -> bool:
        return not self._free

    @property
    def used(self) -> int:
        return WINDOW - len(self._free)

    def find(self, photo_id: int) -> int | None:
        """Where a photo of this job is: a slot, or −1 − row; None when there is none yet."""
        if (slot := self._slots.get(photo_id)) is not None:
            return slot
        at = int(np.searchsorted(self._before, photo_id))
        if at < len(self._before) and self._before[at] == photo_id:
            return -1 - self._first_row - int(self._order[at])
        return None

    def holds(self, place: int, fc7: Any, fc8: Any, drain: Any) -> bool:
        """Whether the record at `place` has these bytes."""
        if place < 0:
            drain()
        for name, row in (("fc7", fc7), ("fc8", fc8)):
            mine = self._rows[name][place] if place >= 0 else self._writer.row(name, -1 - place)
            if mine.tobytes() != row.tobytes():
                return False
        return True

    def enter(self, photo_id: int, fc7: Any, fc8: Any) -> None:
        slot = self._free.pop()
        self._ids[slot], self._rows["fc7"][slot], self._rows["fc8"][slot] = photo_id, fc7, fc8
        self._slots[photo_id] = slot

    def leave(self, count: int) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float32]]]:
        """The `count` lowest ids above the last that left, or the lowest of all when none is: a new run begins."""
        order = np.argsort(self._ids)[: self.used]
        start = int(np.searchsorted(self._ids[order], self._last, side="right"))
        slots = order[start : start + count] if start < len(order) else order[:count]
        ids = self._ids[slots]
        self._last = int(ids[-1])
        rows = {name: block[slots] for name, block in self._rows.items()}
        self._ids[slots] = _FREE
        self._free += slots.tolist()
        row = self._writer.rows
        self._slots.update((photo_id, -1 - row - i) for i, photo_id in enumerate(ids.tolist()))
        return ids, rows
