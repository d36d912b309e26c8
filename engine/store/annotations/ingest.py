"""From annotation files to the table of a store: read in parallel, ordered as the store is, damage set aside."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from engine.errors import EngineError, InputError, StoreError
from engine.progress import Progress, silent
from engine.store.annotations.assemble import Assignment, assembled, assign
from engine.store.annotations.loss import Known, Loss, described
from engine.store.annotations.mapping import FieldMap
from engine.store.annotations.reading import Part, Task, read_chunk, refusals
from engine.store.annotations.report import AnnotationsReport, Before, report_of
from engine.store.annotations.schema import FILE, QUARANTINE
from engine.store.annotations.sources import Finder
from engine.store.annotations.table import Facts, TableWriter, is_lost
from engine.store.durable import disk_errors, write_whole
from engine.store.hold import held
from engine.store.listed import Refused
from engine.store.processes import apart
from engine.store.store import Store
from engine.words import counted
from kernels.device import cpu_threads

PARTS = "annotations.parts"


def ingest_annotations(
    store: Path,
    sources: Sequence[Path],
    *,
    mapping: Path | None = None,
    workers: int | None = None,
    replace: bool = False,
    progress: Progress = silent,
) -> AnnotationsReport:
    """Read all annotation files below `sources`, folders and archives, into `annotations.parquet` of a store.

    The table is made anew; it has a row for each of the store's, in their order. A file that is no JSON object is set
    aside in `annotations-quarantine.jsonl` with the reason. Interrupted, it continues when it is called again.
    mapping: file of paths, see `mapping`. workers: processes; all cores if unset. replace: also where photos lose what
    the table that is there says of them. InputError where they would without it, which leaves the table as it is, and
    when there is nothing to read; EngineError when there is no room.
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
            with suppress(OSError):  # parts of another run are in it
                folder.rmdir()
            raise InputError(
                f"{', '.join(map(str, sources))}: no annotation files found ({counted(finder.ignored, 'other file')}). "
                "Expected files such as 10/103169.json, or archives of them."
            )
        found = assign(parts, opened.photo_ids)
        before = _publish(opened, found, refused, replace=replace, progress=progress)
        shutil.rmtree(folder)
    return report_of(
        opened, found, before, mapping=paths, refused=len(refused), ignored=finder.ignored,
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


def _publish(
    store: Store, found: Assignment, refused: Sequence[Refused], *, replace: bool, progress: Progress
) -> Before:
    """Write the table and give it its name; InputError if it says less than the one before, unless that is wanted."""
    facts = Facts.of(
        store.manifest, annotated=len(found.annotated), without_features=found.without_features,
        quarantined=len(refused),
    )  # fmt: skip
    old, now, unreadable = None, Known(), f"{store.path / FILE}: is gone." if is_lost(store.path) else ""
    if (store.path / FILE).exists():
        try:
            old = Known.of_file(store.path / FILE)
        except StoreError as error:
            unreadable = str(error).partition(" `mirsearch ")[0]
    with TableWriter(store.path, facts) as writer:
        for block in assembled(found, store.path / PARTS, store.photo_ids, progress):
            writer.write(block)
            if old is not None:
                now.add(block)
        writer.close()
        loss = None if old is None else old.less(now, store.photo_ids[store.present_rows])
        if loss is not None and loss.photos and not replace:
            raise InputError(_would_lose(store.path / FILE, loss, refused))
        writer.finish()
    # After the table: where this file lies, there was one (see `verify`).
    write_whole(store.path / QUARANTINE, b"".join(one.line() for one in refused))
    return Before(loss=loss, unreadable=unreadable)


def _would_lose(file: Path, loss: Loss, refused: Sequence[Refused]) -> str:
    aside = ""
    if refused:
        first = f"{refused[0].source}: {refused[0].reason}"
        aside = f" {counted(len(refused), 'file')} could not be read, the first {first}."
    return (
        f"{file}: has annotations of {counted(loss.before, 'photo')}; {loss.photos:,} would lose some, which are not "
        f"in these sources ({described(loss.fields)}). It was left as it is. Name all sources in one command, and what "
        f"was read just now is not read again; or let --replace put a table of these alone in its place.{aside}"
    )
