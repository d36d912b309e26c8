"""A store: one float32 array per layer, one id per row, readable with NumPy alone."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, StoreError
from engine.store import npy
from engine.store.manifest import Manifest, digest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Store:
    """A store opened for reading.

    photo_ids: (n,) int64, unique; row i of every layer is photo photo_ids[i].
    layers: read-only (n, dim) float32 maps of the files, by name.
    """

    path: Path
    manifest: Manifest
    photo_ids: npt.NDArray[np.int64]
    layers: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a store; StoreError when it is absent, unfinished, damaged or of a newer format.

        The manifest, the ids and every header and length are checked; the rows themselves by `mirsearch verify`.
        """
        path = Path(path)
        manifest = read_manifest(path)
        ids = np.asarray(npy.open_rows(path / "photo_ids.npy", (manifest.rows,), "<i8"), np.int64)
        if digest(np.ascontiguousarray(ids)) != manifest.photo_ids_xxh3:
            raise StoreError(f"{path / 'photo_ids.npy'}: does not match its checksum. Restore it, or ingest again.")
        layers: dict[str, Any] = {
            name: npy.open_rows(path / layer.file, (manifest.rows, layer.dim), "<f4")
            for name, layer in manifest.layers.items()
        }
        return cls(path=path, manifest=manifest, photo_ids=ids, layers=layers)

    def __len__(self) -> int:
        """How many photos."""
        return self.manifest.rows

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
            raise InputError(f"photo {missing[0]}{more}: not in {self.path}, which holds {len(self):,} photos")
        return rows

    def blocks(self, layer: str, rows: int = 4096) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The rows of a layer in order, as (first row, (≤ rows, dim) float32 view)."""
        data = self.layer(layer)
        for start in range(0, len(self), rows):
            yield start, data[start : start + rows]
