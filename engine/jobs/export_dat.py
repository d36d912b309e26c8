"""Writing `.dat` files again from a store that holds both of their layers."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from engine.progress import Progress, silent
from engine.store.dat import LAYERS, RECORD_BYTES, records, relative_path
from engine.store.durable import disk_errors, flush_folder, part_of
from engine.store.formats.from_store import checked_rows
from engine.store.formats.room import check_room, full_disk
from engine.store.outside import check_outside
from engine.store.store import Store

_BLOCK = 256
_DISK_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class DatReport:
    """What was written: files below a folder, their bytes, and the time it took."""

    path: Path
    files: int
    bytes: int
    seconds: float


def export_dat(store: Store, out: Path, *, progress: Progress = silent) -> DatReport:
    """Write the `.dat` file of every photo below a new folder, `OUT/10/103169.dat`, as the publisher does.

    The folder has its name when all files are there and flushed. InputError for a store without fc7 and fc8, for a
    folder that exists, and for one that an export which was killed left unfinished.
    """
    begun = time.perf_counter()
    dims = {name: layer.shape[1] for name, layer in store.layers.items() if name in LAYERS}
    if dims != LAYERS:
        expected = " and ".join(f"{name} ({dim:,} dimensions)" for name, dim in LAYERS.items())
        found = ", ".join(f"{name} ({layer.shape[1]:,})" for name, layer in store.layers.items())
        raise InputError(f"--format dat: .dat files hold {expected}; {store.path} has {found}")
    if not store.photos:
        raise InputError(f"{store.path}: holds no photos, there is nothing to export")
    check_outside(store.path, out)
    if os.path.lexists(out):
        raise InputError(f"--out {out}: is there already. Give the name of a new folder.")
    # A file takes whole blocks of 4 KiB on most disks.
    needed = store.photos * -(-RECORD_BYTES // _DISK_BLOCK) * _DISK_BLOCK
    check_room(out, needed)
    with _new_folder(out, needed) as folder:
        files = _write(store, folder, progress)
    return DatReport(path=out, files=files, bytes=files * RECORD_BYTES, seconds=time.perf_counter() - begun)


def _write(store: Store, folder: Path, progress: Progress) -> int:
    """Write the files of all photos; how many."""
    made: set[Path] = set()
    done = 0
    blocks = zip(checked_rows(store, "fc7", _BLOCK), checked_rows(store, "fc8", _BLOCK), strict=True)
    for (start, fc7), (_, fc8) in blocks:
        ids = store.photo_ids[start : start + len(fc7)]
        if store.removed is not None:
            here = ~store.removed[start : start + len(fc7)]
            ids, fc7, fc8 = ids[here], fc7[here], fc8[here]
        for photo_id, record in zip(ids.tolist(), records(fc7, fc8), strict=True):
            path = folder / relative_path(photo_id)
            if path.parent not in made:
                path.parent.mkdir(exist_ok=True)
                made.add(path.parent)
            path.write_bytes(record.tobytes())
        done += len(ids)
        progress("export", done, store.photos, unit="files")
    return done


@contextmanager
def _new_folder(out: Path, needed: int) -> Iterator[Path]:
    """Where to write a folder: flushed and renamed to `out` at the end, removed if that is not reached."""
    part = part_of(out)
    with disk_errors(out.parent), full_disk(out, needed):
        out.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(part):  # not removed unasked: it may be somebody's
            raise InputError(
                f"{part}: is there: an export is under way, or was interrupted here. If it was, remove this folder and "
                "run the same command again."
            )
        part.mkdir()
        try:
            yield part
            os.sync()  # one flush of everything, not one for each of a million files
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        flush_folder(out.parent)
