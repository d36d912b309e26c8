"""All that a store knows of one photo."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import InputError, StoreError
from engine.store.annotations.attribution import Attribution
from engine.store.annotations.fields import described, plain_value
from engine.store.annotations.table import Annotations
from engine.store.class_names import Guess, classes_of, has_classes
from engine.store.dat import relative_path
from engine.store.store import Store


@dataclass(frozen=True, kw_only=True)
class PhotoFacts:
    """A photo of a store: its row, whether it was removed, and what is said of it.

    layers: length and share of zeros of its vector in each layer. classes: the five most likely, () without fc8.
    annotations: a value for each column, None where no file says anything of it. missing: why there are no
    annotations at all; "" if there are.
    """

    photo_id: int
    row: int
    removed: bool
    layers: dict[str, tuple[float, float]]
    classes: tuple[Guess, ...]
    annotations: dict[str, Any] | None
    missing: str

    @property
    def attribution(self) -> Attribution:
        """Whom to credit for it."""
        return Attribution.of_row(self.annotations or {})

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types."""
        return {
            "photo_id": self.photo_id,
            "row": self.row,
            "removed": self.removed,
            "file": relative_path(self.photo_id),
            "layers": {name: {"length": length, "zeros": zeros} for name, (length, zeros) in self.layers.items()},
            "classes": described(self.classes),
            "annotations": plain_value(self.annotations),
            "attribution": self.attribution.to_dict(),
            **({"note": self.missing} if self.missing else {}),
        }


def photo_facts(store: Store, photo_id: int) -> PhotoFacts:
    """What a store knows of a photo, a removed one too; InputError where it never had it.

    Annotations that are damaged or of another state of the store are left out, and `missing` says why.
    """
    at = np.flatnonzero(store.photo_ids == photo_id)
    if not len(at):
        raise InputError(f"photo {photo_id}: not in {store.path}, which holds {store.photos:,} photos")
    row = int(at[0])
    vectors = {name: np.asarray(data[row], np.float64) for name, data in store.layers.items()}
    known, missing = None, ""
    try:
        (found,) = Annotations.open(store).of_rows(at)
        known = found if found["annotated"] else None
    except (InputError, StoreError) as error:
        missing = str(error)
    return PhotoFacts(
        photo_id=photo_id, row=row, removed=bool(store.removed is not None and store.removed[row]),
        layers={name: (float(np.linalg.norm(each)), float(np.mean(each == 0))) for name, each in vectors.items()},
        classes=tuple(classes_of(store, at)[0]) if has_classes(store) else (), annotations=known, missing=missing,
    )  # fmt: skip
