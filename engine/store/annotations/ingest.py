"""From annotation files to the table of a store: read in parallel, ordered as the store is, damage set aside."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from engine.errors import EngineError, InputError
from engine.progress import Progress, silent
from engine.store.annotations.assemble import Assignment, assembled, assign
from engine.store.annotations.mapping import FieldMap
from engine.store.annotations.reading import Part, Task, read_chunk, refusals
from engine.store.annotations.sources import Finder
from engine.store.annotations.table import Facts, TableWriter
from engine.store.durable import disk_errors, write_whole
from engine.store.hold import held
from engine.store.listed import Refused
from engine.store.processes import apart
from engine.store.store import Store
from engine.words import counted
from kernels.device import cpu_threads

QUARANTINE = "annotations-quarantine.jsonl"
PARTS = "annotations.parts"


@dataclass(frozen=True, kw_only=True)
class AnnotationsReport:
    """What an ingest of annotations did. seconds: from the first folder to the renamed table.

    photos: of the store, those that are not removed. annotated, without_annotations: how many of them have a file, or
    none. without_features: photos that have a file but are not in the store. files_read, bytes_read: files whose
    content was taken, those of an interrupted run (`resumed`) among them. repeated: files beyond the first of their
    photo, merged into one row. failed: documents that hold nothing but a failure of the API. not_understood: others in
    which no field was found. refused: files set aside. ignored: other files.
    """

    store: Path
    photos: int
    annotated: int
    without_annotations: int
    without_features: int
    files_read: int
    bytes_read: int
    resumed: int
    repeated: int
    failed: int
    not_understood: int
    refused: int
    ignored: int
    seconds: float
    workers: int


def ingest_annotations(
    store: Path,
    sources: Sequence[Path],
    *,
    mapping: Path | None = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> AnnotationsReport:
    """Read all annotation files below `sources`, folders and archives, into `annotations.parquet` of a store.

    The table is made anew; it has a row for each of the store's, in their order. A file that is no JSON object is set
    aside in `annotations-quarantine.jsonl` with the reason. Interrupted, it continues when it is called again.
    mapping: file of paths, see `mapping`. workers: processes; all cores if unset. InputError when there is nothing to
    read, EngineError when there is no room.
    """
    started = time.perf_counter()
    workers = workers or cpu_threads()
    paths = FieldMap.read(mapping) if mapping else None
    with held(store):
        opened, finder = Store.open(store), Finder(sources=sources)
        folder = store / PARTS
        with disk_errors(store):
            folder.mkdir(exist_ok=True)
        parts = list(_read(finder, _How(folder=folder, mapping=paths, workers=workers), progress))
        refused = [*refusals(parts), *finder.refused]
        if not parts and not refused:
            shutil.rmtree(folder)
            raise InputError(
                f"{', '.join(map(str, sources))}: no annotation files found ({counted(finder.ignored, 'other file')}). "
                "Expected files such as 10/103169.json, or archives of them."
            )
        found = assign(parts, opened.photo_ids)
        _publish(opened, found, refused, progress)
        shutil.rmtree(folder)
    present = opened.present_rows
    annotated = int(np.isin(found.row[np.diff(found.row, prepend=-1) != 0], present).sum())
    return AnnotationsReport(
        store=store, photos=len(present), annotated=annotated, without_annotations=len(present) - annotated,
        without_features=found.without_features, files_read=sum(part.files for part in parts),
        bytes_read=sum(part.bytes_read for part in parts), resumed=sum(part.files for part in parts if part.resumed),
        repeated=found.repeated, failed=sum(part.failed for part in parts),
        not_understood=sum(part.not_understood for part in parts), refused=len(refused), ignored=finder.ignored,
        seconds=time.perf_counter() - started, workers=workers,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _How:
    """How chunks are to be read."""

    folder: Path
    mapping: FieldMap | None
    workers: int


def _read(finder: Finder, how: _How, progress: Progress) -> Iterator[Part]:
    """The parts, as they come."""
    done = 0
    waiting = (Task(chunk=chunk, folder=how.folder, mapping=how.mapping) for chunk in finder.chunks())
    head = list(islice(waiting, 2))
    tasks = chain(head, waiting)
    # One chunk needs no second process, and starting one takes longer than reading it.
    alone = how.workers == 1 or len(head) < 2
    results = map(read_chunk, tasks) if alone else (part for _, part in apart(read_chunk, tasks, how.workers))
    try:
        for part in results:
            done += part.files
            aside = f"{len(part.refused):,} set aside" if part.refused else ""
            progress("read annotations", done, 0, unit="files", detail=aside)
            yield part
    except BrokenProcessPool as error:
        raise EngineError(
            "A process that reads annotations was killed, for want of memory perhaps. Run the same command again, and "
            "it continues; --workers 1 needs the least."
        ) from error


def _publish(store: Store, found: Assignment, refused: Sequence[Refused], progress: Progress) -> None:
    facts = Facts.of(
        store.manifest, annotated=found.annotated, without_features=found.without_features, quarantined=len(refused)
    )
    with TableWriter(store.path, facts) as writer:
        for block in assembled(found, store.path / PARTS, store.photo_ids, progress):
            writer.write(block)
        writer.close()
        write_whole(store.path / QUARANTINE, b"".join(one.line() for one in refused))
        writer.finish()
