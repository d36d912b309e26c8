"""Records through a GPU into a store: read, upload, decode, download, write, all at the same time.

    read     threads fill page-locked buffers with whole records, blocks in any order
    device   one thread sends the blocks in order through some lanes, and gives each its rows in the store
    write    threads write them, from the page-locked memory that they came down to

What bounds it is what the buffers wait for: every stage waits when the next one has none free.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.progress import Progress
from engine.store import copy
from engine.store.arrays import Written
from engine.store.dat import LAYERS, RECORD_BYTES
from engine.store.durable import disk_errors
from engine.store.flow import Flow, InOrder, Pool, Stopped
from engine.store.lane import Lane, PageLocked, on_gpu
from engine.store.listed import Refused
from engine.store.reader import RawReader
from engine.store.sources import Listing
from engine.store.writer import Place, StoreWriter
from kernels import Device, load

LANES = 3  # one block goes up, one is decoded, one comes down


class Consumer(Protocol):
    """Takes the rows of a layer on the device, as they come by."""

    def consume(self, rows: Any, first_row: int) -> None:
        """Rows (n, dim) float32 of the store from `first_row` on, valid on the current stream and during the call.

        Called in the order of the rows, by one thread.
        """


class Follower(Protocol):
    """Wants the rows of a new store as they are made."""

    def consumers(self, records: Listing, progress: Progress) -> Mapping[str, Consumer]:
        """Who takes the rows of which layers; records: those of all rows, in order, unless some are refused yet."""


@dataclass
class _Buffer:
    """Room for whole records (n, 20400), and whether each was read whole (n,)."""

    records: npt.NDArray[np.uint8]
    whole: npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class _Block:
    """A block on its way. found: what an interrupted run left of it; then nothing was read."""

    number: int
    part: Listing
    key: str
    found: Written | None
    buffer: _Buffer
    lane: Lane | None = None
    rows: PageLocked | None = None
    ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    refused: list[Refused] = field(default_factory=list)
    place: Place | None = None


class Pipeline:
    """Copies records into a store by way of a GPU; the store is the one that `copy_records` makes, byte by byte.

    consumers: for some layers, who else wants their rows; then nothing of these may be there from an interrupted run.
    shares: after `run`, how busy each stage was, 0 to 1: the one near 1 bounds the others.
    """

    def __init__(
        self, records: Listing, writer: StoreWriter, device: Device, threads: int,
        consumers: Mapping[str, Consumer] | None = None,
    ) -> None:  # fmt: skip
        self.records, self.writer, self.device, self.consumers = records, writer, device, consumers or {}
        self.shares: dict[str, float] = {}
        self._files, self._kernels = copy.BLOCK_FILES, load(device)
        self._blocks = -(-len(records) // self._files)
        # At most a thread for each block; half as many write as read: a write is one large piece, a read many small.
        self._readers = min(threads, self._blocks)
        self._writers = min(max(threads // 2, 2), self._blocks)
        self._numbers = itertools.count()
        self._sent: deque[_Block] = deque()

    def run(self) -> Iterator[tuple[int, list[Refused]]]:
        """Copy; yields (records done, what was refused) in order of the blocks, each once it is written."""
        if not self._blocks:
            return
        self._flow = flow = Flow()
        self._arrived, self._ready = InOrder[_Block](flow, self._blocks), InOrder[_Block](flow, self._blocks)
        done = self._done = InOrder[list[Refused]](flow, self._blocks)
        try:
            # A lane holds a buffer, and a block of rows, until its block is settled.
            self._buffers = Pool(flow, [self._buffer() for _ in range(min(self._readers + LANES, self._blocks))])
            count = min(self._writers + LANES, self._blocks)
            self._rows = Pool(flow, [PageLocked(self._kernels, self._files) for _ in range(count)])
            flow.start("read", self._read, self._readers)
            flow.start("device", self._through_device)
            flow.start("write", self._write, self._writers)
            while (taken := done.take()) is not None:
                yield min((taken[0] + 1) * self._files, len(self.records)), taken[1]
        except Stopped:
            pass
        finally:
            flow.end()
            self.shares = flow.shares()
        flow.raise_failure()

    def _buffer(self) -> _Buffer:
        return _Buffer(self._kernels.host_buffer((self._files, RECORD_BYTES)), np.zeros(self._files, np.bool_))

    def _read(self) -> None:
        reader, found = RawReader(), self.writer.found
        while True:
            buffer = self._buffers.take()  # before the number: so the block that all wait for always has one
            number = next(self._numbers)
            if number >= self._blocks:
                self._buffers.give(buffer)
                return
            part = self.records.take(slice(number * self._files, (number + 1) * self._files))
            key = copy.block_key(part)
            block = _Block(number=number, part=part, key=key, found=found.get(key), buffer=buffer)
            if not block.found:
                self._fill(reader, block)
            self._arrived.put(number, block)

    def _fill(self, reader: RawReader, block: _Block) -> None:
        with self._flow.at_work("read"):
            reader.read(block.part, block.buffer.records, block.buffer.whole, self._flow.check)

    def _through_device(self) -> None:
        with on_gpu(self._kernels, self.device):
            lanes = [Lane(self._kernels, self._files) for _ in range(min(LANES, self._blocks))]
            self._lanes = [*lanes]
            self._consuming = self._kernels.xp.cuda.Stream(non_blocking=True)
            try:
                while (taken := self._arrived.take()) is not None:
                    if not self._kept(taken[1]):
                        self._settle(left=len(lanes) - 1)
                        self._send(taken[1])
                self._settle(left=0)
            finally:
                for lane in lanes:  # after an error too: the memory that it copies to is not this job's for ever
                    lane.stream.synchronize()
                self._consuming.synchronize()

    def _kept(self, block: _Block) -> bool:
        """Take over what an interrupted run left of a block; where other rows stand before it now, read it instead."""
        if not block.found:
            return False
        self._settle(left=0)  # only now is it known which row it would begin at
        if block.found.start != self.writer.rows:
            self._fill(RawReader(), block)
            return False
        self.writer.keep(block.found)
        self._buffers.give(block.buffer)
        block.refused = [Refused(source=s, photo_id=i, reason=r) for s, i, r in block.found.refused]
        self._ready.put(block.number, block)
        return True

    def _send(self, block: _Block) -> None:
        block.lane, block.rows = self._lanes.pop(), self._rows.take()
        block.lane.send(block.buffer.records[: len(block.part)], block.rows)
        self._sent.append(block)

    def _settle(self, *, left: int) -> None:
        """Wait for the oldest blocks on the device until so many are left there; each gets its rows in the store."""
        while len(self._sent) > left:
            block = self._sent.popleft()
            assert block.lane is not None and block.rows is not None
            for stage, seconds in block.lane.wait().items():
                self._flow.count(stage, seconds)
            n, rows = len(block.part), block.rows
            rows.good[:n] = block.buffer.whole[:n] & (rows.flags[:n] == 0)
            as_sent = bool(rows.good[:n].all())
            block.ids, block.refused = copy.close_gaps(block.part, rows)
            self._buffers.give(block.buffer)
            if len(block.ids):
                block.place = self.writer.reserve(len(block.ids))
                self._consume(block, block.place.start, as_sent=as_sent)
            self._lanes.append(block.lane)
            self._ready.put(block.number, block)

    def _consume(self, block: _Block, first: int, *, as_sent: bool) -> None:
        assert block.lane is not None
        with self._consuming:
            for layer, consumer in self.consumers.items():
                with self._flow.at_work(f"index {layer}"):
                    rows = block.lane.layers[layer]
                    if not as_sent:  # some were refused, or read again: what is right is on the host
                        rows = self._kernels.to_device(getattr(block.rows, layer)[: len(block.ids)])
                    consumer.consume(rows, first)
        if self.consumers:
            block.lane.leave_until(self._consuming)

    def _write(self) -> None:
        while (taken := self._ready.take()) is not None:
            number, block = taken
            if block.rows is not None:
                if block.place is not None:
                    with self._flow.at_work("write"), disk_errors(self.writer.path):
                        self._write_block(block, block.place)
                self._rows.give(block.rows)
            self._done.put(number, block.refused)

    def _write_block(self, block: _Block, place: Place) -> None:
        layers = {name: getattr(block.rows, name)[: len(block.ids)] for name in LAYERS}
        refused = [(refusal.source, refusal.photo_id, refusal.reason) for refusal in block.refused]
        self.writer.write(place, block.ids, layers, key=block.key, refused=refused)
