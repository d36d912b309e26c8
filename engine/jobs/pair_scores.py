"""The score of any two photos among the pairs that a search for duplicates found."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from engine.jobs.dedup import Duplicates

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


class PairScores:
    """Scores looked up by photo ids; large classes of identical photos are in the pairs by their lowest id alone."""

    def __init__(self, duplicates: "Duplicates") -> None:
        self._copies = duplicates.copies
        self._photos = np.unique(np.concatenate([duplicates.pairs.ravel(), duplicates.copies.ravel()]))
        self._keys = self._key(duplicates.pairs[:, 0], duplicates.pairs[:, 1])
        self._scores = duplicates.scores

    def of(self, a: I64, b: I64) -> F32:
        """The scores (m,) of photos a (m,) with photos b (m,); NaN where the two are no pair."""
        found = self._look_up(a, b)
        absent = np.flatnonzero(np.isnan(found))
        low_a, low_b = self.lowest(a[absent]), self.lowest(b[absent])
        found[absent] = np.where(low_a == low_b, np.float32(1), self._look_up(low_a, low_b))
        return found

    def lowest(self, photos: I64) -> I64:
        """The lowest photo id (m,) whose row has the same bytes as that of each of these photos (m,)."""
        if not len(self._copies):
            return photos
        at = np.minimum(np.searchsorted(self._copies[:, 0], photos), len(self._copies) - 1)
        return np.where(self._copies[at, 0] == photos, self._copies[at, 1], photos)

    def _key(self, a: I64, b: I64) -> I64:
        """One number for each pair of known photos, ascending as the pairs are; −1 where a photo is not known."""
        n = len(self._photos)
        if not n:
            return np.full(len(a), -1)
        low, high = np.minimum(a, b), np.maximum(a, b)
        at = [np.minimum(np.searchsorted(self._photos, side), n - 1) for side in (low, high)]
        known = (self._photos[at[0]] == low) & (self._photos[at[1]] == high)
        return np.where(known, at[0] * n + at[1], -1)

    def _look_up(self, a: I64, b: I64) -> F32:
        found = np.full(len(a), np.nan, np.float32)
        if len(self._keys):
            keys = self._key(a, b)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            here = self._keys[at] == keys
            found[here] = self._scores[at[here]]
        return found
