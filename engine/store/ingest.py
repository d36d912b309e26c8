"""From `.dat` files to a store: read and checked in parallel, written in order of photo id, damage set aside."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import DiskFullError, EngineError, InputError
from engine.progress import Progress, silent
from engine.store.arrivals import ArchiveCopy
from engine.store.copy import copy_records
from engine.store.dat import LAYERS, RECORD_BYTES
from engine.store.doubles import one_per_photo
from engine.store.durable import disk_errors
from engine.store.listed import Refused
from engine.store.sources import Found, Listing, find_sources
from engine.store.stages import Consumer, Follower, Pipeline
from engine.store.store import Store, removed_rows
from engine.store.writer import StoreWriter
from engine.words import counted, sized
from kernels import Device
from kernels.device import cpu_threads

if TYPE_CHECKING:
    from engine.store.replace import Comparison

# More threads than cores: a file that is not in the page cache is waited for, and disks answer many questions at a
# time faster than few (35 µs a file instead of 171 on two cores; benchmarks/results/ingest.md has what came of it).
READERS = max(16, cpu_threads())


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did. seconds: from the first folder to the renamed manifest.

    photos: rows that are new. total: photos in the store now. removed: photos beside them that are marked as gone.
    known: records of photos that the store had before. passed_over: records of photos that are marked as gone, which
    they stay. replaced: rows of known photos that were rewritten. resumed: new rows that an interrupted run had
    written. repeated: records that held a new photo's very content again. stages: how busy each stage of the way
    through a GPU was, 0 to 1 of the time its threads had; empty on the CPU, where one thread does all of a block.
    """

    store: Path
    photos: int
    total: int
    removed: int
    known: int
    passed_over: int
    replaced: int
    resumed: int
    refused: int
    repeated: int
    ignored: int
    files_read: int
    bytes_read: int
    seconds: float
    seconds_finding: float
    device: str
    threads: int
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> str | None:
        """The stage that all others wait for, where stages were timed."""
        return max(self.stages, key=self.stages.__getitem__) if self.stages else None


def ingest(
    sources: Sequence[Path],
    store: Path,
    *,
    device: Device,
    strict: bool = False,
    replace: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
    follower: Follower | None = None,
) -> IngestReport:
    """Read every record below `sources`, folders and archives, into the store at `store`, which is made or grows.

    The rows of a new store are in ascending order of photo id, bit for bit what the files hold. A store that is there
    keeps its rows and gets those of photos it does not know at its end. A record that is not whole or not of finite
    numbers, or has no photo id in its name, or repeats an id with other content, is set aside in `quarantine.jsonl`;
    with `strict` it stops the ingest instead, and nothing is written. Interrupted, it continues when it is called
    again, and the store is the same in every byte. EngineError when there is nothing to read or no room.

    replace: rows of photos that the store has with other content are rewritten, right after the new ones are in; all
    that can be refused is refused before either. A removed photo stays removed, and its row as it is.
    """
    started = time.perf_counter()
    found = find_sources(sources, progress=progress)
    if not len(found.listing) and not found.streams and not found.refused:
        raise InputError(
            f"{', '.join(map(str, sources))}: no .dat files found ({counted(found.ignored, 'other file')}). "
            "Expected files such as 10/103169.dat, or archives of them."
        )
    finding = time.perf_counter() - started
    with StoreWriter(store, LAYERS, append=True, progress=progress) as writer:
        job = _Ingest(found, writer, device, strict=strict, threads=threads or READERS, progress=progress)
        job.follower = follower
        try:
            job.run()
        except DiskFullError as error:
            raise DiskFullError(f"{error} {_goes_on(job)}") from error
        if not writer.rows:
            raise InputError(_none_usable(job, sources))
        writer.sort()
        for refusal in sorted(job.refused, key=lambda r: (r.photo_id is None, r.photo_id or 0, r.source)):
            writer.quarantine(refusal.line())
        new = writer.rows - (writer.base.rows if writer.base else 0)
        with job.replacement(sources) if replace and job.known else nullcontext() as replacement:
            progress("flush to disk", 0, 0, unit="files")
            manifest = writer.finish([str(source) for source in sources])
            replaced = replacement.publish(manifest).replaced if replacement else 0
    read = new - writer.resumed + (job.known - job.passed_over if replace else 0)
    return IngestReport(
        store=store, photos=new, total=manifest.photos, removed=manifest.rows - manifest.photos,
        known=job.known - job.passed_over, passed_over=job.passed_over, replaced=replaced, resumed=writer.resumed,
        refused=len(job.refused), repeated=job.repeated, ignored=job.ignored, files_read=read,
        bytes_read=read * RECORD_BYTES, seconds=time.perf_counter() - started, seconds_finding=finding,
        device=str(device), threads=job.threads, stages={name: round(share, 3) for name, share in job.stages.items()},
    )  # fmt: skip


@dataclass(kw_only=True)
class _Counts:
    refused: list[Refused] = field(default_factory=list)
    known: int = 0
    passed_over: int = 0
    repeated: int = 0
    ignored: int = 0


class _Ingest(_Counts):
    """One ingest: what can be read in any order first, then the archives that cannot, one after the other."""

    def __init__(
        self, found: Found, writer: StoreWriter, device: Device, *, strict: bool, threads: int, progress: Progress
    ) -> None:
        super().__init__(refused=list(found.refused), ignored=found.ignored)
        self.found, self.writer, self.device = found, writer, device
        self.strict, self.threads, self.progress = strict, threads, progress
        known_ids, gone = writer.ids(), removed_rows(writer.path, writer.base) if writer.base else None
        self.known_ids = np.sort(known_ids)
        self.gone_ids = known_ids[:0] if gone is None else known_ids[gone]
        self.records = 0
        self.stages: dict[str, float] = {}
        self.follower: Follower | None = None
        self.unpacking: bytes | None = None  # the archive that is being read from its beginning

    def run(self) -> None:
        self._stop_if_strict(self.refused)
        new = ~np.isin(self.found.listing.photo_ids, self.known_ids)
        self.known = len(new) - int(new.sum())
        self.passed_over = int(np.isin(self.found.listing.photo_ids, self.gone_ids).sum())
        records, doubles, self.repeated = one_per_photo(self.found.listing.take(np.flatnonzero(new)))
        self._set_aside(doubles)
        self.records = len(records)
        _check_room(self.writer, self.records, self.found.streams)
        started = time.perf_counter()
        for done, refused in self._copied(records):
            self._set_aside(refused)
            rate = done * RECORD_BYTES / (time.perf_counter() - started) / 1e9
            self.progress("ingest", done, len(records), unit="files", detail=f"{rate:.2f} GB/s{self._aside()}")
        sizes = [os.stat(archive).st_size for archive in self.found.streams]  # noqa: PTH116
        read = 0
        for archive, size in zip(self.found.streams, sizes, strict=True):
            self.unpacking = archive
            for position, records_so_far in self._archive(archive):
                name = os.fsdecode(os.path.basename(archive))  # noqa: PTH119
                detail = f"{name}: {records_so_far:,} photos{self._aside()}"
                self.progress("unpack", read + position, sum(sizes), unit="bytes", detail=detail)
            read += size

    def _copied(self, records: Listing) -> Iterator[tuple[int, list[Refused]]]:
        """Copy records by the way of the device; see `copy_records`."""
        if self.device.kind == "cpu":
            yield from copy_records(records, self.writer, self.device, self.threads)
            return
        consumers: Mapping[str, Consumer] = {}
        in_order = not (self.writer.base or self.writer.found or self.found.streams)
        if self.follower and in_order and len(records):
            consumers = self.follower.consumers(records, self.progress)
        pipeline = Pipeline(records, self.writer, self.device, self.threads, consumers)
        yield from pipeline.run()
        self.stages = pipeline.shares

    def _archive(self, archive: bytes) -> Iterator[tuple[int, int]]:
        threads = min(self.threads, cpu_threads())
        copy = ArchiveCopy(
            archive, self.writer, self.device, threads=threads, known=self.known_ids, removed=self.gone_ids
        )
        if copy.resume():
            self.refused += copy.result.refused
        else:
            for position, records, refused in copy.run():
                self._set_aside(refused)
                yield position, records
        self.known += copy.result.known
        self.passed_over += copy.result.passed_over
        self.repeated += copy.result.repeated
        self.ignored += copy.result.ignored

    @contextmanager
    def replacement(self, sources: Sequence[Path]) -> Iterator["Comparison"]:
        """What differs of photos that the store had before, ready to be written over them once the new ones are in.

        All that can be refused is refused here, so that with `strict` neither the new nor the old rows change.
        """
        from engine.store.replace import Replacement, compared

        listing, path = self.found.listing, self.writer.path
        known = np.flatnonzero(np.isin(listing.photo_ids, self.known_ids))
        given = Replacement(
            records=listing.take(known), streams=self.found.streams, sources=[*map(str, sources)], only=self.known_ids
        )
        try:
            with (
                disk_errors(path),
                compared(
                    Store.open(path), given, device=self.device, strict=self.strict, progress=self.progress
                ) as comparison,
            ):
                self.refused += [refusal for refusal in comparison.report.refused if refusal not in self.refused]
                yield comparison
        except InputError:
            if self.strict:
                self.writer.discard()
            raise

    def _set_aside(self, refused: Sequence[Refused]) -> None:
        self.refused += refused
        self._stop_if_strict(refused)

    def _stop_if_strict(self, refused: Sequence[Refused]) -> None:
        if self.strict and refused:
            self.writer.discard()
            raise InputError(f"{refused[0].source}: {refused[0].reason}. Nothing was written (--strict).")

    def _aside(self) -> str:
        return f", {len(self.refused):,} set aside" if self.refused else ""


def _none_usable(job: "_Ingest", sources: Sequence[Path]) -> str:
    """Why no row came of it all."""
    if not job.refused:
        return f"{', '.join(map(str, sources))}: holds no .dat file ({counted(job.ignored, 'other file')})."
    count, first = len(job.refused), job.refused[0]
    none = "It is the only file." if count == 1 else f"None of {count:,} files is usable."
    return f"{first.source}: {first.reason}. {none}"


def _goes_on(job: "_Ingest") -> str:
    """Where the same command continues and how many bytes it then writes, as far as that can be known."""
    left = sized(max(job.records - job.writer.written, 0) * RECORD_BYTES)
    if job.unpacking is not None:
        where = f"It continues with {os.fsdecode(job.unpacking)}, from its beginning"
        return f"{where}: how much room that needs cannot be known before it is read."
    unread = " and what the compressed archives hold, which cannot be known before they are read"
    return f"It continues where it was and needs {left} more{unread if job.found.streams else ''}."


def _check_room(writer: StoreWriter, records: int, streams: Sequence[bytes]) -> None:
    """Say before the work that the disk is too small for it, where that can be known."""
    written = sum(block.rows for block in writer.found.values())
    # Of a compressed archive only this is known: that it does not shrink.
    packed = sum(os.stat(archive).st_size for archive in streams)  # noqa: PTH116
    needed = max(records - written, 0) * RECORD_BYTES + packed * (not written)
    with disk_errors(writer.path):
        free = shutil.disk_usage(writer.path).free
    if free < needed:
        what = " and ".join([counted(records, "photo")] * bool(records) + ["what the archives hold"] * bool(streams))
        raise EngineError(
            f"{writer.path}: {what} needs {sized(needed)} more, {sized(free)} are free. Make room and run it again, or "
            "name a folder on another disk with --store."
        )
