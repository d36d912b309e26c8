"""The small files of a store and the shapes of its row files, mended where a checksum proves the result."""

import json
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store import commit, journal, npy
from engine.store.durable import flush_folder, part_of
from engine.store.hold import write_change, write_manifest
from engine.store.listed import is_refusal
from engine.store.manifest import FORMAT_VERSION, Manifest, digest, read_manifest
from engine.store.publish import QUARANTINE
from engine.store.rows_file import RowsFile
from engine.store.verify import IDS, REMOVED, Damage, Expected, expected_files
from engine.version import VERSION
from engine.words import counted

Ids = npt.NDArray[np.int64]
# As many bytes are summed at most to try one thing after the other: some seconds.
_BUDGET = 20_000_000_000
_FITTED_MOST = 10_000
_FLIPPED_MOST = 64 << 20
_LINE_MOST = 1 << 20


def mend_shape(path: Path, name: str, manifest: Manifest) -> None:
    """Give a row file the header and length that follow from the manifest. Rows that are not there become zeros."""
    layer = manifest.layers[name]
    if (path / layer.file).is_dir():
        return
    length = manifest.header_bytes + manifest.rows * layer.dim * 4
    file = RowsFile(path / layer.file, create=True)
    try:
        file.write(memoryview(npy.header((manifest.rows, layer.dim), "<f4", manifest.header_bytes)), 0)
        if not (path / journal.NAME).exists() or (path / layer.file).stat().st_size < length:
            file.cut(length)
        file.sync()
    finally:
        file.close()


def mend_files(path: Path, manifest: Manifest, whole: Iterable[Damage], known: Ids) -> None:
    """Mend those of the damaged files whose right content can be found. known: ids (m,) that the sources hold."""
    damaged = {damage.file for damage in whole}
    for expected in expected_files(manifest):
        if expected.file in damaged and not (path / expected.file).is_dir():
            header = npy.header(expected.shape, expected.dtype, manifest.header_bytes)
            found = _first(_contents(path, expected, manifest, known), expected.xxh3, expected.size)
            if found is not None:
                write_change(path, expected.file, header + found).apply(path)
    if QUARANTINE in damaged and not (path / QUARANTINE).is_dir():
        small = (path / QUARANTINE).exists() and (path / QUARANTINE).stat().st_size <= _FLIPPED_MOST
        data = (path / QUARANTINE).read_bytes() if small else b""
        found = _first(chain([b""], _flips(data)), manifest.quarantine_xxh3 or "", len(data))
        if found is not None:
            write_change(path, QUARANTINE, found).apply(path)
    flush_folder(path)


def mend_ids(path: Path, manifest: Manifest, candidates: Iterable[Ids]) -> bool:
    """Write the first of the candidates (rows,) that has the checksum of the ids; whether one had it."""
    for ids in candidates:
        data = np.ascontiguousarray(ids, "<i8").tobytes()
        if digest(data) == manifest.photo_ids_xxh3:
            write_change(path, IDS, npy.header((manifest.rows,), "<i8", manifest.header_bytes) + data).apply(path)
            flush_folder(path)
            return True
    return False


def restart_quarantine(path: Path, manifest: Manifest) -> tuple[Manifest, str]:
    """Begin `quarantine.jsonl` anew with the lines of it that are whole, for nothing else knows what stood there.

    Gives the manifest as it is now, and what was done.
    """
    kept = list(dict.fromkeys(_whole_lines(path / QUARANTINE)))
    data = b"".join(kept)
    changed = {"quarantined": len(kept), "quarantine_xxh3": digest(data)}
    steps = [write_change(path, QUARANTINE, data)]
    done = (
        f"{path / QUARANTINE}: begun anew with {counted(len(kept), 'line')} that could be read; it had "
        f"{manifest.quarantined:,}. What else it said cannot be known: ingest the same sources again, and what is "
        "still no good in them is listed again."
    )
    return _commit(path, manifest, changed, steps), done


def _whole_lines(file: Path) -> Iterator[bytes]:
    if not file.exists():
        return
    with file.open("rb") as lines:
        while line := lines.readline(_LINE_MOST):
            if is_refusal(line):
                yield line


def forget_removed(path: Path, manifest: Manifest) -> tuple[Manifest, str]:
    """Take the marks of `removed.npy` off: all photos that it marked as gone are there again.

    Gives the manifest as it is now, and what was done.
    """
    count = manifest.removed.count if manifest.removed else 0
    done = (
        f"{path / REMOVED}: forgotten. It had marked {counted(count, 'photo')} as removed, which can be found again "
        "from now on: remove once more what must not be."
    )
    return _commit(path, manifest, {"removed": None}, [], [commit.Delete(file=REMOVED)]), done


def _commit(
    path: Path, manifest: Manifest, changed: dict[str, Any], before: list[commit.Rename],
    after: Sequence[commit.Step] = (),
) -> Manifest:  # fmt: skip
    """Change the manifest, and files before and after it, in one step."""
    now = manifest.model_copy(update={"version": FORMAT_VERSION, "engine_version": VERSION, **changed})
    commit.commit(path, [*before, write_manifest(path, now), *after])
    return read_manifest(path)


def _first(candidates: Iterator[bytes], xxh3: str, size: int) -> bytes | None:
    """The first content that has the checksum, of as many as there is time for."""
    for _, data in zip(range(_BUDGET // max(size, 1000)), candidates, strict=False):
        if digest(data) == xxh3:
            return data
    return None


def _contents(path: Path, expected: Expected, manifest: Manifest, known: Ids) -> Iterator[bytes]:
    """What the array of a damaged file may have been."""
    data = _array_bytes(path / expected.file, expected.size, manifest)
    yield data
    if expected.file == IDS:
        yield from _ids(path, data, manifest, known)
    if len(data) == expected.size and 8 * len(data) ** 2 <= _BUDGET:
        yield from _flips(data)


def _array_bytes(file: Path, size: int, manifest: Manifest) -> bytes:
    """The bytes of an array after its header, up to `size`, whatever the file holds beyond them."""
    try:
        with file.open("rb") as opened:
            opened.seek(manifest.header_bytes)
            return opened.read(size)
    except OSError:
        return b""


def _ids(path: Path, data: bytes, manifest: Manifest, known: Ids) -> Iterator[bytes]:
    """What the ids may have been, by what else knows them; single flipped bits where they are out of order first."""
    part = part_of(path / IDS)
    if part.exists():  # of an ingest that was interrupted: the old ids, then the new
        yield _array_bytes(part, manifest.rows * 8, manifest)
    yield np.arange(manifest.rows, dtype="<i8").tobytes()  # as vectors are numbered that are imported
    ids = np.full(manifest.rows, -1, np.int64)
    ids[: len(data) // 8] = np.frombuffer(data[: len(data) // 8 * 8], "<i8")
    known, alone = np.unique(known), list[tuple[Ids, Ids]]()
    for photos in (known, np.setdiff1d(known, set_aside(path))):
        if len(photos) == manifest.rows:
            yield photos.astype("<i8").tobytes()
        strange = ~np.isin(ids, photos) | _repeated(ids)
        missing = np.setdiff1d(photos, ids[~strange])
        if strange.sum() == len(missing):
            yield _fitted(ids, np.flatnonzero(strange), missing)
        elif strange.sum() == 1:
            alone.append((np.flatnonzero(strange), missing))
    yield from _flips(ids.tobytes(), np.flatnonzero(_out_of_order(ids))[:16].tolist())
    for at, missing in alone:
        yield from (_fitted(ids, at, one) for one in missing[:, None])


def _repeated(ids: Ids) -> npt.NDArray[np.bool_]:
    _, which, count = np.unique(ids, return_inverse=True, return_counts=True)
    return np.asarray(count[which] > 1)


def _fitted(ids: Ids, at: Ids, values: Ids) -> bytes:
    """The ids with `values`, ascending, at these places: each where it stands in order, as rows came in ascending."""
    changed, rest, good = ids.copy(), values.tolist(), np.setdiff1d(np.arange(len(ids)), at)
    after = np.searchsorted(good, at)
    if len(at) > _FITTED_MOST:
        changed[at] = values
        return changed.tobytes()
    for place, next_good in zip(at.tolist(), after.tolist(), strict=True):
        low = int(changed[place - 1]) if place else -1
        high = int(ids[good[next_good]]) if next_good < len(good) else rest[-1] + 1
        fits = bisect(rest, low)
        if fits == len(rest) or (low < high <= rest[fits]):  # where photos were added later, the ids begin low again
            fits = 0
        changed[place] = rest.pop(fits)
    return changed.tobytes()


def set_aside(path: Path) -> Ids:
    """The ids of records that were refused, and so may be in the sources and not in the store."""
    try:
        lines = [json.loads(line) for line in (path / QUARANTINE).read_bytes().splitlines()]
        return np.array([line["photo_id"] for line in lines if line["photo_id"] is not None], np.int64)
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return np.empty(0, np.int64)


def _out_of_order(ids: Ids) -> npt.NDArray[np.bool_]:
    falls = np.diff(ids) <= 0
    return np.append(falls, False) | np.insert(falls, 0, False)


def _flips(data: bytes, words: Iterable[int] | None = None) -> Iterator[bytes]:
    """The data with each bit flipped in turn; words: of these groups of 8 bytes alone."""
    changed = bytearray(data)
    places = range(len(data)) if words is None else (8 * word + byte for word in words for byte in range(8))
    for place in places:
        for bit in range(8):
            changed[place] ^= 1 << bit
            yield bytes(changed)
            changed[place] ^= 1 << bit
