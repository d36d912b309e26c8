"""A store: one float32 array per layer, one id per row, readable with NumPy alone."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, StoreError
from engine.store import npy
from engine.store.commit import NAME as COMMIT
from engine.store.commit import settle_store
from engine.store.dat import LAYERS
from engine.store.journal import NAME as JOURNAL
from engine.store.manifest import Manifest, digest, read_manifest

# How often a store may be changed while it is being opened.
_LOOKS = 10


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries that came with a layer: queries (q, dim) float32; neighbors (q, k) int64 photo ids, nearest first.

    current: whether the store still holds just the photos that the neighbours were found among.
    """

    queries: npt.NDArray[np.float32]
    neighbors: npt.NDArray[np.int64]
    metric: str
    current: bool


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store opened for reading, as it was at one moment, whatever is changed afterwards, but for one thing.

    Rows that are added, marks that are set and a `compact` are seen by who opens the store again; until then the files
    that a `compact` took away keep their room on the disk. `ingest --replace` and `verify --repair` write over rows in
    place: of a photo whose row they change a reader finds the old content, the new, or for a moment a part of each, and
    the layers one after the other. It never finds another photo's: no row moves.

    photo_ids: (n,) int64, unique; row i of every layer is photo photo_ids[i].
    layers: read-only (n, dim) float32 maps of the files, by name.
    removed: (n,) bool, the rows whose photos are marked as gone; None when there are none.
    """

    path: Path
    manifest: Manifest
    photo_ids: npt.NDArray[np.int64]
    layers: Mapping[str, npt.NDArray[np.float32]]
    removed: npt.NDArray[np.bool_] | None = None

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store; StoreError when it is absent, unfinished, damaged or of a newer format.

        The manifest, the ids and every header and length are checked; the rows themselves by `mirsearch verify`.
        """
        path = Path(path)
        for _ in range(_LOOKS):
            settle_store(path)
            seen = _version(path)
            manifest = read_manifest(path)
            try:
                store = cls._open(path, manifest)
            except StoreError:
                if seen and _version(path) == seen:
                    raise
            else:
                if seen and _version(path) == seen:
                    return store
            # A writer has finished meanwhile: what is there now is another state.
        raise StoreError(f"{path}: was changed whenever it was looked at. Wait for the other mirsearch to end.")

    @classmethod
    def _open(cls, path: Path, manifest: Manifest) -> Self:
        growing = (path / JOURNAL).exists()
        size = manifest.header_bytes
        try:
            ids = np.asarray(npy.open_rows(path / "photo_ids.npy", (manifest.rows,), "<i8", size), np.int64)
            if digest(np.ascontiguousarray(ids)) != manifest.photo_ids_xxh3:
                raise StoreError(f"{path / 'photo_ids.npy'}: does not match its checksum.")
            layers: dict[str, Any] = {
                name: npy.open_rows(path / layer.file, (manifest.rows, layer.dim), "<f4", size, growing=growing)
                for name, layer in manifest.layers.items()
            }
        except StoreError as error:
            raise StoreError(f"{error} {_mend(path, manifest)}") from error
        return cls(path=path, manifest=manifest, photo_ids=ids, layers=layers, removed=removed_rows(path, manifest))

    def __len__(self) -> int:
        """How many rows, those of removed photos among them."""
        return self.manifest.rows

    @property
    def photos(self) -> int:
        """How many photos are not removed."""
        return self.manifest.photos

    @cached_property
    def present_rows(self) -> npt.NDArray[np.int64]:
        """The rows (photos,) of the photos that are not removed, ascending."""
        return np.arange(len(self)) if self.removed is None else np.flatnonzero(~self.removed)

    def __getattr__(self, name: str) -> npt.NDArray[np.float32]:
        """`store.fc7` for `store.layers["fc7"]`."""
        layers = self.__dict__.get("layers", {})
        if name in layers:
            rows: npt.NDArray[np.float32] = layers[name]
            return rows
        raise AttributeError(name)

    def layer(self, name: str) -> npt.NDArray[np.float32]:
        """The rows (n, dim) of a layer; InputError names the layers that there are."""
        if name not in self.layers:
            raise InputError(f"layer {name!r}: this store has {', '.join(sorted(self.layers))}")
        return self.layers[name]

    @cached_property
    def _by_id(self) -> npt.NDArray[np.int64]:
        return np.argsort(self.photo_ids, kind="stable")

    def rows_of(self, photo_ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Row numbers (m,) of photo ids (m,); InputError names the first id that is not here."""
        wanted = np.atleast_1d(np.asarray(photo_ids, np.int64))
        if not len(self):
            raise InputError(f"{self.path}: the store is empty")
        at = np.minimum(np.searchsorted(self.photo_ids, wanted, sorter=self._by_id), len(self) - 1)
        rows = self._by_id[at]
        missing = wanted[self.photo_ids[rows] != wanted]
        if len(missing):
            more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            raise InputError(f"photo {missing[0]}{more}: not in {self.path}, which holds {self.photos:,} photos")
        if self.removed is not None and self.removed[rows].any():
            gone = wanted[self.removed[rows]]
            more = f" (and {len(gone) - 1:,} more)" if len(gone) > 1 else ""
            raise InputError(f"photo {gone[0]}{more}: was removed from {self.path}")
        return rows

    def query_set(self, layer: str) -> "Queries | None":
        """The queries that were imported with a layer, and their true neighbours; None when none were.

        StoreError when a file of them is damaged.
        """
        known = self.manifest.query_sets.get(layer)
        if known is None:
            return None
        size, dim = self.manifest.header_bytes, self.manifest.layers[layer].dim
        shapes = {known.queries: ((known.count, dim), "<f4"), known.neighbors: ((known.count, known.k), "<i8")}
        arrays: dict[str, Any] = {
            file: npy.open_rows(self.path / file, shape, dtype, size) for file, (shape, dtype) in shapes.items()
        }
        for file, array in arrays.items():
            if digest(np.ascontiguousarray(array)) != known.xxh3.get(file):
                raise StoreError(f"{self.path / file}: does not match its checksum. Restore it, or import again.")
        return Queries(
            queries=arrays[known.queries], neighbors=arrays[known.neighbors], metric=known.metric,
            current=known.state == self.manifest.state and self.removed is None,
        )  # fmt: skip

    def blocks(self, layer: str, rows: int = 4096) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The rows of a layer in order, as (first row, (≤ rows, dim) float32 view)."""
        data = self.layer(layer)
        for start in range(0, len(self), rows):
            yield start, data[start : start + rows]


def _version(path: Path) -> tuple[int, int, bool] | None:
    """What tells one state of a store from the next, growing ones too; None while a change is being made."""
    growing = (path / JOURNAL).exists()
    try:
        status = (path / "manifest.json").stat()
    except OSError:
        return (0, 0, growing)
    return None if (path / COMMIT).exists() else (status.st_ino, status.st_mtime_ns, growing)


def _mend(store: Path, manifest: Manifest | None = None) -> str:
    """What to do about a damaged file; manifest: if it is one that is made anew from the `.dat` files."""
    from_sources = manifest is not None and manifest.layers.keys() == LAYERS.keys()
    if from_sources:
        return f"`mirsearch verify {shlex.quote(str(store))} --repair SOURCE...` mends it, from what was ingested."
    return f"What can be mended, and how: `mirsearch verify {shlex.quote(str(store))}`."


def removed_rows(path: Path, manifest: Manifest) -> npt.NDArray[np.bool_] | None:
    """Which rows (n,) of a store are marked as gone; None when none are. StoreError when the marks are damaged."""
    if manifest.removed is None:
        return None
    file = path / "removed.npy"
    rows = np.ascontiguousarray(npy.open_rows(file, (manifest.removed.count,), "<i8", manifest.header_bytes), np.int64)
    if digest(rows) != manifest.removed.xxh3:
        raise StoreError(f"{file}: does not match its checksum. {_mend(path)}")
    if rows.min() < 0 or rows.max() >= manifest.rows or not (np.diff(rows) > 0).all():
        raise StoreError(f"{file}: expected ascending row numbers below {manifest.rows:,}. {_mend(path)}")
    mask = np.zeros(manifest.rows, np.bool_)
    mask[rows] = True
    return mask
