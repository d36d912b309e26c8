"""From `.dat` files to a store: read and checked in parallel, written in order of photo id, damage set aside."""

import json
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.progress import Progress, silent
from engine.store.dat import LAYERS, RECORD_BYTES, examine
from engine.store.durable import disk_errors
from engine.store.reader import Block, Reader, open_reader
from engine.store.sources import Listing, Refused, find_dat_files
from engine.store.writer import StoreWriter
from kernels import Device
from kernels.device import cpu_threads

# Files per block, and so rows per checksum. A block (5.2 MB) stays in the cache from the read to the write.
# Part of the format: the same input gives the same manifest on every machine.
BLOCK_FILES = 256


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did. seconds: from the first folder to the renamed manifest."""

    store: Path
    photos: int
    refused: int
    repeated: int
    ignored: int
    bytes_read: int
    seconds: float
    seconds_finding: float
    device: str
    threads: int


def ingest(
    sources: Sequence[Path],
    store: Path,
    *,
    device: Device,
    strict: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> IngestReport:
    """Read every `.dat` file below `sources` into a new store at `store`.

    Rows are in ascending order of photo id, bit for bit what the files hold. A file that is not a whole record of
    finite numbers, or has no photo id in its name, or repeats an id with other content, is set aside in
    `quarantine.jsonl`; with `strict` it stops the ingest instead and nothing is written. EngineError when there
    is nothing to read, no room, or a store already.
    """
    started = time.perf_counter()
    found = find_dat_files(sources, progress=progress)
    if not len(found) and not found.refused:
        raise InputError(
            f"{', '.join(map(str, sources))}: no .dat files found ({found.ignored:,} other files). "
            "Expected files such as 10/103169.dat."
        )
    finding = time.perf_counter() - started
    files, doubles, repeated = _one_per_photo(found)
    refusals = [*found.refused, *doubles]
    _stop_if_strict(refusals, strict=strict)
    _check_room(store, len(files))
    threads = threads or cpu_threads()
    copying = time.perf_counter()
    with StoreWriter(store, LAYERS) as writer:
        for done, refused in _copy(files, writer, device, threads):
            refusals += refused
            _stop_if_strict(refused, strict=strict)
            rate = done * RECORD_BYTES / (time.perf_counter() - copying) / 1e9
            aside = f", {len(refusals):,} set aside" if refusals else ""
            progress("ingest", done, len(files), unit="files", detail=f"{rate:.2f} GB/s{aside}")
        if not writer.rows:
            first = refusals[0]
            raise InputError(f"{first.source}: {first.reason}. None of {len(refusals):,} files is usable.")
        for refusal in sorted(refusals, key=lambda r: (r.photo_id is None, r.photo_id or 0, r.source)):
            writer.quarantine(_line(refusal))
        progress("flush to disk", 0, 0, unit="files")
        writer.finish([str(source) for source in sources])
    return IngestReport(
        store=store, photos=writer.rows, refused=len(refusals), repeated=repeated, ignored=found.ignored,
        bytes_read=writer.rows * RECORD_BYTES, seconds=time.perf_counter() - started, seconds_finding=finding,
        device=str(device), threads=threads,
    )  # fmt: skip


def _line(refused: Refused) -> bytes:
    entry = {"source": refused.source, "photo_id": refused.photo_id, "reason": refused.reason}
    return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def _stop_if_strict(refused: Sequence[Refused], *, strict: bool) -> None:
    if strict and refused:
        raise InputError(f"{refused[0].source}: {refused[0].reason}. Nothing was written (--strict).")


def _check_room(store: Path, files: int) -> None:
    folder = store.absolute()
    with disk_errors(folder):
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
    if free < files * RECORD_BYTES:
        raise EngineError(
            f"{store}: {files:,} photos need {files * RECORD_BYTES / 1e9:.1f} GB, {free / 1e9:.1f} GB are free. "
            "Make room, or name a folder on another disk with --store."
        )


def _one_per_photo(found: Listing) -> tuple[Listing, list[Refused], int]:
    """Settle ids that occur more than once: the first good file wins, equal ones are repeats, others are refused."""
    ids = found.photo_ids
    first = np.ones(len(ids), np.bool_)
    first[1:] = ids[1:] != ids[:-1]
    starts = np.flatnonzero(first)
    keep, refused, repeated = first.copy(), list[Refused](), 0
    ends = np.append(starts[1:], len(ids))
    for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
        keep[start:end] = False
        winner: bytes | None = None
        for i in range(start, end):
            reason, record = examine(found.path(i))
            if reason is None and record is not None and winner is None:
                winner, keep[i], chosen = record.tobytes(), True, i
            elif reason is None and record is not None and record.tobytes() == winner:
                repeated += 1
            else:
                if reason is None:
                    reason = (
                        f"photo {ids[i]} again, with other content than {found.path(chosen).decode(errors='replace')}"
                    )
                source = found.path(i).decode(errors="surrogateescape")
                refused.append(Refused(source=source, photo_id=int(ids[i]), reason=reason))
    return (found if keep.all() else found.take(np.flatnonzero(keep))), refused, repeated


def _copy(files: Listing, writer: StoreWriter, device: Device, threads: int) -> Iterator[tuple[int, list[Refused]]]:
    """Copy all files, a block each; yields (files done, what was refused) in order of the blocks."""
    local = threading.local()
    order = _Turns()

    def block_of(number: int) -> list[Refused]:
        if not hasattr(local, "reader"):
            local.reader, local.block = open_reader(device, BLOCK_FILES), Block(BLOCK_FILES)
        part = files.take(slice(number * BLOCK_FILES, (number + 1) * BLOCK_FILES))
        ids, refused = _read_block(part, local.reader, local.block)
        with order.turn(number):
            place = writer.reserve(len(ids)) if len(ids) else None
        if place is not None:
            n = len(ids)
            with disk_errors(writer.path):
                writer.write(place, ids, {"fc7": local.block.fc7[:n], "fc8": local.block.fc8[:n]})
        return refused

    blocks = -(-len(files) // BLOCK_FILES)
    waiting: deque[Future[list[Refused]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ingest") as pool:
        try:
            for number in range(blocks):
                waiting.append(pool.submit(block_of, number))
                if len(waiting) > 2 * threads:
                    done = number + 1 - len(waiting) + 1
                    yield done * BLOCK_FILES, waiting.popleft().result()
            while waiting:
                done = blocks - len(waiting) + 1
                yield min(done * BLOCK_FILES, len(files)), waiting.popleft().result()
        except BaseException:
            order.abandon()
            pool.shutdown(cancel_futures=True)
            raise


def _read_block(files: Listing, reader: Reader, block: Block) -> tuple[npt.NDArray[np.int64], list[Refused]]:
    """Read one block and close the gaps of refused files: the ids (n,) of its first n rows, and the refused."""
    n = len(files)
    reader.read(files, block)
    refused: list[Refused] = []
    for i in np.flatnonzero(~block.good[:n]).tolist():
        reason, record = examine(files.path(i))
        if reason is None and record is not None:  # it was being written, or a network disk answered in pieces
            block.fc7[i], block.fc8[i], block.good[i] = record["fc7"], record["fc8"], True
        else:
            source = files.path(i).decode(errors="surrogateescape")
            refused.append(Refused(source=source, photo_id=int(files.photo_ids[i]), reason=reason or ""))
    good = block.good[:n]
    if refused:
        kept = int(good.sum())
        block.fc7[:kept], block.fc8[:kept] = block.fc7[:n][good], block.fc8[:n][good]
    return files.photo_ids[good], refused


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

    def __exit__(self, *_: object) -> None:
        self._turns.passed()
