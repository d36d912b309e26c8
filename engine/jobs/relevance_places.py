"""Relations by where and when a photo was taken and whose it is: within some kilometres, of one owner, of one burst."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.jobs.relevance_relation import F64, I64, Mask, rows_to_csr

EARTH_KM = 6371.0088  # mean radius (IUGG)


@dataclass(frozen=True, kw_only=True)
class Near:
    """Photos taken within some kilometres of each other, as the crow flies; grade 1.

    points: (n, 3) on the unit sphere, NaN where nobody knows.
    """

    points: F64
    known: Mask
    radius_km: float
    _tree: list[Any] = field(default_factory=list)

    @classmethod
    def of_degrees(cls, latitude: F64, longitude: F64, radius_km: float) -> "Near":
        """From degrees (n,), NaN where nobody knows; what is not on Earth is not known either."""
        good = (np.abs(latitude) <= 90) & (np.abs(longitude) <= 180)
        up, east = np.radians(np.where(good, latitude, np.nan)), np.radians(np.where(good, longitude, np.nan))
        points = np.column_stack([np.cos(up) * np.cos(east), np.cos(up) * np.sin(east), np.sin(up)])
        return cls(points=points, known=np.asarray(good), radius_km=radius_km)

    @property
    def _chord(self) -> float:
        return float(2 * np.sin(min(self.radius_km / (2 * EARTH_KM), np.pi / 2)))

    def _found(self) -> tuple[Any, I64]:
        from scipy.spatial import cKDTree

        if not self._tree:
            at = np.flatnonzero(self.known)
            self._tree[:] = cKDTree(self.points[at]), at
        return self._tree[0], self._tree[1]

    def sizes(self, rows: I64) -> I64:
        """See `Relation`."""
        tree, _ = self._found()
        counts = np.zeros(len(rows), np.int64)
        there = self.known[rows]
        if there.any():
            counts[there] = tree.query_ball_point(self.points[rows[there]], self._chord, return_length=True)
        return counts

    def block(self, rows: I64) -> Any:
        """See `Relation`."""
        tree, at = self._found()
        there = np.flatnonzero(self.known[rows])
        found = tree.query_ball_point(self.points[rows[there]], self._chord) if len(there) else []
        which = np.repeat(there, [len(some) for some in found]).astype(np.int64)
        others = at[np.fromiter((one for some in found for one in some), np.int64)]
        good = self._close(rows[which], others)  # the tree rounds otherwise
        which, others = which[good], others[good]
        return rows_to_csr(which, others, np.ones(len(which)), (len(rows), len(self.known)))

    def pairs(self, rows: I64, others: I64) -> F64:
        """See `Relation`."""
        return self._close(rows, others).astype(np.float64)

    def _close(self, rows: I64, others: I64) -> Mask:
        apart = self.points[rows] - self.points[others]
        return np.asarray(np.sqrt((apart * apart).sum(axis=1)) <= self._chord)


@dataclass(frozen=True, kw_only=True)
class SameTime:
    """Photos of one owner taken within some seconds of each other; grade 1.

    owner: (n,) numbers, −1 where nobody knows. taken: (n,) int64 seconds; known: (n,) where both are known.
    """

    owner: I64
    taken: I64
    known: Mask
    seconds: int
    _sorted: list[I64] = field(default_factory=list)

    def _order(self) -> tuple[I64, I64, I64]:
        """The known rows by owner, then by time; for each owner the first place and the one past the last."""
        if not self._sorted:
            at = np.flatnonzero(self.known)
            order = at[np.lexsort((self.taken[at], self.owner[at]))]
            owners = np.arange(int(self.owner.max(initial=-1)) + 1)
            first = np.searchsorted(self.owner[order], owners, "left")
            self._sorted[:] = order, first, np.searchsorted(self.owner[order], owners, "right")
        return self._sorted[0], self._sorted[1], self._sorted[2]

    def _ranges(self, rows: I64) -> tuple[I64, I64]:
        """The places in the order (m,), (m,) between which the photos of the same burst lie."""
        order, first, past = self._order()
        start, stop = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for i in np.flatnonzero(self.known[rows]).tolist():
            owner, time = self.owner[rows[i]], self.taken[rows[i]]
            times = self.taken[order[first[owner] : past[owner]]]
            start[i] = first[owner] + np.searchsorted(times, time - self.seconds, "left")
            stop[i] = first[owner] + np.searchsorted(times, time + self.seconds, "right")
        return start, stop

    def sizes(self, rows: I64) -> I64:
        """See `Relation`."""
        start, stop = self._ranges(rows)
        counts: I64 = stop - start
        return counts

    def block(self, rows: I64) -> Any:
        """See `Relation`."""
        start, stop = self._ranges(rows)
        counts = stop - start
        which = np.repeat(np.arange(len(rows)), counts)
        places = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts - start, counts)
        others = self._order()[0][places]
        return rows_to_csr(which, others, np.ones(len(which)), (len(rows), len(self.known)))

    def pairs(self, rows: I64, others: I64) -> F64:
        """See `Relation`."""
        both = self.known[rows] & self.known[others] & (self.owner[rows] == self.owner[others])
        return np.asarray(both & (np.abs(self.taken[rows] - self.taken[others]) <= self.seconds), np.float64)
