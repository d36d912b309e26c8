"""Rows of a store that are asked for their neighbours: a damaged one is named by its photo."""

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.store.store import Store


def check_finite(store: Store, layer: str, photo_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> None:
    """StoreError names the first photo whose row is not finite, which no ingest writes: the file was damaged since.

    photo_ids: (n,); vectors: (n, dim), their rows in the layer.
    """
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if not len(bad):
        return
    photo = photo_ids[bad[:1]]
    raise StoreError(
        f"{store.path}: photo {photo[0]} (row {store.rows_of(photo)[0]:,} of {layer}) holds NaN or infinity, expected "
        f"finite float32: the row is damaged. `mirsearch verify {store.path}` names all that are."
    )
