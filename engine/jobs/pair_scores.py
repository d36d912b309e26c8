"""The score of any two photos among the pairs that a search for duplicates found."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from engine.jobs.identical import lowest_of

if TYPE_CHECKING:
    from engine.jobs.dedup import Duplicates

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


class PairScores:
    """Scores looked up by photo ids. Identical photos have the same: pairs of their classes are looked up.

    edges: (e, 2) the pairs of classes, by their lowest photo ids, ascending.
    """

    def __init__(self, duplicates: "Duplicates") -> None:
        self._copies = duplicates.copies
        classes = np.sort(self.lowest(duplicates.pairs), axis=1)
        apart = np.flatnonzero(classes[:, 0] != classes[:, 1])
        self._photos = np.unique(classes)
        keys, first = np.unique(self._key(classes[apart, 0], classes[apart, 1]), return_index=True)
        self._keys, self._scores = keys, duplicates.scores[apart[first]]
        self.edges: I64 = classes[apart[first]]

    def of(self, a: I64, b: I64) -> F32:
        """The scores (m,) of photos a (m,) with photos b (m,); NaN where the two are no pair."""
        low_a, low_b = self.lowest(a), self.lowest(b)
        found = np.full(len(a), np.nan, np.float32)
        if len(self._keys):
            keys = self._key(low_a, low_b)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            here = self._keys[at] == keys
            found[here] = self._scores[at[here]]
        found[low_a == low_b] = 1
        return found

    def lowest(self, photos: I64) -> I64:
        """The lowest photo id of those whose rows have the same values as that of each of these photos, any shape."""
        return lowest_of(photos, self._copies)

    def _key(self, a: I64, b: I64) -> I64:
        """One number for each pair of known photos, ascending as the pairs are; −1 where a photo is not known."""
        n = len(self._photos)
        if not n:
            return np.full(len(a), -1)
        low, high = np.minimum(a, b), np.maximum(a, b)
        at = [np.minimum(np.searchsorted(self._photos, side), n - 1) for side in (low, high)]
        known = (self._photos[at[0]] == low) & (self._photos[at[1]] == high)
        return np.where(known, at[0] * n + at[1], -1)
