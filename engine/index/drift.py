"""How well an index that grew describes the rows that it did not learn from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq
from engine.index.reduce import Reduction, gather, sample_rows
from kernels import Kernels

SAMPLE = 2048
FEWEST = 256  # of fewer rows the figures are mostly chance
# How many times the old rows' figure the new rows' may be, and how many times the rows of its last build an index may
# hold, whose number of lists was chosen for those: then a full build is recommended.
MOST_ERROR, MOST_CROWDING, MOST_GROWTH = 1.2, 2.0, 4.0

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Drift:
    """New rows against those before them; each figure is a quotient, 1 where they are alike.

    reduction: share of the squared length that the axes lose. lists: squared distance to the centroid of the list,
    as a share of the squared length. crowding: how unevenly rows lie in the lists. growth: rows now for each row of the
    last full build. rows: new rows that were looked at.
    """

    reduction: float
    lists: float
    crowding: float
    growth: float
    rows: int

    def advice(self) -> str | None:
        """Why a full build is recommended; None where it is not."""
        reasons = []
        if self.growth > MOST_GROWTH:
            reasons.append(f"{self.growth:.1f} times the rows that the lists were made for (bound {MOST_GROWTH:g})")
        if self.rows >= FEWEST:
            if self.reduction > MOST_ERROR:
                reasons.append(f"the axes lose {self.reduction:.2f} times as much of new rows (bound {MOST_ERROR:g})")
            if self.lists > MOST_ERROR:
                reasons.append(f"new rows lie {self.lists:.2f} times as far from the lists (bound {MOST_ERROR:g})")
            if self.crowding > MOST_CROWDING:
                reasons.append(f"new rows crowd {self.crowding:.1f} times as much (bound {MOST_CROWDING:g})")
        return "; ".join(reasons) or None


def errors(
    data: Any, at: I64, reduction: Reduction, trained: Any, kernels: Kernels, *, seed: int
) -> tuple[float, float]:
    """What the axes lose of a sample of the rows `at` of data (n, dim), and how far from its list it lies.

    Both as shares of squared length, of all rows together: a row of zeros counts for nothing.
    """
    whole = lost = size = far = 0.0
    for rows in gather(data, at[sample_rows(len(at), SAMPLE, seed)]):
        wide = kernels.normalize(rows) if reduction.unit else reduction.scaled(rows)
        wide = wide.astype(np.float64)
        total = float(np.einsum("ij,ij->", wide, wide))
        kept = kernels.project(wide, reduction.axes, unit=False)
        whole, lost = whole + total, lost + max(total - float(np.einsum("ij,ij->", kept, kept)), 0.0)
        reduced = reduction.apply(rows, kernels)
        apart = (reduced - ivfpq.centroids(trained, reduced)).astype(np.float64)
        size += float(np.einsum("ij,ij->", reduced, reduced, dtype=np.float64))
        far += float(np.einsum("ij,ij->", apart, apart))
    return lost / whole if whole else 0.0, far / size if size else 0.0


def crowding(sizes: I64) -> float:
    """How unevenly rows lie in lists of these sizes: 1 when evenly, the number of lists when all lie in one.

    The chance that two rows share a list, times the lists; free of the bias that few rows give the sum of squares.
    """
    rows = int(sizes.sum())
    if rows < 2:
        return 1.0
    pairs = float((sizes.astype(np.float64) * (sizes - 1)).sum())
    return len(sizes) * pairs / (rows * (rows - 1.0))


def quotient(new: float, old: float, *, least: float = 1e-4) -> float:
    """The quotient new / old, where what is below `least` is nothing: the smallest shares are rounding."""
    return max(new, least) / max(old, least)
