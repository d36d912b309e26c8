"""Reading a whole store again against its checksums, and naming what is damaged."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import StoreError
from engine.progress import Progress, silent
from engine.store.manifest import digest
from engine.store.store import Store
from kernels.device import cpu_threads


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Rows start to stop−1 of a file that do not match their checksum, and the first and last photo id in them."""

    file: str
    reason: str
    rows: tuple[int, int] | None = None
    photo_ids: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a verification read and found."""

    path: Path
    bytes_read: int
    seconds: float
    damage: list[Damage]


def verify_store(path: Path, *, progress: Progress = silent) -> VerifyReport:
    """Read every byte of a store on all cores and compare it with the manifest's checksums.

    StoreError when the manifest, the ids or a header is damaged: then nothing in the store can be trusted to be
    what it says. Damaged rows are listed, not raised.
    """
    started = time.perf_counter()
    store = Store.open(path)
    tasks = list(_blocks(store))
    damage: list[Damage] = []
    read = store.photo_ids.nbytes
    with ThreadPoolExecutor(cpu_threads()) as pool:
        for done, (size, found) in enumerate(pool.map(lambda task: _check(store, *task), tasks), 1):
            read += size
            damage += [found] if found else []
            progress("verify", done, len(tasks), unit="blocks")
    damage += _quarantine(store)
    return VerifyReport(path=path, bytes_read=read, seconds=time.perf_counter() - started, damage=damage)


def check_layer(store: Store, layer: str, *, progress: Progress = silent) -> None:
    """Read one layer against its checksums, on all cores; StoreError names the first rows that do not match."""
    tasks = [task for task in _blocks(store) if task[0] == layer]
    with ThreadPoolExecutor(cpu_threads()) as pool:
        for done, (_, found) in enumerate(pool.map(lambda task: _check(store, *task), tasks), 1):
            progress("check rows", done, len(tasks), unit="blocks")
            if found and found.rows and found.photo_ids:
                raise StoreError(
                    f"{store.path / found.file}: rows {found.rows[0]:,} to {found.rows[1] - 1:,} (photos "
                    f"{found.photo_ids[0]} to {found.photo_ids[1]}): {found.reason}. Restore the file, or ingest again."
                )


def _blocks(store: Store) -> Iterator[tuple[str, int, int, str]]:
    ends = np.cumsum(store.manifest.block_rows, dtype=np.int64).tolist()
    for name, layer in store.manifest.layers.items():
        yield from (
            (name, end - rows, rows, xxh3)
            for end, rows, xxh3 in zip(ends, store.manifest.block_rows, layer.xxh3, strict=True)
        )


def _check(store: Store, name: str, start: int, rows: int, expected: str) -> tuple[int, Damage | None]:
    layer = store.manifest.layers[name]
    size = rows * layer.dim * 4
    file = store.path / layer.file
    # Read, not mapped: a failing disk then answers with an error instead of killing the process.
    handle = os.open(file, os.O_RDONLY)
    try:
        data = os.pread(handle, size, store.manifest.header_bytes + start * layer.dim * 4)
        reason = "does not match its checksum" if len(data) == size else "is cut short"
    except OSError as error:
        data, reason = b"", f"cannot be read ({error.strerror})"
    finally:
        os.close(handle)
    if len(data) == size and digest(data) == expected:
        return size, None
    ids = store.photo_ids[start : start + rows]
    span = (int(ids[0]), int(ids[-1]))
    return size, Damage(file=layer.file, reason=reason, rows=(start, start + rows), photo_ids=span)


def _quarantine(store: Store) -> list[Damage]:
    file = store.path / "quarantine.jsonl"
    try:
        data = file.read_bytes()
    except OSError as error:
        return [Damage(file=file.name, reason=f"cannot be read ({error.strerror})")]
    if digest(data) != store.manifest.quarantine_xxh3:
        return [Damage(file=file.name, reason="does not match its checksum")]
    return []
