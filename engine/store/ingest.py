"""From `.dat` files to a store: read and checked in parallel, written in order of photo id, damage set aside."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.errors import DiskFullError, EngineError, InputError
from engine.progress import Progress, silent
from engine.store.arrivals import ArchiveCopy
from engine.store.copy import copy_records
from engine.store.dat import LAYERS, RECORD_BYTES
from engine.store.doubles import one_per_photo
from engine.store.durable import disk_errors
from engine.store.listed import Refused
from engine.store.sources import Found, find_sources
from engine.store.writer import StoreWriter
from kernels import Device
from kernels.device import cpu_threads

# More threads than cores: a file that is not in the page cache is waited for, and disks answer many questions at a
# time faster than few (35 µs a file instead of 171 on two cores; benchmarks/results/ingest.md has what came of it).
READERS = max(16, cpu_threads())


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """What an ingest did. seconds: from the first folder to the renamed manifest.

    photos: rows that are new. total: rows in the store now. known: records of photos that it had before. replaced:
    those of them whose rows were rewritten. resumed: new rows that an interrupted run had written. repeated: records
    that held a new photo's very content again.
    """

    store: Path
    photos: int
    total: int
    known: int
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


def ingest(
    sources: Sequence[Path],
    store: Path,
    *,
    device: Device,
    strict: bool = False,
    replace: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> IngestReport:
    """Read every record below `sources`, folders and archives, into the store at `store`, which is made or grows.

    The rows of a new store are in ascending order of photo id, bit for bit what the files hold. A store that is there
    keeps its rows and gets those of photos it does not know at its end. A record that is not whole or not of finite
    numbers, or has no photo id in its name, or repeats an id with other content, is set aside in `quarantine.jsonl`;
    with `strict` it stops the ingest instead, and nothing is written. Interrupted, it continues when it is called
    again, and the store is the same in every byte. EngineError when there is nothing to read or no room.
    """
    started = time.perf_counter()
    found = find_sources(sources, progress=progress)
    if not len(found.listing) and not found.streams and not found.refused:
        raise InputError(
            f"{', '.join(map(str, sources))}: no .dat files found ({found.ignored:,} other files). "
            "Expected files such as 10/103169.dat, or archives of them."
        )
    finding = time.perf_counter() - started
    with StoreWriter(store, LAYERS, append=True, progress=progress) as writer:
        job = _Ingest(found, writer, device, strict=strict, threads=threads or READERS, progress=progress)
        try:
            job.run()
        except DiskFullError as error:
            raise DiskFullError(f"{error} It continues where it was and needs {_needed(job)} more.") from error
        if not writer.rows:
            if not job.refused:
                raise InputError(f"{', '.join(map(str, sources))}: holds no .dat file ({job.ignored:,} other files).")
            first = job.refused[0]
            raise InputError(f"{first.source}: {first.reason}. None of {len(job.refused):,} files is usable.")
        writer.sort()
        for refusal in sorted(job.refused, key=lambda r: (r.photo_id is None, r.photo_id or 0, r.source)):
            writer.quarantine(refusal.line())
        progress("flush to disk", 0, 0, unit="files")
        new = writer.rows - (writer.base.rows if writer.base else 0)
        manifest = writer.finish([str(source) for source in sources])
    replaced = _replace(job, store, sources) if replace and job.known else 0
    return IngestReport(
        store=store, photos=new, total=manifest.rows, known=job.known, replaced=replaced, resumed=writer.resumed,
        refused=len(job.refused), repeated=job.repeated, ignored=job.ignored,
        files_read=new - writer.resumed + (job.known if replace else 0),
        bytes_read=(new - writer.resumed + (job.known if replace else 0)) * RECORD_BYTES,
        seconds=time.perf_counter() - started, seconds_finding=finding, device=str(device), threads=job.threads,
    )  # fmt: skip


def _replace(job: "_Ingest", store: Path, sources: Sequence[Path]) -> int:
    """Rewrite the rows of photos that the store had before, where the sources differ: how many did."""
    from engine.store.replace import Replacement, replace_rows

    listing = job.found.listing
    known = np.flatnonzero(np.isin(listing.photo_ids, job.known_ids))
    given = Replacement(
        records=listing.take(known), streams=job.found.streams, sources=[*map(str, sources)], only=job.known_ids
    )
    report = replace_rows(store, given, device=job.device, strict=job.strict, progress=job.progress)
    job.refused += [refusal for refusal in report.refused if refusal not in job.refused]
    return report.replaced


@dataclass(kw_only=True)
class _Counts:
    refused: list[Refused] = field(default_factory=list)
    known: int = 0
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
        self.known_ids = np.sort(writer.ids())
        self.records = 0

    def run(self) -> None:
        self._stop_if_strict(self.refused)
        new = ~np.isin(self.found.listing.photo_ids, self.known_ids)
        self.known = len(new) - int(new.sum())
        records, doubles, self.repeated = one_per_photo(self.found.listing.take(np.flatnonzero(new)))
        self._set_aside(doubles)
        self.records = len(records)
        _check_room(self.writer, self.records, self.found.streams)
        started = time.perf_counter()
        for done, refused in copy_records(records, self.writer, self.device, self.threads):
            self._set_aside(refused)
            rate = done * RECORD_BYTES / (time.perf_counter() - started) / 1e9
            self.progress("ingest", done, len(records), unit="files", detail=f"{rate:.2f} GB/s{self._aside()}")
        sizes = [os.stat(archive).st_size for archive in self.found.streams]  # noqa: PTH116
        read = 0
        for archive, size in zip(self.found.streams, sizes, strict=True):
            for position, records_so_far in self._archive(archive):
                name = os.fsdecode(os.path.basename(archive))  # noqa: PTH119
                detail = f"{name}: {records_so_far:,} photos{self._aside()}"
                self.progress("unpack", read + position, sum(sizes), unit="bytes", detail=detail)
            read += size

    def _archive(self, archive: bytes) -> Iterator[tuple[int, int]]:
        threads = min(self.threads, cpu_threads())
        copy = ArchiveCopy(archive, self.writer, self.device, threads=threads, known=self.known_ids)
        if copy.resume():
            self.refused += copy.result.refused
        else:
            for position, records, refused in copy.run():
                self._set_aside(refused)
                yield position, records
        self.known += copy.result.known
        self.repeated += copy.result.repeated
        self.ignored += copy.result.ignored

    def _set_aside(self, refused: Sequence[Refused]) -> None:
        self.refused += refused
        self._stop_if_strict(refused)

    def _stop_if_strict(self, refused: Sequence[Refused]) -> None:
        if self.strict and refused:
            self.writer.discard()
            raise InputError(f"{refused[0].source}: {refused[0].reason}. Nothing was written (--strict).")

    def _aside(self) -> str:
        return f", {len(self.refused):,} set aside" if self.refused else ""


def _needed(job: "_Ingest") -> str:
    """How many bytes are still to be written, as far as that can be known."""
    left = max(job.records - job.writer.written, 0) * RECORD_BYTES / 1e6
    return f"{left:,.0f} MB{' and what the archives hold' if job.found.streams else ''}"


def _check_room(writer: StoreWriter, records: int, streams: Sequence[bytes]) -> None:
    """Say before the work that the disk is too small for it, where that can be known."""
    written = sum(block.rows for block in writer.found.values())
    # Of a compressed archive only this is known: that it does not shrink.
    packed = sum(os.stat(archive).st_size for archive in streams)  # noqa: PTH116
    needed = max(records - written, 0) * RECORD_BYTES + packed * (not written)
    with disk_errors(writer.path):
        free = shutil.disk_usage(writer.path).free
    if free < needed:
        raise EngineError(
            f"{writer.path}: {records:,} photos{' and the archives' * bool(streams)} need {needed / 1e9:.1f} GB more, "
            f"{free / 1e9:.1f} GB are free. Make room and run it again, or name a folder on another disk with --store."
        )
