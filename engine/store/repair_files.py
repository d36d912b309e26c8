"""The small files of a store and the shapes of its row files, mended where a checksum proves the result."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.store import journal, npy
from engine.store.durable import part_of, publish
from engine.store.manifest import Manifest, digest
from engine.store.publish import QUARANTINE
from engine.store.rows_file import RowsFile
from engine.store.verify import IDS, Damage, Expected, expected_files

Ids = npt.NDArray[np.int64]
# As many bytes are summed at most to try one thing after the other: some seconds.
_BUDGET = 20_000_000_000


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
                _write(path / expected.file, header + found)
    if QUARANTINE in damaged and not (path / QUARANTINE).is_dir():
        data = (path / QUARANTINE).read_bytes() if (path / QUARANTINE).exists() else b""
        found = _first(iter((b"", *_flips(data))), manifest.quarantine_xxh3 or "", len(data))
        if found is not None:
            _write(path / QUARANTINE, found)


def _first(candidates: Iterator[bytes], xxh3: str, size: int) -> bytes | None:
    """The first content that has the checksum, of as many as there is time for."""
    for _, data in zip(range(_BUDGET // max(size, 1000)), candidates, strict=False):
        if digest(data) == xxh3:
            return data
    return None


def _write(file: Path, data: bytes) -> None:
    part_of(file).write_bytes(data)
    publish(file)


def _contents(path: Path, expected: Expected, manifest: Manifest, known: Ids) -> Iterator[bytes]:
    """What the array of a damaged file may have been."""
    try:
        data = (path / expected.file).read_bytes()[manifest.header_bytes :][: expected.size]
    except OSError:
        data = b""
    yield data
    if expected.file == IDS:
        yield from _ids(path, data, manifest, known)
    if len(data) == expected.size:
        yield from _flips(data)


def _ids(path: Path, data: bytes, manifest: Manifest, known: Ids) -> Iterator[bytes]:
    """What the ids may have been, by what else knows them; single flipped bits where they are out of order first."""
    part = part_of(path / IDS)
    if part.exists():  # of an ingest that was interrupted: the old ids, then the new
        yield part.read_bytes()[manifest.header_bytes :][: manifest.rows * 8]
    known = np.unique(known)
    if len(known) == manifest.rows:
        yield known.astype("<i8").tobytes()
    if len(data) != manifest.rows * 8:
        return
    ids = np.frombuffer(data, "<i8")
    yield from _flips(data, np.flatnonzero(_out_of_order(ids)).tolist())
    strange = np.flatnonzero(~np.isin(ids, known))
    missing = np.setdiff1d(known, ids)
    if len(strange) == len(missing):
        yield _with(ids, strange, missing)
    if len(strange) == 1:
        yield from (_with(ids, strange, one) for one in missing)


def _with(ids: Ids, at: Ids, values: npt.ArrayLike) -> bytes:
    changed = ids.copy()
    changed[at] = values
    return changed.tobytes()


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
