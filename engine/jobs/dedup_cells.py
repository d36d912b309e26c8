"""Cells around pivots, and which photos must be compared with which cells so that no near pair is missed.

A photo lies in the cell of its nearest pivot. Let x be in the cell of a and y in that of b, and H the plane midway
between them: x lies on one side of it and y on the other, so d(x, H) + d(y, H) ≤ |x − y|. Of two photos at most δ
apart one is therefore at most δ/2 from H, and is compared with the other's cell. With s(x, a) = x·a − |a|²/2,
d(x, H) = (s(x, a) − s(x, b)) / |a − b|: the rule of generalised hyperplanes (J. Uhlmann, "Satisfying general proximity
/ similarity queries with metric trees", Inf. Process. Lett. 40, 1991), used from both sides. All of it holds in any
subspace, since distances there are no longer; the first columns of the short ceilings are used.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jobs.dedup_ceilings import SLACK, Ceilings
from engine.progress import Progress, silent
from kernels import threads

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint8]

ROWS = 4096
TOGETHER = 128  # photos whose places among the pivots are looked at together, on one thread
LEARN, ROUNDS = 32, 2  # photos for each pivot that they are learned from, and how often they are moved
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Cells:
    """members: the photos of cell c, ascending, are order[edges[c]:edges[c + 1]].

    own: (n,) int32, the cell of each photo, −1 for those that are in none.
    visits: (cells, ⌈n/8⌉) uint8; bit i of a line: photo i is compared with the members of that cell.
    """

    order: I64
    edges: I64
    own: npt.NDArray[np.int32]
    visits: Bits

    def __len__(self) -> int:
        """How many cells."""
        return len(self.edges) - 1

    def members(self, cell: int) -> I64:
        """The photos of a cell."""
        return self.order[self.edges[cell] : self.edges[cell + 1]]

    def visitors(self, cell: int) -> I64:
        """The photos that are compared with a cell, its own members among them."""
        return np.flatnonzero(np.unpackbits(self.visits[cell], bitorder="little"))

    def first_meet(self, cell: int, visitors: I64, members: I64) -> npt.NDArray[np.bool_]:
        """Of pairs (m,) that meet in a cell: which are not the same photo, and meet in no lower cell nor twice here."""
        home = self.own[visitors]
        back = (self.visits[home, members >> 3] >> (members & 7).astype(np.uint8)) & 1 == 1
        return np.where(home == cell, visitors < members, (home > cell) | ~back)


def cell_count(photos: int) -> int:
    """The power of two nearest to 4√n, at least 32 photos to a cell."""
    return 1 << round(math.log2(max(min(4 * math.sqrt(photos), photos / 32), 1)))


def cells_of(ceilings: Ceilings, among: I64, threshold: float, progress: Progress = silent) -> Cells:
    """Cells of the photos `among` (ascending), such that every pair with a ceiling of at least the threshold meets."""
    points = ceilings.points
    pivots = _pivots(points, among, cell_count(len(among)))
    apart = np.sqrt(max(2 + 4 * SLACK - 2 * (threshold - SLACK), 0.0))
    half = (pivots * pivots).sum(axis=1) / 2
    reach = (apart / 2) * np.sqrt(np.maximum(2 * (half[:, None] + half - pivots @ pivots.T), 0)) + SLACK
    own = np.full(len(points), -1, np.int32)
    visits = np.zeros((len(pivots), -(-len(points) // 8)), np.uint8)
    task = _Visit(points, among, pivots, half, reach.astype(np.float32), own, visits)
    for start in range(0, len(points), ROWS):
        stop = min(start + ROWS, len(points))
        # Whole bytes of visits to each thread.
        threads.in_spans(-(-(stop - start) // 8), 8, lambda a, b, at=start: task(at + 8 * a, at + 8 * b))  # type: ignore[misc]
        progress("find what must be compared", stop, len(points), unit="photos")
    order = np.argsort(own[among], kind="stable")
    edges = np.searchsorted(own[among][order], np.arange(len(pivots) + 1))
    return Cells(order=among[order], edges=edges, own=own, visits=visits)


@dataclass(frozen=True)
class _Visit:
    """Writes the cells of photos to `own`, and what they visit to `visits`."""

    points: Any
    among: I64
    pivots: F32
    half: F32
    reach: F32
    own: npt.NDArray[np.int32]
    visits: Bits

    def __call__(self, start: int, stop: int) -> None:
        """Of the photos from `start`, a multiple of 8, to `stop`: few at a time, so that all stays in the caches."""
        for first in range(start, min(stop, len(self.points)), TOGETHER):
            last = min(first + TOGETHER, stop, len(self.points))
            some = self.among[slice(*np.searchsorted(self.among, [first, last]).tolist())]
            if not len(some):
                continue
            close = self.points[some] @ self.pivots.T
            close -= self.half
            own = close.argmax(axis=1)
            self.own[some] = own
            least = np.take_along_axis(close, own[:, None], axis=1) - self.reach[own]
            mask = np.zeros((last - first, len(self.pivots)), np.bool_)
            mask[some - first] = close >= least
            bits = np.packbits(mask, axis=0, bitorder="little")
            self.visits[:, first // 8 : first // 8 + len(bits)] = bits.T


def _pivots(vectors: Any, among: I64, count: int) -> F32:
    """Points (count, columns) among a sample of the photos: a few rounds of Lloyd's algorithm from random ones."""
    rng = np.random.default_rng(SEED)
    sample = np.sort(rng.choice(len(among), min(LEARN * count, len(among)), replace=False))
    points = np.ascontiguousarray(vectors[among[sample]])
    pivots = points[np.sort(rng.choice(len(points), min(count, len(points)), replace=False))]
    for _ in range(ROUNDS):
        own = np.concatenate([
            (part @ pivots.T - (pivots * pivots).sum(axis=1) / 2).argmax(axis=1)
            for part in np.array_split(points, max(len(points) // ROWS, 1))
        ])  # fmt: skip
        held = np.bincount(own, minlength=len(pivots))
        sums = np.zeros(pivots.shape)
        np.add.at(sums, own, points)
        pivots = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], pivots).astype(np.float32)
    return pivots
