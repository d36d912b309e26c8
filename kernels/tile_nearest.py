"""The nearest rows of queries, tile after tile; see `kernels.tiles`."""

from functools import partial
from typing import Any

import numpy as np

from kernels import tiles
from kernels.contract import Blocks, Metric, Nearest
from kernels.tiles import Arithmetic, Found, Operand, Tile

_FEW_COLUMNS = 64  # of a tile; so many are merged without being sifted


class _Best:
    """The k highest ceilings of each line so far."""

    def __init__(self, use: Arithmetic, count: int, k: int) -> None:
        self.use, self.k, self.seen = use, k, 0
        self.rows, self.ceilings = use.xp.empty((count, 0), use.xp.int64), use.xp.empty((count, 0), use.xp.float32)

    def take(self, tile: Tile, numbers: Any) -> None:
        """Look at a whole tile, whose columns are the rows `numbers`."""
        a, b, c, d = tile.box
        if self.seen < self.k:  # no threshold yet
            first = min(max(self.use.narrow - self.k, self.k), d)
            self._merge_all(tile._replace(box=(a, b, c, first)), numbers)
            c = first
        if c < d:
            self._sift(tile._replace(box=(a, b, c, d)), numbers)
        self.seen += d

    def _sift(self, tile: Tile, numbers: Any) -> None:
        """Merge what is above the least ceiling of each line that is kept."""
        xp, (a, b, c, d) = self.use.xp, tile.box
        least = xp.nextafter(self.ceilings.min(axis=1), xp.float32(xp.inf))
        found = self.use.above(tile, least)
        if found is not None:
            self._merge_some(found, numbers)
        elif d - c <= _FEW_COLUMNS:
            self._merge_all(tile, numbers)
        else:
            for box in (a, b, c, (c + d) // 2), (a, b, (c + d) // 2, d):
                self._sift(tile._replace(box=box), numbers)

    def _merge_all(self, tile: Tile, numbers: Any) -> None:
        ceilings = tiles.ceilings_of(self.use.xp, tile)
        _, _, c, d = tile.box
        self._merge(self.use.xp.broadcast_to(numbers[c:d], ceilings.shape), ceilings)

    def _merge_some(self, found: Found, numbers: Any) -> None:
        """Merge ceilings that came as a list: one column for each of a line, as wide as the longest line's needs."""
        xp, (lines, columns, ceilings) = self.use.xp, found
        if not len(lines):
            return
        order = xp.argsort(lines)
        lines = lines[order]
        starts = xp.searchsorted(lines, xp.arange(len(self.rows)).astype(lines.dtype))
        at = xp.arange(len(lines)) - starts[lines]
        shape = len(self.rows), int(at.max()) + 1
        rows, some = xp.full(shape, -1, xp.int64), xp.full(shape, -xp.inf, xp.float32)
        rows[lines, at], some[lines, at] = numbers[columns[order]], ceilings[order]
        self._merge(rows, some)

    def _merge(self, rows: Any, ceilings: Any) -> None:
        xp = self.use.xp
        rows = xp.concatenate([self.rows, rows], axis=1)
        ceilings = xp.concatenate([self.ceilings, ceilings], axis=1)
        self.rows, self.ceilings = self.use.best(rows, ceilings, min(self.k, rows.shape[1]))


def nearest_of(use: Arithmetic, queries: Any, blocks: Blocks, metric: Metric, k: int) -> Nearest:
    """The k rows of highest ceiling for each query, arrays of `use.xp`; see `kernels.reference.nearest_of`."""
    xp, slack = use.xp, use.slack(queries.shape[1])
    asked = use.operand(queries)
    factors = tiles.by_line(xp, asked, metric)
    count = len(queries) if k else 0
    parts = [(np.s_[i : i + use.lines], _Best(use, min(use.lines, count - i), k)) for i in range(0, count, use.lines)]
    for numbers, rows in tiles.pieces(use, blocks):
        columns = (numbers, rows.values, *tiles.by_column(xp, rows, metric, slack))
        use.spread(len(parts), 1, partial(_look, use, parts, asked.values, factors, columns))
    return _finish(use, asked, parts, metric, k)


def _look(use: Arithmetic, parts: Any, values: Any, factors: Any, columns: Any, first: int, last: int) -> None:
    numbers, rows, scale, less = columns
    for at, best in parts[first:last]:
        products = use.product(values[at], rows)
        best.take(Tile(products, factors[at], scale, less, (0, len(products), 0, len(numbers))), numbers)


def _finish(use: Arithmetic, asked: Operand, parts: list[tuple[slice, _Best]], metric: Metric, k: int) -> Nearest:
    """The ceilings of all lines in order, as those of scores."""
    xp, length, slack = use.xp, asked.length, use.slack(asked.values.shape[1])
    count = len(length)
    rows, ceilings = xp.full((count, k), -1, xp.int64), xp.full((count, k), -xp.inf, xp.float32)
    bound = xp.full(count, -xp.inf if k else xp.inf, xp.float32)
    for at, best in parts:
        order = xp.argsort(-best.ceilings, axis=1)
        some = xp.take_along_axis(best.ceilings, order, axis=1)
        some = tiles.to_scores(xp, length[at, None], some, metric, slack)
        width = some.shape[1]
        rows[at, :width], ceilings[at, :width] = xp.take_along_axis(best.rows, order, axis=1), some
        if best.seen > k:
            bound[at] = some[:, -1]
    return Nearest(rows, ceilings, bound)
