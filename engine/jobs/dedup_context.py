"""What the annotations of a store say about photos that may be duplicates, where there are any."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.store.annotations.schema import FILE
from engine.store.store import Store

_TABLE, _ATTRIBUTION = "engine.store.annotations.table", "engine.store.annotations.attribution"


def annotations_of(store: Store, photo_ids: npt.NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The values of these columns for photos (m,) that are in the store, in their order; [] when it has no annotations.

    StoreError when they are damaged or of another state of the store.
    """
    if not (table := _reader(store, _TABLE)):
        return []
    rows: list[dict[str, Any]] = table.Annotations.open(store).of_rows(store.rows_of(photo_ids), columns)
    return rows


def credits_of(store: Store, photo_ids: npt.NDArray[np.int64]) -> dict[int, dict[str, str]]:
    """Whom to credit for photos (m,) of the store, by photo id: owner, licence, licence_url, url, each if known.

    StoreError when the annotations are damaged or of another state of the store.
    """
    if not (attribution := _reader(store, _ATTRIBUTION)):
        return {}
    return {photo: credit.to_dict() for photo, credit in attribution.attributions(store, photo_ids.tolist()).items()}


def _reader(store: Store, name: str) -> Any:
    """A module that reads annotations, if the store has any and this mirsearch reads them."""
    if not (store.path / FILE).exists():
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
