"""All pairs of rows above a threshold, tile after tile; see `kernels.tiles`."""

import threading
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kernels import tiles
from kernels.contract import ALL_LINES, F32, I64, Blocks, Metric, TooManyPairsError
from kernels.tiles import ALL, Arithmetic, Found, Operand, Tile


class _Piece(NamedTuple):
    """Rows that are lines of some tiles and columns of others: their numbers, and all of them that a tile takes."""

    numbers: Any
    values: Any
    length: Any
    by_line: Any
    least: Any
    by_column: Any
    less: Any


def join(
    use: Arithmetic, blocks: Blocks, threshold: float, metric: Metric, most: int, lines: tuple[int, int] = ALL_LINES
) -> tuple[I64, F32]:
    """All pairs whose ceiling reaches the threshold, on the host; see `kernels.reference.join`.

    As many rows as there is room for are held and compared with all that follow them; then the next ones.
    """
    found = _Pairs(most)
    (done, last), whole = lines, False
    while not whole and done < last:
        held: list[_Piece] = []
        room, whole, seen = use.room, True, done
        for numbers, rows in tiles.pieces(use, partial(_after, blocks, done, last)):
            piece = _piece(use, numbers, rows, threshold, metric)
            if seen < last:
                room -= piece.values.nbytes
                if whole and (room >= 0 or not held):
                    held.append(piece)
                else:
                    whole = False
            seen += len(piece.numbers)
            for line in held:
                _join_tile(use, line, piece, metric, found)
        done += sum(len(piece.numbers) for piece in held)
    return found.result()


def _after(blocks: Blocks, done: int, cut: int) -> Iterator[tuple[Any, Any]]:
    """All blocks but for the first `done` rows; none goes across the row at `cut`."""
    at = 0
    for numbers, rows in blocks():
        edges = sorted({min(max(edge - at, 0), len(numbers)) for edge in (done, cut)} | {len(numbers)})
        for start, stop in pairwise(edges):
            if start >= done - at:
                yield numbers[start:stop], rows[start:stop]
        at += len(numbers)


def _piece(use: Arithmetic, numbers: Any, rows: Operand, threshold: float, metric: Metric) -> _Piece:
    xp, slack = use.xp, use.slack(rows.values.shape[1])
    least = tiles.to_least(xp, rows, threshold, metric, slack)
    columns = tiles.by_column(xp, rows, metric, slack)
    return _Piece(numbers, rows.values, rows.length, tiles.by_line(xp, rows, metric), least, *columns)


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


def _join_tile(use: Arithmetic, lines: _Piece, columns: _Piece, metric: Metric, found: _Pairs) -> None:
    """The pairs of two pieces of rows; of a piece with itself, those above the diagonal."""
    slack, itself = use.slack(lines.values.shape[1]), lines is columns

    def work(a: int, b: int) -> None:
        for start in range(a, b, use.lines):
            at = np.s_[start : min(start + use.lines, b)]
            after = np.s_[start if itself else 0 :]
            products = use.product(lines.values[at], columns.values[after])
            box = 0, products.shape[0], 0, products.shape[1]
            sides = lines.by_line[at], columns.by_column[after], columns.less[after]
            tile = Tile(products, *sides, box, 0 if itself else ALL)
            for i, j, ceilings in _all_above(use, tile, lines.least[at]):
                scores = tiles.to_scores(use.xp, lines.length[at][i], ceilings, metric, slack)
                found.add(*(use.host(part) for part in (lines.numbers[at][i], columns.numbers[after][j], scores)))

    use.spread(len(lines.numbers), use.lines, work)


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
