"""Reading a whole store again against its checksums, and naming what is damaged."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.progress import Progress, silent
from engine.store import commit, journal, npy, publish
from engine.store.blocks import Block, DiskFile, grouped, layer_blocks, read_threads
from engine.store.durable import PART
from engine.store.manifest import Manifest, read_manifest
from engine.store.publish import QUARANTINE
from engine.store.store import Store
from engine.store.unfinished import unfinished_verb

IDS, REMOVED = f"{publish.IDS}.npy", "removed.npy"
# What is said of one file, as it is said of several rows.
_OF_ROWS = {"does not match its checksum": "do not match their checksum", "is cut short": "are cut short"}


@dataclass(frozen=True, kw_only=True)
class Damage:
    """Rows start to stop−1 of a file that are damaged, and the photo ids of the first and the last of them.

    rows: None where all of the file is meant, or its header. photo_ids: None too where the ids cannot be known.
    """

    file: str
    reason: str
    rows: tuple[int, int] | None = None
    photo_ids: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What a verification read and found. notes: what is no damage, but should be known. stale: the note that an index
    is of another state of its store, and so cannot be searched.
    """

    path: Path
    bytes_read: int
    seconds: float
    damage: list[Damage]
    notes: list[str] = field(default_factory=list)
    stale: str | None = None


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A file that is one array with one checksum, as the manifest promises it."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    xxh3: str

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All damage of a store. whole: files whose header, length or whole content is meant. blocks: with the reason.

    ids: (n,) of the rows; None when their file is damaged.
    """

    whole: list[Damage]
    blocks: list[tuple[Block, str]]
    ids: npt.NDArray[np.int64] | None
    bytes_read: int

    def damage(self, manifest: Manifest) -> list[Damage]:
        """One entry for each stretch of damaged rows, and one for each file."""
        return [*self.whole, *in_stretches(self.blocks, self.ids, manifest)]


def verify_store(path: Path, *, progress: Progress = silent) -> VerifyReport:
    """Read every byte of a store on all cores and compare it with the manifest's checksums. Damage is listed.

    StoreError when the manifest is absent or damaged: then there is nothing to compare with.
    """
    started = time.perf_counter()
    for _ in range(3):
        commit.settle_store(path)
        manifest = read_manifest(path)
        found = examine(path, manifest, progress=progress)
        # What another process changes while we read looks like damage.
        if not found.whole and not found.blocks:
            break
        if not (path / commit.NAME).exists() and read_manifest(path) == manifest:
            break
    else:
        raise StoreError(f"{path}: is being changed by another mirsearch. Wait for it to end.")
    return VerifyReport(
        path=path, bytes_read=found.bytes_read, seconds=time.perf_counter() - started, notes=_notes(path),
        damage=found.damage(manifest),
    )  # fmt: skip


def examine(path: Path, manifest: Manifest, *, progress: Progress = silent) -> Findings:
    """Compare every file of a store with its manifest."""
    blocks: list[tuple[Block, str]] = []
    for name, layer in manifest.layers.items():
        wanted = list(layer_blocks(manifest, name))
        if (path / layer.file).is_file():
            blocks += check_blocks(path / layer.file, wanted, phase=f"verify {name}", progress=progress)
    read = sum(file.size for file in expected_files(manifest))
    read += manifest.rows * 4 * sum(layer.dim for layer in manifest.layers.values())
    whole, ids = examine_files(path, manifest)
    return Findings(whole=whole, blocks=blocks, ids=ids, bytes_read=read)


def examine_files(path: Path, manifest: Manifest) -> tuple[list[Damage], npt.NDArray[np.int64] | None]:
    """Compare all but the rows: files with one checksum, headers, lengths; and the ids (n,), if their file is good."""
    whole = [bad for file in expected_files(manifest) if (bad := check_array(path, file, manifest))]
    ids = None
    if not any(bad.file == IDS for bad in whole):
        ids = np.asarray(npy.open_rows(path / IDS, (manifest.rows,), "<i8", manifest.header_bytes), np.int64)
    whole += [bad for name in manifest.layers if (bad := bad_layer_shape(path, name, manifest))]
    return [*whole, *_quarantine(path, manifest)], ids


def check_blocks(
    file: Path, blocks: Sequence[Block], *, phase: str, keep: bool = False, progress: Progress = silent
) -> list[tuple[Block, str]]:
    """Read blocks of one file, on all cores; those that are damaged, in order, and how."""
    groups, damaged = list(grouped(iter(blocks))), list[tuple[Block, str]]()
    total, done = sum(block.size for block in blocks), 0
    threads = min(read_threads(), max(len(groups), 1))
    with DiskFile(file, keep=keep) as opened, ThreadPoolExecutor(threads) as pool:
        checked = pool.map(opened.check, groups) if threads > 1 else map(opened.check, groups)
        for group, found in zip(groups, checked, strict=True):
            damaged += found
            done += sum(block.size for block in group)
            progress(phase, done, total, unit="bytes")
    return damaged


def check_layer(store: Store, layer: str, *, since: int = 0, progress: Progress = silent) -> None:
    """Read one layer against its checksums, on all cores; StoreError names the first rows that do not match.

    since: rows before this one are not read.
    """
    file = store.path / store.manifest.layers[layer].file
    blocks = [block for block in layer_blocks(store.manifest, layer) if block.start >= since]
    # Through the page cache: who asks this is about to read the rows.
    damaged = check_blocks(file, blocks, phase="check rows", keep=True, progress=progress)
    for found in in_stretches(damaged, store.photo_ids, store.manifest):
        if found.rows and found.photo_ids:
            raise StoreError(
                f"{file}: rows {found.rows[0]:,} to {found.rows[1] - 1:,} (photos {found.photo_ids[0]} to "
                f"{found.photo_ids[1]}): {found.reason}. `mirsearch verify` lists all, with --repair it mends them."
            )


def expected_files(manifest: Manifest) -> Iterator[Expected]:
    """The files with one checksum each: ids, removed rows, query sets."""
    yield Expected(file=IDS, shape=(manifest.rows,), dtype="<i8", xxh3=manifest.photo_ids_xxh3)
    if removed := manifest.removed:
        yield Expected(file=REMOVED, shape=(removed.count,), dtype="<i8", xxh3=removed.xxh3)
    for layer, known in manifest.query_sets.items():
        shapes = {known.queries: ((known.count, manifest.layers[layer].dim), "<f4")}
        shapes[known.neighbors] = ((known.count, known.k), "<i8")
        if known.distances:
            shapes[known.distances] = ((known.count, known.k), "<f4")
        for file, (shape, dtype) in shapes.items():
            yield Expected(file=file, shape=shape, dtype=dtype, xxh3=known.xxh3.get(file, ""))


def check_array(path: Path, expected: Expected, manifest: Manifest) -> Damage | None:
    """Header, length and content of a file with one checksum."""
    if bad := _bad_shape(path / expected.file, expected.shape, expected.dtype, manifest.header_bytes):
        return bad
    with DiskFile(path / expected.file) as file:
        reason = file.damage(manifest.header_bytes, expected.size, expected.xxh3)
    return Damage(file=expected.file, reason=reason) if reason else None


def bad_layer_shape(path: Path, name: str, manifest: Manifest) -> Damage | None:
    """Header and length of a row file. It may be longer while an ingest adds rows."""
    layer, growing = manifest.layers[name], (path / journal.NAME).exists()
    return _bad_shape(path / layer.file, (manifest.rows, layer.dim), "<f4", manifest.header_bytes, growing=growing)


def _bad_shape(
    file: Path, shape: tuple[int, ...], dtype: str, header_bytes: int, *, growing: bool = False
) -> Damage | None:
    try:
        npy.check_file(file, shape, dtype, header_bytes, growing=growing)
    except StoreError as error:
        # What to do about it depends on all that is damaged, and is said at the end.
        said = str(error).removeprefix(f"{file}: ").partition(". ")[0].removesuffix(".")
        problem = said if os.path.lexists(file) else "is absent"
        return Damage(file=file.name, reason=problem)
    return None


def in_stretches(
    blocks: Sequence[tuple[Block, str]], ids: npt.NDArray[np.int64] | None, manifest: Manifest
) -> list[Damage]:
    """Neighbouring blocks of one layer that are damaged in the same way, as one."""
    stretches: list[Damage] = []
    for block, found in blocks:
        file, reason = manifest.layers[block.layer].file, _OF_ROWS.get(found, found)
        rows = (block.start, block.stop)
        last = stretches[-1] if stretches else None
        if last and last.rows and (last.file, last.reason, last.rows[1]) == (file, reason, block.start):
            rows = (last.rows[0], block.stop)
            stretches.pop()
        span = (int(ids[rows[0]]), int(ids[rows[1] - 1])) if ids is not None else None
        stretches.append(Damage(file=file, reason=reason, rows=rows, photo_ids=span))
    return stretches


def _quarantine(path: Path, manifest: Manifest) -> list[Damage]:
    reason = publish.quarantine_damage(path, manifest)
    return [Damage(file=QUARANTINE, reason=reason)] if reason else []


def _notes(path: Path) -> list[str]:
    if (path / journal.NAME).exists():
        verb = unfinished_verb(path)
        what = "continues" if verb == "ingest" else "begins anew"
        return [
            f"An {verb} into this store is under way or was interrupted: run it again, and it {what}. What it has "
            "written so far is not of the store yet and was not read."
        ]
    parts = sorted(part.name for part in path.glob(f"*{PART}"))
    return [f"Left by a command that was interrupted, and no part of the store: {', '.join(parts)}."] if parts else []
