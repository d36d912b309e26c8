"""What a search gives."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.store.store import Store


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The neighbours of each query, best first; absent = −1 and −inf.

    photo_ids: (n, k) int64. scores: (n, k) float32, higher is better: cosine, inner product, or minus the squared
    L2 distance; always of the raw float32 rows.
    """

    photo_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]

    @classmethod
    def of_rows(cls, store: Store, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> Self:
        """The result for row numbers (n, k), −1 = absent."""
        if rows.size and rows.min() >= 0:
            return cls(photo_ids=store.photo_ids[rows], scores=scores)
        ids = np.where(rows >= 0, store.photo_ids[np.maximum(rows, 0)] if len(store) else -1, -1)
        return cls(photo_ids=ids, scores=scores)

    def to(self, move: Callable[[Any], Any]) -> Self:
        """The same result, its arrays moved."""
        return replace(self, photo_ids=move(self.photo_ids), scores=move(self.scores))

    def __len__(self) -> int:
        """How many queries."""
        return len(self.photo_ids)
