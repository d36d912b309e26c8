"""Rows marked as removed, as the store's format says it: `removed.npy` and its entry in the manifest."""

import numpy as np
import numpy.typing as npt

from engine.store import npy
from engine.store.manifest import Removed, digest, write_document
from engine.store.store import Store


def mark_removed(store: Store, rows: npt.ArrayLike) -> Store:
    """The store again, with just these rows (m,) marked as gone."""
    gone = np.unique(np.asarray(rows, np.int64))
    manifest = store.manifest.model_copy(update={"removed": None})
    if len(gone):
        header = npy.header(gone.shape, "<i8", manifest.header_bytes)
        (store.path / "removed.npy").write_bytes(header + gone.tobytes())
        manifest = manifest.model_copy(update={"removed": Removed(count=len(gone), xxh3=digest(gone))})
    write_document(store.path / "manifest.json", manifest.model_dump(mode="json"))
    return Store.open(store.path)
