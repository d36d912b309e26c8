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

from engine.store.arrays import Written
from engine.store.copy import BLOCK_FILES
from engine.store.dat import FC7_DIM, FC8_DIM, examine_bytes
from engine.store.durable import disk_errors
from engine.store.listed import Refused
from engine.store.manifest import digest
from engine.store.reader import Block
from engine.store.writer import StoreWriter
from kernels import Device, load

WINDOW = 12_288
_FREE = np.iinfo(np.int64).max
_WRITES_AHEAD = 4


@dataclass
class Arrived:
    """What an archive gave beside its rows. known: records of photos that are there; passed_over: those removed."""

    refused: list[Refused] = field(default_factory=list)
    repeated: int = 0
    known: int = 0
    passed_over: int = 0
    ignored: int = 0
    records: int = 0


class ArchiveCopy:
    """Copies one archive into a store.

    known: ids (n,) that the store had before, sorted; they are passed over. removed: ids (m,) of those marked as gone.
    """

    def __init__(
        self, archive: bytes, writer: StoreWriter, device: Device, *, threads: int,
        known: npt.NDArray[np.int64], removed: npt.NDArray[np.int64],
    ) -> None:  # fmt: skip
        self.archive, self.writer, self.device, self.threads = archive, writer, device, threads
        self.known, self.removed = known, removed
        status = os.stat(archive)  # noqa: PTH116
        self.key = digest(archive + f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
        self.size = status.st_size
        self.result = Arrived()
        self._blocks = 0
        self._queue: deque[Future[Block]] = deque()

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
        self.result = Arrived(
            refused=refused, repeated=mark["repeated"], known=mark["known"], passed_over=mark.get("passed_over", 0),
            ignored=mark["ignored"], records=mark["records"],
        )  # fmt: skip
        return True

    def run(self) -> Iterator[tuple[int, int, list[Refused]]]:
        """Copy it; yields (compressed bytes read, records so far, what was refused just now)."""
        from engine.store import archives  # its libraries are needed by no folder
        from engine.store.archives.members import BATCH

        result, before, damaged = self.result, self.writer.rows, False
        self._kernels, self._decoded = load(self.device), Block(BATCH)
        self._window = _Window(self.writer)
        self._spare = [Block(BLOCK_FILES) for _ in range(_WRITES_AHEAD + 1)]
        with ThreadPoolExecutor(1, thread_name_prefix="write") as self._pool:
            for batch in archives.stream(self.archive, threads=self.threads):
                refused = [*batch.refused, *self._take(batch)]
                result.refused += refused
                result.ignored += batch.ignored
                damaged |= batch.damaged
                yield batch.position, result.records, refused
            while self._window.used and not damaged:
                self._write()
            self._drain()
        if damaged:  # the last of the refused says so; which of the records it is cannot be told
            self.writer.rewind(before)
            self._blocks = result.records = 0
        self._mark()

    def _take(self, batch: Any) -> list[Refused]:
        """Take the records of a batch into the window; those that are refused."""
        n, ids = len(batch.photo_ids), np.asarray(batch.photo_ids, np.int64)
        if not n:
            return []
        flags = self._kernels.decode(batch.records, self._decoded.fc7[:n], self._decoded.fc8[:n])
        new = ~np.isin(ids, self.known)
        self.result.known += n - int(new.sum())
        self.result.passed_over += int(np.isin(ids, self.removed).sum())
        odd = self._window.has(ids) | (flags != 0)
        first = np.zeros(n, np.bool_)
        first[np.unique(ids, return_index=True)[1]] = True
        self._enter(ids, np.flatnonzero(new & first & ~odd))
        return [refusal for i in np.flatnonzero(new & (odd | ~first)) if (refusal := self._look(batch, int(i)))]

    def _look(self, batch: Any, i: int) -> Refused | None:
        """Take one record that is damaged or perhaps there already."""
        photo_id = int(batch.photo_ids[i])
        reason = examine_bytes(batch.records[i].tobytes())[0]
        if reason is None:
            place = self._window.find(photo_id)
            if place is None:
                self._enter(batch.photo_ids, np.array([i]))
                return None
            if self._holds(place, i):
                self.result.repeated += 1
                return None
            reason = f"photo {photo_id} again, with other content than the one that came before it"
        source = os.fsdecode(os.path.join(self.archive, batch.names[i]))  # noqa: PTH118
        return Refused(source=source, photo_id=photo_id, reason=reason)

    def _enter(self, ids: npt.NDArray[np.int64], which: npt.NDArray[np.int64]) -> None:
        self.result.records += len(which)
        while len(which):
            if not self._window.free:
                self._write()
            now, which = which[: self._window.free], which[self._window.free :]
            # Mostly all of a batch, one after the other: a slice, which is no copy.
            at = slice(now[0], now[-1] + 1) if now[-1] - now[0] == len(now) - 1 else now
            self._window.enter(ids[at], self._decoded.fc7[at], self._decoded.fc8[at])

    def _holds(self, place: int, i: int) -> bool:
        """Whether the record at `place`, in the window or on the disk, has the bytes of decoded record i."""
        if place < 0:
            self._drain()
        for name, mine in (("fc7", self._decoded.fc7[i]), ("fc8", self._decoded.fc8[i])):
            other = self._window.rows[name][place] if place >= 0 else self.writer.row(name, -1 - place)
            if mine.tobytes() != other.tobytes():
                return False
        return True

    def _write(self) -> None:
        """Let a block leave the window, and write it beside the reading."""
        if not self._spare:
            self._spare.append(self._queue.popleft().result())
        block = self._spare.pop()
        ids = self._window.leave(block)
        place = self.writer.reserve(len(ids))
        key = f"{self.key}-{self._blocks}"
        self._blocks += 1

        def write() -> Block:
            with disk_errors(self.writer.path):
                rows = {"fc7": block.fc7[: len(ids)], "fc8": block.fc8[: len(ids)]}
                self.writer.write(place, ids, rows, key=key)
            return block

        self._queue.append(self._pool.submit(write))

    def _drain(self) -> None:
        while self._queue:
            self._spare.append(self._queue.popleft().result())

    def _mark(self) -> None:
        result = self.result
        refused = [(refusal.source, refusal.photo_id, refusal.reason) for refusal in result.refused]
        counts = {"repeated": result.repeated, "known": result.known, "ignored": result.ignored}
        counts["passed_over"] = result.passed_over
        facts: dict[str, Any] = {"blocks": self._blocks, "records": result.records, "refused": refused}
        self.writer.mark(self.key, {**facts, **counts})


class _Window:
    """Records waiting for their turn, and where every record of this job is."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._ids = np.full(WINDOW, _FREE, np.int64)
        self.rows = {"fc7": np.empty((WINDOW, FC7_DIM), np.float32), "fc8": np.empty((WINDOW, FC8_DIM), np.float32)}
        self._slots = np.arange(WINDOW - 1, -1, -1)  # the free ones are the first `free`
        self.free = WINDOW
        self._last = -1
        before = writer.ids()[writer.base.rows if writer.base else 0 :]
        self._order = np.argsort(before)
        self._before = before[self._order]
        self._first_row = writer.rows - len(before)
        self._places: dict[int, int] = {}  # of this archive: a slot, or −1 − row once it has left

    @property
    def used(self) -> int:
        return WINDOW - self.free

    def has(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each photo is one of this job already."""
        places = self._places
        here = np.fromiter((photo_id in places for photo_id in ids.tolist()), np.bool_, len(ids))
        return np.asarray(here | np.isin(ids, self._before))

    def find(self, photo_id: int) -> int | None:
        """Where a photo of this job is: a slot, or −1 − row; None when there is none yet."""
        if (place := self._places.get(photo_id)) is not None:
            return place
        at = int(np.searchsorted(self._before, photo_id))
        if at < len(self._before) and self._before[at] == photo_id:
            return -1 - self._first_row - int(self._order[at])
        return None

    def enter(self, ids: npt.NDArray[np.int64], fc7: Any, fc8: Any) -> None:
        """Take new photos, as many as are `free` at most."""
        slots = self._slots[self.free - len(ids) : self.free]
        self.free -= len(ids)
        self._ids[slots], self.rows["fc7"][slots], self.rows["fc8"][slots] = ids, fc7, fc8
        self._places.update(zip(ids.tolist(), slots.tolist(), strict=True))

    def leave(self, block: Block) -> npt.NDArray[np.int64]:
        """Fill a block with the lowest ids above the last that left, or the lowest of all when none is: a new run."""
        above = np.flatnonzero((self._ids > self._last) & (self._ids != _FREE))
        if not len(above):
            above = np.flatnonzero(self._ids != _FREE)
        count = min(len(above), len(block.good))
        lowest = above[np.argpartition(self._ids[above], count - 1)[:count]]
        slots = lowest[np.argsort(self._ids[lowest])]
        ids = self._ids[slots]
        self._last = int(ids[-1])
        np.take(self.rows["fc7"], slots, axis=0, out=block.fc7[:count], mode="clip")  # "raise" would buffer
        np.take(self.rows["fc8"], slots, axis=0, out=block.fc8[:count], mode="clip")
        self._ids[slots] = _FREE
        self._slots[self.free : self.free + count] = slots
        self.free += count
        row = self._writer.rows
        self._places.update((photo_id, -1 - row - i) for i, photo_id in enumerate(ids.tolist()))
        return ids
