"""Every row against every other, in tiles of products: the nearest of queries, and all pairs above a threshold.

Products are in low precision; what is kept is the *ceiling* of a score: the product and all that rounding may have
taken from it. So a row whose exact score counts is never missed, and what is left out is known to lie below a bound.

Rounding. A row x is multiplied by a power of two, which changes no digit. Let s (`slack`) bound the error of a product
relative to the lengths of both rows. In float32, with D dimensions: s = (D + 16) 2⁻²³, twice the bound of a sum in any
order (Higham 2002, section 3.1), which leaves as much for the rows' lengths. From half precision, both rows rounded to
11 bits, 2⁻¹⁰ + 2⁻¹⁹ more; the sum is float32's. With lengths |q| and |r| a ceiling is

    cosine  q·r / (|q| |r|) + s
    ip      q·r + s |q| |r|
    l2      2 q·r − (1 − s) |r|² − (1 − s) |q|²,  since 2 |q| |r| ≤ |q|² + |r|²

and each is by_line · product · by_column − less, in units of its line.
"""

from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from kernels.contract import I64, Blocks, Metric

ALL = -(1 << 62)  # `past` of a tile that is wanted whole
_TINY = 2.0**-120  # what float32 may lose below its least normal number
_PLAIN = 2.0**-40, 2.0**40  # magnitudes whose squares float32 holds
Found = tuple[Any, Any, Any]


class Operand(NamedTuple):
    """Rows made ready for products: values (n, d) are the rows over `power` (n,) float64. length: (n,) float64."""

    values: Any
    power: Any
    length: Any


class Tile(NamedTuple):
    """Products (m, n) float32 of lines and columns, what makes ceilings of them, and the box of it that is meant.

    by_line: (m,), by_column, less: (n,) float32. box: first line, last, first column, last. Only where column − line
    > past.
    """

    products: Any
    by_line: Any
    by_column: Any
    less: Any
    box: tuple[int, int, int, int]
    past: int = ALL

    def halves(self) -> list["Tile"]:
        """The two halves of the box, cut across its longer side."""
        a, b, c, d = self.box
        if b - a > d - c:
            boxes = (a, (a + b) // 2, c, d), ((a + b) // 2, b, c, d)
        else:
            boxes = (a, b, c, (c + d) // 2), (a, b, (c + d) // 2, d)
        return [self._replace(box=box) for box in boxes]


class Arithmetic(Protocol):
    """What a device does with tiles. Host arrays and device arrays alike are those of its `xp`."""

    xp: ModuleType
    lines: int  # of one tile, at most
    columns: int
    narrow: int  # so many candidates of a line `best` takes well
    room: int  # bytes of operands that a join may keep

    def slack(self, dim: int) -> float:
        """How far a product may be off, relative to the lengths of both rows; see this file's head."""

    def operand(self, rows: Any) -> Operand:
        """Rows (n, d) made ready for products."""

    def product(self, lines: Any, columns: Any) -> Any:
        """Products (m, n) float32 of values (m, d) and (n, d)."""

    def above(self, tile: Tile, least: Any) -> Found | None:
        """Lines, columns and ceilings of all that is not below its line's least (m,); None if there is no room."""

    def best(self, rows: Any, ceilings: Any, keep: int) -> tuple[Any, Any]:
        """The `keep` highest ceilings of each line, in any order; rows below 0 are absent."""

    def stream(self, blocks: Iterable[tuple[I64, Any]]) -> Iterator[tuple[Any, Any]]:
        """Blocks of row numbers and rows, on the device."""

    def spread(self, n: int, least: int, work: Callable[[int, int], object]) -> None:
        """Run `work(start, stop)` over all of n, on as many threads as there are, at least `least` at a time."""

    def host(self, array: Any) -> Any:
        """The array in host memory."""


_quiet = np.errstate(over="ignore", invalid="ignore")  # what overflows is infinite or no number, and kept


@_quiet
def by_line(xp: ModuleType, of: Operand, metric: Metric) -> Any:
    """The factor of each line (m,) float32."""
    factor = 2 * of.power if metric == "l2" else of.power / xp.where(of.length > 0, of.length, 1.0)
    return factor.astype(xp.float32)


@_quiet
def by_column(xp: ModuleType, of: Operand, metric: Metric, slack: float) -> tuple[Any, Any]:
    """The factor of each column, and what is taken off it: (n,) float32 both."""
    power, length = of.power, of.length
    if metric == "cosine":
        factor, less = power / xp.where(length > 0, length, 1.0), xp.full(len(length), -slack)
    elif metric == "ip":
        factor, less = power, -slack * length - _TINY
    else:
        factor, less = power, (1 - slack) * length * length - _TINY
    return factor.astype(xp.float32), less.astype(xp.float32)


@_quiet
def to_scores(xp: ModuleType, length: Any, ceilings: Any, metric: Metric, slack: float) -> Any:
    """Ceilings in units of their lines as those of scores, float32 rounded up; what is no number as infinity.

    length: float64, of the line of each ceiling, in a shape that fits them.
    """
    scores = ceilings.astype(xp.float64)
    if metric == "ip":
        scores = scores * length
    elif metric == "l2":
        scores = scores - (1 - slack) * length * length
    scores = xp.where(xp.isnan(scores), xp.inf, scores)
    narrow = scores.astype(xp.float32)
    return xp.where(narrow < scores, xp.nextafter(narrow, xp.float32(xp.inf)), narrow)


@_quiet
def to_least(xp: ModuleType, of: Operand, threshold: float, metric: Metric, slack: float) -> Any:
    """A threshold of scores, which are float32, in units of each line (m,) float32, rounded down."""
    least = xp.full(len(of.length), float(np.float32(threshold)))
    if metric == "ip":
        zero = -xp.inf if threshold <= 0 else xp.inf
        least = xp.where(of.length > 0, least / xp.where(of.length > 0, of.length, 1.0), zero)
    elif metric == "l2":
        least = least + (1 - slack) * of.length * of.length
    return xp.nextafter(least.astype(xp.float32), xp.float32(-xp.inf))


@_quiet
def ceilings_of(xp: ModuleType, tile: Tile) -> Any:
    """The ceilings of a tile's box, in units of its lines; what is no number as infinity."""
    a, b, c, d = tile.box
    some = tile.products[a:b, c:d] * tile.by_line[a:b, None]
    some *= tile.by_column[c:d]
    some -= tile.less[c:d]
    return xp.where(xp.isnan(some), xp.float32(xp.inf), some)


def pieces(use: Arithmetic, blocks: Blocks) -> Iterator[tuple[Any, Operand]]:
    """The rows of all blocks made ready, in pieces no wider than a tile, with their numbers."""
    for numbers, rows in use.stream(blocks()):
        for start in range(0, len(numbers), use.columns):
            part = np.s_[start : start + use.columns]
            yield numbers[part], use.operand(rows[part])


class HostTiles:
    """Tiles of NumPy arrays in float32. spread: what runs work over spans, as `kernels.threads.in_spans`."""

    xp: ModuleType = np
    lines, columns, narrow, room = 256, 8192, 1 << 40, 256 << 20
    capacity = 1 << 62

    def __init__(self, spread: Callable[[int, int, Callable[[int, int], object]], None] | None = None) -> None:
        self._spread = spread

    def spread(self, n: int, least: int, work: Callable[[int, int], object]) -> None:
        """Run `work(start, stop)` over all of n."""
        if self._spread is None:
            work(0, n)
        else:
            self._spread(n, least, work)

    def slack(self, dim: int) -> float:
        """See this file's head."""
        return (dim + 16) * 2.0**-23

    def operand(self, rows: Any) -> Operand:
        """Rows (n, d), as they are where float32 holds their squares."""
        rows = np.ascontiguousarray(rows, np.float32)
        largest, square = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)

        def work(a: int, b: int) -> None:
            largest[a:b] = np.maximum(rows[a:b].max(axis=1), -rows[a:b].min(axis=1))
            with np.errstate(over="ignore", under="ignore"):
                np.einsum("ij,ij->i", rows[a:b], rows[a:b], out=square[a:b])

        self.spread(len(rows), 256, work)
        if ((largest == 0) | ((largest >= _PLAIN[0]) & (largest <= _PLAIN[1]))).all():
            return Operand(rows, np.ones(len(rows)), np.sqrt(square.astype(np.float64)))
        return scaled(np, rows, largest)

    def product(self, lines: Any, columns: Any) -> Any:
        """Products (m, n) float32."""
        return lines @ columns.T

    def above(self, tile: Tile, least: Any) -> Found | None:
        """Lines, columns and ceilings of what is not below its line's least; None where there is no room for it."""
        (a, b, c, d), ceilings = tile.box, ceilings_of(np, tile)
        there = ceilings >= least[a:b, None]
        if tile.past != ALL:
            there &= np.arange(c, d) - np.arange(a, b)[:, None] > tile.past
        i, j = np.nonzero(there)
        return (i + a, j + c, ceilings[i, j]) if len(i) <= self.capacity else None

    def best(self, rows: Any, ceilings: Any, keep: int) -> tuple[Any, Any]:
        """The `keep` highest ceilings of each line, in any order; rows below 0 are absent."""
        if keep >= rows.shape[1]:
            return rows, ceilings
        order = np.argpartition(np.where(rows < 0, np.nan, -ceilings), keep - 1, axis=1)[:, :keep]  # NaN comes last
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(ceilings, order, axis=1)

    def stream(self, blocks: Iterable[tuple[I64, Any]]) -> Iterator[tuple[Any, Any]]:
        """The blocks as they are."""
        return iter(blocks)

    def host(self, array: Any) -> Any:
        """The array as it is."""
        return array


def scaled(xp: ModuleType, rows: Any, largest: Any) -> Operand:
    """Rows (n, d) float32 times the power of two that brings `largest` (n,) to between 2⁷ and 2⁸.

    There float16 holds what is up to 2²² times smaller than the largest value to 11 bits.
    """
    powers = xp.frexp(xp.where(largest > 0, largest, xp.float32(1)))[1] - 8
    values = xp.ldexp(rows, -powers[:, None])
    power = xp.ldexp(xp.ones(len(rows)), powers)
    return Operand(values, power, power * xp.sqrt((values * values).sum(axis=1).astype(xp.float64)))
