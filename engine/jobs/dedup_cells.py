"""Cells around pivots, and which photos must be compared with which cells so that no near pair is missed.

A photo lies in the cell of its nearest pivot. Let x be in the cell of a and y in that of b, and H the plane midway
between them: x lies on one side of it and y on the other, so d(x, H) + d(y, H) ≤ |x − y|. Of two photos at most δ
apart one is therefore at most δ/2 from H, and is compared with the other's cell. With s(x, a) = x·a − |a|²/2,
d(x, H) = (s(x, a) − s(x, b)) / |a − b|: the rule of generalised hyperplanes (J. Uhlmann, "Satisfying general proximity
/ similarity queries with metric trees", Inf. Process. Lett. 40, 1991), used from both sides. All of it holds in any
subspace, since distances there are no longer; the leading columns of the ceilings are used.
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
LEARN, ROUNDS = 32, 2  # photos for each pivot that they are learned from, and how often they are moved
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Cells:
    """members: the photos of cell c, ascending, are order[edges[c]:edges[c + 1]].

    visits: (cells, ⌈n/8⌉) uint8; bit i of a line: photo i is compared with the members of that cell.
    """

    order: I64
    edges: I64
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


def cell_count(photos: int) -> int:
    """The power of two nearest to 4√n, at least 32 photos to a cell."""
    return 1 << round(math.log2(max(min(4 * math.sqrt(photos), photos / 32), 1)))


def cells_of(ceilings: Ceilings, among: I64, threshold: float, progress: Progress = silent) -> Cells:
    """Cells of the photos `among` (ascending), such that every pair with a ceiling of at least the threshold meets."""
    vectors, columns = ceilings.vectors, ceilings.leading
    pivots = _pivots(vectors, columns, among, cell_count(len(among)))
    apart = np.sqrt(max(2 + 4 * SLACK - 2 * (threshold - SLACK), 0.0))
    half = (pivots * pivots).sum(axis=1) / 2
    reach = (apart / 2) * np.sqrt(np.maximum(2 * (half[:, None] + half - pivots @ pivots.T), 0)) + SLACK
    own = np.empty(len(among), np.int64)
    visits = np.zeros((len(pivots), -(-len(vectors) // 8)), np.uint8)
    at = np.searchsorted(among, np.arange(0, len(vectors) + ROWS, ROWS))
    for block, (a, b) in enumerate(zip(at[:-1].tolist(), at[1:].tolist(), strict=True)):
        some, first = among[a:b], block * ROWS
        own[a:b] = _visit(vectors[some][:, columns], (pivots, half, reach), some - first, visits[:, first // 8 :])
        progress("find what must be compared", b, len(among), unit="photos")
    order = np.argsort(own, kind="stable")
    edges = np.searchsorted(own[order], np.arange(len(pivots) + 1))
    return Cells(order=among[order], edges=edges, visits=visits)


def _visit(vectors: F32, pivots: tuple[F32, F32, F32], at: I64, visits: Bits) -> I64:
    """The cell of each vector (b,), and what they visit as bits from the beginning of `visits`. at: their bits."""
    places, half, reach = pivots
    own = np.empty(len(vectors), np.int64)
    mask = np.zeros((ROWS, len(places)), np.bool_)

    def work(a: int, b: int) -> None:
        close = vectors[a:b] @ places.T - half
        own[a:b] = close.argmax(axis=1)
        least = close.max(axis=1)[:, None] - close
        mask[at[a:b]] = least <= reach[own[a:b]]

    threads.in_spans(len(vectors), 64, work)
    width = min(ROWS // 8, visits.shape[1])
    visits[:, :width] |= np.packbits(mask, axis=0, bitorder="little")[:width].T
    return own


def _pivots(vectors: Any, columns: I64, among: I64, count: int) -> F32:
    """Points (count, columns) among a sample of the photos: a few rounds of Lloyd's algorithm from random ones."""
    rng = np.random.default_rng(SEED)
    sample = np.sort(rng.choice(len(among), min(LEARN * count, len(among)), replace=False))
    points = np.ascontiguousarray(vectors[among[sample]][:, columns])
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
