"""What one search asks of an index: how many candidates there are, and how many each closer look leaves."""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engine.index.filter import Filter

# A part of the rows whose codes are all compared: 256 bytes for each of them, where the lists of a search for so few
# take 64 bytes for each row of many times as many.
SMALL_PART = 0.05
MANY_DIMENSIONS = 4096  # 4-bit codes of so many lose no more of the nearest than 8-bit ones


def kept(k: int, rerank: int, packed: int | None) -> tuple[int, int]:
    """How many of `rerank` candidates are compared by the codes of the raw rows, and how many of these exactly.

    An eighth and a sixteenth at least, so that more candidates always mean more exact comparisons too. Exactly some
    more than k, since codes may put the last of them in another order. packed: the dimensions of 4-bit codes, or None:
    their error averages out over many dimensions; of few an exact comparison costs little.
    """
    margin = max(k // 5, 2)
    if packed is not None:
        margin = math.ceil(margin * max(MANY_DIMENSIONS / packed, 1.0) ** 0.5)
    return max(5 * k // 2, k + 15, rerank // 8), max(k + margin, rerank // 16)


@dataclass(frozen=True)
class Asked:
    """What one search is: neighbours, lists, candidates, and the rows that may be found (None: any)."""

    k: int
    probes: int
    rerank: int
    most: int  # lists, where so many hold too few rows
    within: Filter | None

    def all_of_them(self, rows: int) -> bool:
        """Whether every row that may be found is a candidate."""
        return self.within is not None and self.within.count <= max(SMALL_PART * rows, self.rerank)

    def width(self, rows: int) -> int:
        """Candidates of one query."""
        return max(self.within.count if self.within is not None and self.all_of_them(rows) else self.rerank, 1)


def of_size_one(xp: ModuleType, reduced: Any) -> Any:
    """Reduced queries (q, d) float32 by their largest magnitude, which changes no order of inner products.

    To a query of zeros all rows are equally close, and FAISS answers it with none: any direction stands for it.
    """
    largest = xp.abs(reduced).max(axis=1, keepdims=True)
    sized = reduced / xp.where(largest > 0, largest, xp.float32(1))
    sized[:, 0] = xp.where(largest[:, 0] == 0, xp.float32(1), sized[:, 0])
    return sized
