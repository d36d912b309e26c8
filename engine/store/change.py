"""Photos marked as gone, and brought back. Their rows stay where they are until `compact_store`."""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store import commit, npy
from engine.store.hold import held, write_change, write_manifest
from engine.store.manifest import FORMAT_VERSION, Manifest, Removed, digest
from engine.store.store import Store
from engine.version import VERSION

REMOVED = "removed.npy"


@dataclass(frozen=True, kw_only=True)
class RemoveReport:
    """changed: photos that were removed, or brought back. already: those that were so before.

    photos: how many are there now. removed: how many are marked as gone now, in all.
    """

    store: Path
    changed: int
    already: int
    photos: int
    removed: int


def remove(path: Path, photo_ids: npt.ArrayLike, *, undo: bool = False) -> RemoveReport:
    """Mark photos (m,) as gone, or with `undo` as there again; no row moves, and indices stay as good as they are.

    InputError names the first id that the store does not know; then, and when nobody would be left, nothing changes.
    """
    wanted = np.unique(np.atleast_1d(np.asarray(photo_ids, np.int64)))
    with held(path) as manifest:
        store = Store.open(path)
        rows = _rows_of(store, wanted)
        gone = np.zeros(len(store), np.bool_) if store.removed is None else store.removed.copy()
        changed = int((gone[rows] == undo).sum())
        gone[rows] = not undo
        left = len(store) - int(gone.sum())
        if changed and not left:
            raise InputError(
                f"{path}: none of its {store.photos:,} photos would be left, so nothing was changed. Delete the folder."
            )
        if changed:
            _write(path, manifest, np.flatnonzero(gone))
    return RemoveReport(
        store=path, changed=changed, already=len(wanted) - changed, photos=left, removed=len(gone) - left
    )


def read_id_list(path: Path) -> npt.NDArray[np.int64]:
    """Photo ids (m,) from a `.npy` array of integers, or from text: one a line, what follows a # is not read.

    InputError for anything else, and where there is none: a list that came out empty is rather a mistake.
    """
    try:
        ids = _array(path) if path.suffix.lower() == ".npy" else _text(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Expected a list of photo ids.") from error
    except InputError:
        raise
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: is no list of photo ids: {error}") from error
    if not len(ids):
        raise InputError(f"{path}: holds no photo id. Expected one a line, or a .npy of integers.")
    return ids


def _array(path: Path) -> npt.NDArray[np.int64]:
    ids = np.load(path, mmap_mode="r", allow_pickle=False)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"{path}: {ids.dtype} of shape {ids.shape}, expected integers (n,)")
    if len(ids) and int(ids.max()) >= 1 << 63:  # of uint64
        raise InputError(f"{path}: {ids.max()} is not a photo id. Expected numbers below 2^63.")
    return np.array(ids, np.int64)


def _text(path: Path) -> npt.NDArray[np.int64]:
    with path.open("rb") as file:
        return np.fromiter(_numbers(path, file), np.int64)


def _numbers(path: Path, lines: Iterable[bytes]) -> Iterator[int]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)  # as editors on Windows write it
        text = line.split(b"#", 1)[0].strip()
        if text and not (text.isdigit() and len(text) <= 18):
            shown = ascii(text[:40].decode(errors="replace"))
            raise InputError(f"{path}, line {number}: {shown} is not a photo id. Expected one whole number a line.")
        if text:
            yield int(text)


def _rows_of(store: Store, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows (m,) of photo ids (m,) ascending, those of removed photos too."""
    known = np.isin(wanted, store.photo_ids)
    if not known.all():
        missing = wanted[~known]
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        raise InputError(f"photo {missing[0]}{more}: not in {store.path}. Nothing was changed.")
    rows = np.flatnonzero(np.isin(store.photo_ids, wanted))
    return rows[np.argsort(store.photo_ids[rows], kind="stable")]


def _write(path: Path, manifest: Manifest, gone: npt.NDArray[np.int64]) -> None:
    """Make these rows the removed ones. The state stays: what an index was built from is all there."""
    data = gone.astype("<i8").tobytes()
    removed = Removed(count=len(gone), xxh3=digest(data)) if len(gone) else None
    changed = {"version": FORMAT_VERSION, "engine_version": VERSION, "removed": removed}
    steps: list[commit.Step] = []
    if removed:
        steps.append(write_change(path, REMOVED, npy.header(gone.shape, "<i8", manifest.header_bytes) + data))
    steps.append(write_manifest(path, manifest.model_copy(update=changed)))
    commit.commit(path, steps if removed else [*steps, commit.Delete(file=REMOVED)])
