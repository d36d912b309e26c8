"""Making a store from a file of vectors, or adding such a file to one; queries and their truth come along."""

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import DiskFullError, InputError
from engine.progress import Progress, silent
from engine.store.durable import disk_errors
from engine.store.formats.by_suffix import HDF5, open_vectors
from engine.store.formats.hdf5 import read_queries
from engine.store.formats.ids import check_ids, read_ids
from engine.store.formats.parquet import read_parquet_ids
from engine.store.formats.vectors import STORE_BLOCK_ROWS, Vectors
from engine.store.store import Store
from engine.store.writer import StoreWriter
from engine.words import counted, sized


@dataclass(frozen=True, kw_only=True)
class ImportSpec:
    """Which vectors, and what they become.

    file: in any format of engine.store.formats. layer: its name in the store. ids: a file with the photo id of each
    row; id_column: a column of the Parquet file with them; neither: 0, 1, …, or what follows the largest id of the
    store. key, column: which array or column of the file. lossy: round float64 to float32. append: to a store that is
    there.
    """

    file: Path
    layer: str
    ids: Path | None = None
    id_column: str | None = None
    key: str | None = None
    column: str | None = None
    lossy: bool = False
    append: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did. rows: that were added; photos: in the store now. warnings: what was left out, and why."""

    path: Path
    layer: str
    rows: int
    dim: int
    dtype: str
    photos: int
    queries: int
    truth: str
    seconds: float
    warnings: list[str] = field(default_factory=list)


def import_vectors(spec: ImportSpec, store: Path, *, progress: Progress = silent) -> ImportReport:
    """Read all vectors of a file into a new store, or append them, in the order of the file.

    Nothing is left behind unless all went well: a file of vectors is read in one go, and again from its beginning.
    DiskFullError says before the work, where it can be known, how much room is missing. InputError for a file that is
    not what its suffix says, for NaN, infinity and numbers that float32 cannot hold (the first row is named), and for
    ids that are not unique.
    """
    begun = time.perf_counter()
    if not spec.append:
        check_layer_name(spec.layer)
    vectors = open_vectors(spec.file, key=spec.key, column=spec.column)
    known = _known_ids(spec, store) if spec.append else np.empty(0, np.int64)
    ids = _photo_ids(spec, vectors, known)
    if spec.append:
        _check_new(ids, known, spec)
    needed = vectors.rows * vectors.dim * 4 + (len(known) + vectors.rows) * known.itemsize
    _check_room(store, vectors, needed)
    with StoreWriter(store, {spec.layer: vectors.dim}, append=spec.append, progress=progress) as writer:
        try:
            if spec.append and writer.rows != len(known):
                raise InputError(f"{store}: grew while {spec.file} was looked at. Run the same command again.")
            with disk_errors(store):
                _copy(writer, vectors, ids, spec, progress)
            warnings, queries, truth = _query_set(writer, vectors, ids, spec)
            manifest = writer.finish([str(spec.file)])
        except DiskFullError as error:
            writer.discard()
            raise DiskFullError(
                f"{error} It needs at least {sized(needed)}; what was begun was taken away again."
            ) from error
        except BaseException:
            writer.discard()
            raise
    return ImportReport(
        path=store, layer=spec.layer, rows=vectors.rows, dim=vectors.dim, dtype=str(vectors.dtype),
        photos=manifest.photos, queries=queries, truth=truth, seconds=time.perf_counter() - begun, warnings=warnings,
    )  # fmt: skip


def check_layer_name(name: str) -> None:
    """InputError unless a name can be that of a layer, and so of its file, beside the other files of a store."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        shown = name if len(name) <= 64 else f"{name[:61]}..."
        raise InputError(f"--layer {shown!r}: expected 1 to 64 letters (a to z), digits, - and _, no - or _ in front")
    # Some file systems do not tell capitals from small letters.
    if name.lower() in _TAKEN or name.lower().startswith(_TAKEN_PREFIXES):
        raise InputError(f"--layer {name}: a store has a file or word of this name. Choose another, such as my-{name}.")


# Files of a store, or of a change of it, without their suffix; `build --layer all` means every layer; and device names
# that are no files on Windows.
_TAKEN = (
    *("photo_ids", "removed", "manifest", "quarantine", "annotations", "commit", "ingest", "indices", "bench", "all"),
    *("con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))),
)
_TAKEN_PREFIXES = ("queries-", "neighbors-", "distances-")


def _check_room(store: Path, vectors: Vectors, needed: int) -> None:
    """DiskFullError where the disk that the store is on, or will be, has too little room for its rows and ids."""
    folder = next(place for place in (store.absolute(), *store.absolute().parents) if place.is_dir())
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        what = f"{counted(vectors.rows, 'vector')} of {counted(vectors.dim, 'dimension')}"
        raise DiskFullError(
            f"{store}: {what} need {sized(needed)}, {sized(free)} are free. Make room and run it again, or name a "
            "folder on another disk with --store."
        )


def _known_ids(spec: ImportSpec, path: Path) -> npt.NDArray[np.int64]:
    """The ids of the store that is appended to, which must have this very layer and no other."""
    store = Store.open(path)
    if list(store.layers) != [spec.layer]:
        raise InputError(
            f"--append: {path} has the layers {', '.join(store.layers)}. Rows of one layer alone can be added only to "
            f"a store that has none but {spec.layer}."
        )
    return store.photo_ids


def _photo_ids(spec: ImportSpec, vectors: Vectors, known: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    if spec.ids is not None and spec.id_column is not None:
        raise InputError("--ids beside --id-column: choose one")
    if spec.ids is not None:
        return read_ids(spec.ids, vectors.rows)
    if spec.id_column is None:
        first = int(known.max()) + 1 if len(known) else 0
        if first + vectors.rows > 1 << 63:
            raise InputError(f"--append: no ids are left after photo {first - 1}. Give the new ones with --ids.")
        return np.arange(first, first + vectors.rows, dtype=np.int64)
    if spec.file.suffix.lower() != ".parquet":
        raise InputError(f"--id-column {spec.id_column}: {spec.file} is no Parquet file. Give the ids with --ids FILE.")
    ids = read_parquet_ids(spec.file, spec.id_column)
    return check_ids(ids, vectors.rows, f"{spec.file}, column {spec.id_column}")


def _check_new(ids: npt.NDArray[np.int64], known: npt.NDArray[np.int64], spec: ImportSpec) -> None:
    again = np.isin(ids, known)
    if again.any():
        row = int(np.argmax(again))
        raise InputError(f"{spec.ids or spec.file}: row {row:,} is photo {ids[row]}, which the store has already")


def _copy(
    writer: StoreWriter, vectors: Vectors, ids: npt.NDArray[np.int64], spec: ImportSpec, progress: Progress
) -> None:
    done = 0
    for block in vectors.blocks(lossy=spec.lossy):
        for start in range(0, len(block), STORE_BLOCK_ROWS):
            rows = block[start : start + STORE_BLOCK_ROWS]
            writer.write(writer.reserve(len(rows)), ids[done : done + len(rows)], {spec.layer: rows})
            done += len(rows)
        progress("import", done, vectors.rows)


def _query_set(
    writer: StoreWriter, vectors: Vectors, ids: npt.NDArray[np.int64], spec: ImportSpec
) -> tuple[list[str], int, str]:
    """Keep the queries of an HDF5 file: (what to warn of, how many were kept, their metric)."""
    if spec.file.suffix.lower() not in HDF5:
        return [], 0, ""
    if spec.append or spec.key not in (None, "train"):
        why = "it is of these rows alone" if spec.append else f"it is of train, not of {spec.key}"
        return [f"{spec.file}: its ground truth was left out: {why}"], 0, ""
    found = read_queries(spec.file, vectors, lossy=spec.lossy)
    if isinstance(found, str):
        return [f"{spec.file}: no ground truth was taken in: {found}"], 0, ""
    writer.query_set(spec.layer, found.queries, ids[found.neighbors], found.distances, found.metric)
    return [], len(found.queries), found.metric
