"""Records that can be read in any order, copied into a store block by block, on all threads."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.store.durable import disk_errors
from engine.store.listed import Refused
from engine.store.manifest import digest
from engine.store.reader import Block, Reader, open_reader
from engine.store.sources import Listing
from engine.store.writer import StoreWriter
from kernels import Device

# Records per block, and so rows per checksum. A block (5.2 MB) stays in the cache from the read to the write.
# Part of the format: the same input gives the same manifest on every machine.
BLOCK_FILES = 256


def copy_records(
    records: Listing, writer: StoreWriter, device: Device, threads: int
) -> Iterator[tuple[int, list[Refused]]]:
    """Copy all records, a block each; yields (records done, what was refused) in order of the blocks.

    Blocks that an interrupted run has written are taken over.
    """
    work = _Copy(records, writer, device)
    blocks = -(-len(records) // BLOCK_FILES)
    waiting: deque[Future[list[Refused]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ingest") as pool:
        try:
            for number in range(blocks):
                waiting.append(pool.submit(work.block, number))
                if len(waiting) > 2 * threads:
                    done = number + 1 - len(waiting) + 1
                    yield done * BLOCK_FILES, waiting.popleft().result()
            while waiting:
                done = blocks - len(waiting) + 1
                yield min(done * BLOCK_FILES, len(records)), waiting.popleft().result()
        except BaseException:
            work.order.abandon()
            pool.shutdown(cancel_futures=True)
            raise


class _Copy:
    def __init__(self, records: Listing, writer: StoreWriter, device: Device) -> None:
        self.records, self.writer, self.device = records, writer, device
        self.order = _Turns()
        self._local = threading.local()

    def block(self, number: int) -> list[Refused]:
        """Copy one block: read beside the others, then take its place in turn, then write beside the others."""
        part = self.records.take(slice(number * BLOCK_FILES, (number + 1) * BLOCK_FILES))
        key = block_key(part)
        written = self.writer.found.get(key)
        ids, refused, block = (None, [], None) if written else self._read(part)
        with self.order.turn(number):
            if written and written.start == self.writer.rows:
                self.writer.keep(written)
                return [Refused(source=s, photo_id=i, reason=r) for s, i, r in written.refused]
            if ids is None:  # other rows stand before it now than when it was written
                ids, refused, block = self._read(part)
            place = self.writer.reserve(len(ids)) if len(ids) else None
        if place is not None and block is not None:
            rows = {"fc7": block.fc7[: len(ids)], "fc8": block.fc8[: len(ids)]}
            set_aside = [(refusal.source, refusal.photo_id, refusal.reason) for refusal in refused]
            with disk_errors(self.writer.path):
                self.writer.write(place, ids, rows, key=key, refused=set_aside)
        return refused

    def _read(self, part: Listing) -> tuple[npt.NDArray[np.int64], list[Refused], Block]:
        local = self._local
        if not hasattr(local, "reader"):
            local.reader, local.block = open_reader(self.device, BLOCK_FILES), Block(BLOCK_FILES)
        ids, refused = read_block(part, local.reader, local.block)
        return ids, refused, local.block


def block_key(part: Listing) -> str:
    """What the block of an interrupted run is known by: the records' ids and places."""
    places = [part.places[place] for place in np.unique(part.place)]
    parts = (part.photo_ids.tobytes(), part.place.tobytes(), part.offset.tobytes(), *places)
    return digest(b"\0".join(parts))


def read_block(records: Listing, reader: Reader, block: Block) -> tuple[npt.NDArray[np.int64], list[Refused]]:
    """Read one block and close the gaps of refused records: the ids (n,) of its first n rows, and the refused."""
    reader.read(records, block)
    return close_gaps(records, block)


def close_gaps(records: Listing, block: Block) -> tuple[npt.NDArray[np.int64], list[Refused]]:
    """Look again at what is not good in a block that was read, and close the gaps; see `read_block`."""
    n = len(records)
    refused: list[Refused] = []
    for i in np.flatnonzero(~block.good[:n]).tolist():
        reason, record = records.examine(i)
        if reason is None and record is not None:  # it was being written, or a network disk answered in pieces
            block.fc7[i], block.fc8[i], block.good[i] = record["fc7"], record["fc8"], True
        else:
            source = os.fsdecode(records.path(i))
            refused.append(Refused(source=source, photo_id=int(records.photo_ids[i]), reason=reason or ""))
    good = block.good[:n]
    if refused:
        kept = int(good.sum())
        block.fc7[:kept], block.fc8[:kept] = block.fc7[:n][good], block.fc8[:n][good]
    return records.photo_ids[good], refused


class _Turns:
    """Lets threads pass in the order of their numbers."""

    def __init__(self) -> None:
        self._next = 0
        self._abandoned = False
        self._changed = threading.Condition()

    def turn(self, number: int) -> "_Turn":
        return _Turn(self, number)

    def abandon(self) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def wait_for(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._next == number or self._abandoned)
            if self._abandoned:
                raise EngineError("the ingest was stopped")

    def passed(self) -> None:
        with self._changed:
            self._next += 1
            self._changed.notify_all()


class _Turn:
    def __init__(self, turns: _Turns, number: int) -> None:
        self._turns, self._number = turns, number

    def __enter__(self) -> None:
        self._turns.wait_for(self._number)

    def __exit__(self, *_: Any) -> None:
        self._turns.passed()
