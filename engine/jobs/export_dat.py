"""Writing `.dat` files again from a store that holds both of their layers."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.progress import Progress, silent
from engine.store.dat import LAYERS, RECORD_BYTES, records, relative_path
from engine.store.durable import disk_errors, flush_folder, part_of
from engine.store.store import Store
from engine.store.verify import check_layer

_BLOCK = 256


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
    if os.path.lexists(out):
        raise InputError(f"--out {out}: is there already. Give the name of a new folder.")
    for layer in LAYERS:
        check_layer(store, layer, progress=progress)
    rows = store.present_rows
    with _new_folder(out) as folder:
        _write(store, rows, folder, progress)
    return DatReport(path=out, files=len(rows), bytes=len(rows) * RECORD_BYTES, seconds=time.perf_counter() - begun)


def _write(store: Store, rows: npt.NDArray[np.int64], folder: Path, progress: Progress) -> None:
    made: set[Path] = set()
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        block = records(store.layers["fc7"][part], store.layers["fc8"][part])
        for photo_id, record in zip(store.photo_ids[part].tolist(), block, strict=True):
            path = folder / relative_path(photo_id)
            if path.parent not in made:
                path.parent.mkdir(exist_ok=True)
                made.add(path.parent)
            path.write_bytes(record.tobytes())
        progress("export", start + len(part), len(rows), unit="files")


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Where to write a folder: flushed and renamed to `out` at the end, removed if that is not reached."""
    part = part_of(out)
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(part):  # not removed unasked: it may be somebody's
            raise InputError(f"{part}: an export was interrupted here. Remove it, and run the same command again.")
        part.mkdir()
        try:
            yield part
            os.sync()  # one flush of everything, not one for each of a million files
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        flush_folder(out.parent)
