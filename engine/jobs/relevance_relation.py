"""Which photos belong together, and how much: relations over the rows of a store, as sparse matrices.

A relation gives the same grades in two ways. `block` has all the photos that are related to some: what a query could
find at best. `pairs` grades what it did find, without making a block. Both add the same numbers in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BLOCK_ENTRIES = 16 << 20  # of a sparse block at most, unless one row alone has more
PAIRS = 1 << 17  # graded at once
FEW_LEFT = 20  # times as many entries before a threshold as after it, from where on it is cheaper to count pair by pair


class Relation(Protocol):
    """How photos are related; grade 0 = not at all, or nothing is known of one of them."""

    @property
    def known(self) -> Mask:
        """Which rows (n,) something is known of."""
        ...

    def sizes(self, rows: I64) -> I64:
        """At most so many entries (m,) have the rows (m,) of a block."""
        ...

    def block(self, rows: I64) -> Any:
        """Grades above 0 as a SciPy CSR array (m, n), columns ascending; a photo is related to itself."""
        ...

    def pairs(self, rows: I64, others: I64) -> F64:
        """The grade (m,) of each pair of rows (m,), (m,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class SharedTerms:
    """Photos that have terms in common.

    asked, given: SciPy CSR arrays (n, terms) float64 with the same places filled, all above 0; the grade of (i, j) is
    the sum over the terms of both of asked[i] · given[j]. at_least: terms that must be shared. threshold: grades below
    it are none. most: what a greater grade is cut to.
    """

    asked: Any
    given: Any
    known: Mask
    at_least: int = 1
    threshold: float = 0.0
    most: float = np.inf
    _inverted: list[Any] = field(default_factory=list)

    def _lists(self) -> tuple[Any, Any, I64]:
        """Given, by term; where it is filled, as ones; and how many photos each term has."""
        if not self._inverted:
            by_term = self.given.T.tocsr()
            self._inverted[:] = by_term, _ones(by_term), np.diff(by_term.indptr).astype(np.int64)
        return self._inverted[0], self._inverted[1], self._inverted[2]

    def sizes(self, rows: I64) -> I64:
        """See `Relation`."""
        asked = _ones(self.asked[rows])
        most: I64 = np.minimum(asked @ self._lists()[2], self.asked.shape[0]).astype(np.int64)
        return most

    def block(self, rows: I64) -> Any:
        """See `Relation`."""
        by_term, _, _ = self._lists()
        grades = self.asked[rows] @ by_term
        every = len(grades.data)
        grades.data = self._cut(grades.data)
        grades.eliminate_zeros()
        grades.sort_indices()
        if self.at_least > 1:
            grades.data[self._shared(rows, grades, every) < self.at_least] = 0
            grades.eliminate_zeros()
        return grades

    def _shared(self, rows: I64, grades: Any, every: int) -> I64:
        """How many terms are shared at the places (m,) of a block, of which `every` had a grade before the threshold.

        Counted pair by pair where few are left; else by another product, in which no place is missing.
        """
        if len(grades.data) * FEW_LEFT < every:
            counts = np.empty(len(grades.data), np.int64)
            query = rows[np.repeat(np.arange(len(rows)), np.diff(grades.indptr))]
            for start in range(0, len(counts), PAIRS):
                part = np.s_[start : start + PAIRS]
                counts[part] = np.diff(self._products(query[part], grades.indices[part]).indptr)
            return counts
        shared = _ones(self.asked[rows]) @ self._lists()[1]
        shared.sort_indices()
        if len(shared.data) == len(grades.data):
            return np.asarray(shared.data, np.int64)
        return np.asarray(shared.multiply(_ones(grades)).tocsr().data, np.int64)

    def _products(self, rows: I64, others: I64) -> Any:
        """The products (m, terms) of the terms that each pair shares, ascending."""
        products = self.asked[rows].multiply(self.given[others]).tocsr()
        products.sort_indices()
        return products

    def pairs(self, rows: I64, others: I64) -> F64:
        """See `Relation`."""
        found = np.empty(len(rows))
        for start in range(0, len(rows), PAIRS):
            part = np.s_[start : start + PAIRS]
            products = self._products(rows[part], others[part])
            # A product with a vector adds in the order of the columns, as the product of `block` does; sum() may not.
            grades = products @ np.ones(products.shape[1])
            grades[np.diff(products.indptr) < self.at_least] = 0
            found[part] = self._cut(grades)
        return found

    def _cut(self, grades: F64) -> F64:
        return np.where(grades < self.threshold, 0, np.minimum(grades, self.most))


def _ones(matrix: Any) -> Any:
    """The same places filled with 1."""
    return type(matrix)((np.ones(len(matrix.data)), matrix.indices, matrix.indptr), shape=matrix.shape)


def in_blocks(sizes: I64) -> Iterator[slice]:
    """Parts of some rows whose sizes (m,) sum to a bounded number."""
    start, total = 0, 0
    for at, size in enumerate(sizes.tolist()):
        if at > start and total + size > BLOCK_ENTRIES:
            yield slice(start, at)
            start, total = at, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


def rows_to_csr(rows: I64, columns: I64, values: F64, shape: tuple[int, int]) -> Any:
    """A SciPy CSR array of entries (m,) in any order, equal places added up, columns ascending."""
    from scipy import sparse

    matrix = sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()
    matrix.sum_duplicates()
    return matrix
