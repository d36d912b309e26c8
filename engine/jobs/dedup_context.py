"""What the annotations of a store say about photos that may be duplicates, where there are any."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.annotations.attribution import attributions
from engine.store.annotations.table import Annotations
from engine.store.store import Store


def annotations_of(store: Store, photo_ids: npt.NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The values of these columns for photos (m,) that are in the store, in their order; [] when it has no annotations.

    StoreError when they are damaged or of another state of the store.
    """
    if not Annotations.exists(store):
        return []
    return Annotations.open(store).of_rows(store.rows_of(photo_ids), columns)


def credits_of(store: Store, photo_ids: npt.NDArray[np.int64]) -> dict[int, dict[str, str]]:
    """Whom to credit for photos (m,) of the store, by photo id: owner, licence, licence_url, url, each if known.

    StoreError when the annotations are damaged or of another state of the store.
    """
    return {photo: credit.to_dict() for photo, credit in attributions(store, photo_ids.tolist()).items()}
