"""The photos that are compared: rows of one or more layers, of one store or of two, and the exact score of any pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index.fused import FusedIndex
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.store import npy
from engine.store.store import Store
from kernels import Codes, Kernels

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

BLOCK_BYTES = 64 << 20  # of gathered rows
WIDTH = 16  # partners that a row is compared with at once


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos by number: those of `stores[0]` in order of its rows, then those of `stores[1]`, if there is another.

    The last store is the one that is searched. layers, weights: a score is Σ weight · cosine, of the raw float32 rows.
    """

    stores: tuple[Store, ...]
    layers: tuple[str, ...]
    weights: tuple[float, ...]
    kernels: Kernels

    @classmethod
    def of(cls, searcher: Searcher, other: Store | None = None) -> "Photos":
        """The photos that a searcher finds, and before them those of another store."""
        fused = searcher.fused
        return cls(
            stores=(searcher.store,) if other is None else (other, searcher.store),
            layers=fused.layers if fused else (searcher.layer,),
            weights=tuple(weight / sum(fused.weights) for weight in fused.weights) if fused else (1.0,),
            kernels=searcher.kernels,
        )

    def __len__(self) -> int:
        """How many rows, those of removed photos among them."""
        return sum(map(len, self.stores))

    @cached_property
    def starts(self) -> list[int]:
        """The number of each store's first photo, and of none after the last."""
        return [0, *np.cumsum([len(store) for store in self.stores]).tolist()]

    @cached_property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which photos (n,) are not removed."""
        return np.concatenate(
            [np.ones(len(store), np.bool_) if store.removed is None else ~store.removed for store in self.stores]
        )

    @cached_property
    def ids(self) -> I64:
        """The photo ids (n,) in their stores."""
        return np.concatenate([store.photo_ids for store in self.stores])

    def blocks(self, rows: int) -> Iterator[tuple[int, list[F32]]]:
        """All photos in order: the number of the first, and (≤ rows, dim) of each layer. None spans two stores."""
        for start, store in zip(self.starts, self.stores, strict=False):
            for first in range(0, len(store), rows):
                yield start + first, [store.layer(layer)[first : first + rows] for layer in self.layers]
            for layer in self.layers:
                npy.forget(store.layer(layer))

    def scores(self, pairs: I64) -> F32:
        """The exact scores (m,) of pairs (m, 2) of numbers, quickest where those of one photo are together.

        Those of a pair may be of two stores.
        """
        return np.concatenate([np.empty(0, np.float32), *(self._scores(part) for part in self._parts(pairs))])

    def _parts(self, pairs: I64) -> Iterator[I64]:
        dims = sum(self.stores[0].layer(layer).shape[1] for layer in self.layers)
        size = max(BLOCK_BYTES // (4 * dims), 1)
        for start in range(0, len(pairs), size):
            yield pairs[start : start + size]

    def _scores(self, pairs: I64) -> F32:
        if not len(pairs):
            return np.empty(0, np.float32)
        total = np.zeros(len(pairs))
        first = np.searchsorted(self.starts, pairs[:, 0], "right") - 1
        second = np.searchsorted(self.starts, pairs[:, 1], "right") - 1
        for store in range(len(self.stores)):
            for other in range(len(self.stores)):
                at = np.flatnonzero((first == store) & (second == other))
                for layer, weight in zip(self.layers, self.weights, strict=True):
                    if len(at):
                        mine, theirs = self.stores[store].layer(layer), self.stores[other].layer(layer)
                        local = pairs[at] - np.array([self.starts[store], self.starts[other]])
                        total[at] += weight * self.compared(mine, Codes(theirs), local)
        return total.astype(np.float32)

    def compared(self, rows: Any, codes: Codes, pairs: I64) -> F32:
        """The cosine (m,) of row pairs[i, 0] of rows (n, dim) with what codes hold of row pairs[i, 1]."""
        lines, place = in_lines(pairs)
        queries = np.ascontiguousarray(rows[pairs[lines[:, 0], 0]])
        candidates = np.where(lines >= 0, pairs[lines, 1], -1)
        found, scores = self.kernels.rerank(queries, candidates, codes, "cosine", candidates.shape[1])
        # They come back best first: each goes where its candidate stood.
        order, back = np.argsort(candidates, axis=1, kind="stable"), np.argsort(found, axis=1, kind="stable")
        ordered = np.empty_like(scores)
        np.put_along_axis(ordered, order, np.take_along_axis(scores, back, axis=1), axis=1)
        out: F32 = ordered.reshape(-1)[place]
        return out


def in_lines(pairs: I64) -> tuple[I64, I64]:
    """Pairs (m, 2), those of one first photo together, as lines of up to WIDTH of one photo each.

    Returns the places (l, w) of their pairs, the first of each line ≥ 0, −1 = none; and the place of each pair in the
    lines' flat order (m,).
    """
    m = len(pairs)
    new = np.ones(m, np.bool_)
    new[1:] = pairs[1:, 0] != pairs[:-1, 0]
    begins = np.maximum.accumulate(np.where(new, np.arange(m), 0))
    inside = np.arange(m) - begins
    width = min(WIDTH, int(inside.max(initial=0)) + 1)
    column = inside % width
    line = np.cumsum(column == 0) - 1
    lines = np.full((int(line[-1]) + 1 if m else 0, width), -1, np.int64)
    lines[line, column] = np.arange(m)
    return lines, line * width + column


def searcher_of(where: Index | FusedIndex | Searcher) -> Searcher:
    """What is searched, whatever it is."""
    if isinstance(where, Index):
        return Searcher.of_index(where)
    return Searcher.of_fused(where) if isinstance(where, FusedIndex) else where


def indices_of(searcher: Searcher) -> Sequence[Index] | None:
    """The indices of its layers, in their order; None where all rows are compared."""
    if searcher.fused:
        return searcher.fused.indices
    return None if searcher.index is None else (searcher.index,)
