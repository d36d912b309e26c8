"""Which rows an answer may hold: the photos that a user asks for, less those removed from the store."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Rows of a store that may be in an answer.

    mask: (n,) bool. unknown: how many of the photo ids it was made of are not in the store.
    """

    mask: npt.NDArray[np.bool_]
    unknown: int = 0

    @classmethod
    def of_ids(
        cls, store: Store, *, within: npt.ArrayLike | None = None, without: npt.ArrayLike | None = None,
        where: npt.NDArray[np.bool_] | None = None,
    ) -> Self:  # fmt: skip
        """The rows of the photos `within`, or of all, but not those of the photos `without`: (m,) ids in any order.

        where: (n,) rows that alone may be found, such as `rows_where` gives. Ids that the store does not have are
        counted and passed over; InputError when no photo at all is left.
        """
        mask, unknown = np.ones(len(store), np.bool_) if where is None else np.array(where, np.bool_), 0
        if mask.shape != (len(store),):
            raise InputError(f"{store.path}: a mask of shape {mask.shape}, expected one of {len(store):,} rows")
        for ids, chosen in ((within, True), (without, False)):
            if ids is None:
                continue
            asked = np.unique(np.asarray(ids, np.int64))
            here = np.isin(store.photo_ids, asked, assume_unique=True)
            unknown += len(asked) - int(np.count_nonzero(here))
            mask &= here if chosen else ~here
        if store.removed is not None:
            mask &= ~store.removed
        if not mask.any():
            what = "both asked for and in the store" if where is None else "in the store and fits all that is asked for"
            raise InputError(f"{store.path}: no photo is left to be found: none is {what}")
        return cls(mask=mask, unknown=unknown)

    @classmethod
    def of_store(cls, store: Store) -> Self | None:
        """What is left when removed photos are out; None when that is all."""
        return None if store.removed is None else cls(mask=~store.removed)

    @cached_property
    def count(self) -> int:
        """How many rows."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Their numbers (count,), ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The mask as FAISS takes it: row i is bit i % 8 of byte i // 8."""
        return np.packbits(self.mask, bitorder="little")
