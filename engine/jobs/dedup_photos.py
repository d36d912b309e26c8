"""The photos that are compared: rows of one or more layers, of one store or of two, and the exact score of any pair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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
        """The exact scores (m,) of pairs (m, 2) of numbers, quickest where those of one first photo are together.

        Those of a pair may be of two stores.
        """
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
                        total[at] += weight * self.kernels.compare(mine, local, Codes(theirs), "cosine")
        return total.astype(np.float32)


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
