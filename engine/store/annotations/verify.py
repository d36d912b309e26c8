"""The annotations of a store read again, every page against its checksum."""

import time
from pathlib import Path

import numpy as np

from engine.errors import InputError, StoreError
from engine.progress import Progress, silent
from engine.store.annotations.schema import FILE, QUARANTINE
from engine.store.annotations.sealed import check_seal
from engine.store.annotations.table import Annotations, ingest_command, is_lost, read_facts
from engine.store.store import Store
from engine.store.verify import Damage, VerifyReport


def _check_seal(file: Path) -> None:
    try:
        check_seal(file)
    except (StoreError, OSError) as error:
        raise StoreError(f"{str(error).rstrip('.')}. {ingest_command(file.parent, 'writes it anew')}") from error


def verify_annotations(path: Path, *, progress: Progress = silent) -> VerifyReport | None:
    """What is damaged in `annotations.parquet` of a store; None when it never had any.

    One that an ingest wrote and that is gone is damage. A table of another state of the store is none: a note says how
    it is brought up to date.
    """
    started, file = time.perf_counter(), path / FILE
    if is_lost(path):
        reason = f"is absent, and {QUARANTINE} says that there was one. {ingest_command(path, 'reads it again')}"
        return VerifyReport(path=path, bytes_read=0, seconds=0.0, damage=[Damage(file=FILE, reason=reason)])
    if not file.exists():
        return None
    damage, notes = list[Damage](), list[str]()
    try:
        store = Store.open(path)
    except StoreError:  # which is damaged itself, as its own report says
        store = None
    try:
        _check_seal(file)
        facts, columns = read_facts(file)
        found = Annotations(path=file, facts=facts, columns=columns)
        fits = store is None or (facts.photo_ids_xxh3 == store.manifest.photo_ids_xxh3 and facts.rows == len(store))
        if not fits:
            notes.append(f"{FILE} is of another state of the store. {ingest_command(path, 'brings it up to date')}")
        done = 0
        for batch in found.batches():
            rows = slice(done, done + batch.num_rows)
            if fits and store is not None and not np.array_equal(batch.column(0).to_numpy(), store.photo_ids[rows]):
                raise StoreError(f"{file}: holds other photos. {ingest_command(path, 'writes it anew')}")
            done += batch.num_rows
            progress("verify annotations", done, facts.rows, unit="rows")
    except (StoreError, InputError) as error:
        damage.append(Damage(file=FILE, reason=str(error).removeprefix(f"{file}: ")))
    return VerifyReport(
        path=path, bytes_read=file.stat().st_size, seconds=time.perf_counter() - started, damage=damage, notes=notes
    )
