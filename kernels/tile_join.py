"""All pairs of rows above a threshold, tile after tile; see `kernels.tiles`."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from kernels import tiles
from kernels.contract import F32, I64, Blocks, Metric, TooManyPairsError
from kernels.tiles import ALL, Arithmetic, Found, Operand, Tile

Piece = tuple[Any, Operand]


def join(use: Arithmetic, blocks: Blocks, threshold: float, metric: Metric, most: int) -> tuple[I64, F32]:
    """All pairs whose ceiling reaches the threshold, on the host; see `kernels.reference.join`.

    As many rows as there is room for are held and compared with all that follow them; then the next ones.
    """
    found = _Pairs(most)
    done, whole = 0, False
    while not whole:
        held: list[Piece] = []
        room, at, whole = use.room, 0, True
        for numbers, rows in tiles.pieces(use, blocks):
            at += len(numbers)
            if at <= done:
                continue
            room -= rows.values.nbytes
            if whole and (room >= 0 or not held):
                held.append((numbers, rows))
                last = at
            else:
                whole = False
            for lines in held:
                _join_tile(use, lines, (numbers, rows), (threshold, metric), found)
        done = last if held else at
    return found.result()


class _Pairs:
    """Pairs found so far, on the host."""

    def __init__(self, most: int) -> None:
        self.most, self.count, self.lock = most, 0, threading.Lock()
        self.parts: list[tuple[I64, I64, F32]] = []

    def add(self, first: I64, second: I64, scores: F32) -> None:
        with self.lock:
            self.count += len(first)
        if self.count > self.most:
            raise TooManyPairsError(f"more than {self.most:,} pairs of rows reach the threshold")
        self.parts.append((first, second, scores))

    def result(self) -> tuple[I64, F32]:
        if not self.parts:
            return np.empty((0, 2), np.int64), np.empty(0, np.float32)
        first, second, scores = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        order = np.lexsort((second, first))
        return np.column_stack([first, second])[order], np.asarray(scores[order], np.float32)


def _join_tile(use: Arithmetic, lines: Piece, columns: Piece, wanted: tuple[float, Metric], found: _Pairs) -> None:
    """The pairs of two pieces of rows; of a piece with itself, those above the diagonal."""
    (threshold, metric), (first, left), (second, right) = wanted, lines, columns
    xp, slack = use.xp, use.slack(left.values.shape[1])
    factor, least = tiles.by_line(xp, left, metric), tiles.to_least(xp, left, threshold, metric, slack)
    scale, less = tiles.by_column(xp, right, metric, slack)
    itself = left is right

    def work(a: int, b: int) -> None:
        for start in range(a, b, use.lines):
            at = np.s_[start : min(start + use.lines, b)]
            after = np.s_[start if itself else 0 :]
            products = use.product(left.values[at], right.values[after])
            box = 0, products.shape[0], 0, products.shape[1]
            tile = Tile(products, factor[at], scale[after], less[after], box, 0 if itself else ALL)
            for i, j, ceilings in _all_above(use, tile, least[at]):
                scores = tiles.to_scores(xp, left.length[at][i], ceilings, metric, slack)
                found.add(*(use.host(part) for part in (first[at][i], second[after][j], scores)))

    use.spread(len(first), use.lines, work)


def _all_above(use: Arithmetic, tile: Tile, least: Any) -> Iterator[Found]:
    """What of a tile is not below its line's least ceiling, in as many goes as it takes."""
    if tile.box[3] - 1 - tile.box[0] <= tile.past:
        return
    found = use.above(tile, least)
    if found is None:
        for half in tile.halves():
            yield from _all_above(use, half, least)
    elif len(found[0]):
        yield found
