"""All pairs of photos above a threshold, cell by cell: by their ceilings, by an index's codes, by the raw rows.

Cost of a photo, where n photos lie in c cells and each is compared with v of them: its row read once (16 KiB of fc7)
and projected (2 · 4,096 · 256 operations), 128 c for the cells, 258 v n / c for the short ceilings; then 1 KiB for each
pair whose short ceiling reaches the threshold, 2 KiB of 4-bit codes for each whose ceiling does, and 16 KiB for each
whose codes nearly do. The floor is the reading: 16 µs at 1 GB/s. Beyond the maps 4 · 386 bytes of ceilings (maps too,
in a folder) and c / 8 bytes of visits are held.

Of photos of the sample collection, fc7, threshold 0.95, processor time a photo: 100,000 (1,024 cells) 42 µs for rows
and ceilings, 15 for the cells, 25 for ceilings compared (21 short ones, 10 whole ones reach the threshold), 8 for codes
and rows; 1,000,000 (4,096 cells) 52, 48, 192 (261 and 120 of them) and 93. What grows is the number of others that lie
so near: 0.80 to 0.89 by their exact scores, with ceilings a tenth higher.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import InputError
from engine.index.search import Index
from engine.jobs.dedup_ceilings import SLACK, Ceilings
from engine.jobs.dedup_cells import Cells
from engine.jobs.dedup_files import Unfinished, found_of
from engine.jobs.dedup_photos import F32, I64, Photos
from engine.progress import Progress, silent
from kernels import Codes, threads

STAGE = "join"
# About 300 bytes each while they are grouped. Where there are more, nearly everything is like everything else.
MOST_PAIRS = 20_000_000
TILE = 2048, 512  # visitors and members whose ceilings are looked at together, on one thread: 4 MiB of them
BATCH = 1 << 25  # products between two looks at how many pairs there are: at the worst 16 bytes each
BLOCKS, LEAST_WORK = 256, 1 << 28  # of the join: at most so many, of so many products at least
WIDER = 2.0  # times the largest error of the codes that was seen on a sample


@dataclass(frozen=True, kw_only=True)
class Join:
    """What is joined. threshold: least score. between: of photos of two stores alone."""

    photos: Photos
    ceilings: Ceilings
    cells: Cells
    threshold: float
    screen: "Screen | None" = None
    between: bool = False


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Scores from the codes of indices, which are cheap. error: what they are off by, at most, of what is known."""

    codes: tuple[Codes, ...]
    error: float

    @classmethod
    def of(cls, photos: Photos, indices: Sequence[Index] | None, pairs: I64, scores: F32) -> "Screen | None":
        """The codes of the raw rows, if all indices have them.

        Their error is measured on pairs (p, 2) of known scores (p,), by the rows of the store that is searched.
        """
        codes = tuple(index.refine for index in indices or () if index.refine is not None)
        if len(codes) < len(photos.layers) or not len(pairs):
            return None
        screen = cls(codes=codes, error=0.0)
        off = np.abs(screen.scores(replace(photos, stores=photos.stores[-1:]), pairs) - scores)
        return cls(codes=codes, error=WIDER * float(off.max()) + SLACK)

    def scores(self, photos: Photos, pairs: I64) -> F32:
        """About the scores (m,) of pairs (m, 2) of the first store and the last, whose rows the codes are."""
        total = np.zeros(len(pairs), np.float32)
        pairs = pairs - np.array([0, photos.starts[-2]])
        for layer, weight, codes in zip(photos.layers, photos.weights, self.codes, strict=True):
            rows = photos.stores[0].layer(layer)
            total += np.float32(weight) * photos.kernels.compare(rows, pairs, codes, "cosine")
        return total


def join(task: Join, unfinished: Unfinished, progress: Progress = silent) -> tuple[I64, F32]:
    """Pairs (m, 2) of photo numbers, a < b; their scores (m,); ascending.

    InputError for more than MOST_PAIRS.
    """
    blocks = _blocks(task.cells)
    waiting = [number for number in range(len(blocks)) if not unfinished.known(STAGE, number)]
    total = sum(work for _, _, work in blocks)
    done = total - sum(blocks[number][2] for number in waiting)
    for number in waiting:
        start, stop, _ = blocks[number]
        found, count = [found_of(np.empty((0, 2), np.int64), np.empty(0, np.float32))], unfinished.count
        for tiles, work in _batches(task.cells, start, stop):
            _say(progress, done, total, count)
            found.append(found_of(*_settled(task, _near(task, tiles))))
            done, count = done + work, count + len(found[-1])
            check_count(count, task.threshold, task.photos.layers)
        unfinished.add(STAGE, number, np.concatenate(found))
    _say(progress, total, total, unfinished.count)
    return unfinished.pairs(STAGE)


def _say(progress: Progress, done: int, total: int, count: int) -> None:
    million = 1_000_000
    progress("compare", done // million, total // million, unit="million pairs", detail=f"{count:,} found")


def check_count(count: int, threshold: float, layers: Sequence[str]) -> None:
    """InputError for more pairs than can be handled."""
    if count > MOST_PAIRS:
        raise InputError(
            f"--threshold {threshold:g}: more than {MOST_PAIRS:,} pairs of {'+'.join(layers)} have such a "
            "score, too many to be duplicates. Give a higher one."
        )


def _blocks(cells: Cells) -> list[tuple[int, int, int]]:
    """First cell, last, and products of each block: what one line of the journal stands for."""
    visitors = np.bitwise_count(cells.visits).sum(axis=1, dtype=np.int64)
    work = visitors * np.diff(cells.edges)
    size = max(int(work.sum()) // BLOCKS, LEAST_WORK)
    number = (np.cumsum(work) - work) // size
    starts = np.flatnonzero(np.r_[True, number[1:] != number[:-1]]) if len(work) else np.empty(0, np.int64)
    stops = [*starts[1:].tolist(), len(work)]
    return [(a, b, int(work[a:b].sum())) for a, b in zip(starts.tolist(), stops, strict=True)]


Tile = tuple[int, I64, I64]
"""A cell, some of its visitors, and some of its members."""


def _batches(cells: Cells, start: int, stop: int) -> Iterator[tuple[list[Tile], int]]:
    """The tiles of the cells from `start` to `stop`, so many at a time that they are BATCH products; how many."""
    tiles: list[Tile] = []
    held = 0
    for cell in range(start, stop):
        visitors, members = cells.visitors(cell), cells.members(cell)
        for first in range(0, len(members), TILE[1]):
            some = members[first : first + TILE[1]]
            for a in range(0, len(visitors), TILE[0]):
                tiles.append((cell, visitors[a : a + TILE[0]], some))
                held += len(tiles[-1][1]) * len(some)
                if held >= BATCH:
                    yield tiles, held
                    tiles, held = [], 0
    yield tiles, held


def _near(task: Join, tiles: list[Tile]) -> I64:
    """Pairs (m, 2) of visitors and members of tiles whose ceiling reaches the threshold, each once.

    Those of one first photo follow each other: a member, or, of two stores, the photo of the first one.
    """
    least, vectors = np.float32(task.threshold - SLACK), task.ceilings.vectors
    found: list[I64] = [np.empty((0, 2), np.int64)] * len(tiles)

    def work(a: int, b: int) -> None:
        for number in range(a, b):
            found[number] = _of_tile(task, tiles[number], least)

    threads.in_spans(len(tiles), 1, work)
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    pairs = pairs[task.photos.kernels.compare(vectors, pairs, Codes(vectors), "ip") >= least]
    return pairs[np.argsort(pairs[:, 0], kind="stable")] if task.between else pairs


def _of_tile(task: Join, tile: Tile, least: np.float32) -> I64:
    """Pairs (m, 2), member and visitor, whose short ceiling reaches the threshold, and which meet here first."""
    (cell, visitors, members), short = tile, task.ceilings.short
    at = np.flatnonzero(short[members] @ short[visitors].T >= least)
    line, column = np.divmod(at, len(visitors))
    pairs = np.stack([members[line], visitors[column]], axis=1)
    pairs = pairs[task.cells.first_meet(cell, pairs[:, 1], pairs[:, 0])]
    if task.between:
        pairs = np.sort(pairs, axis=1)
        border = task.photos.starts[1]
        pairs = pairs[(pairs[:, 0] < border) & (pairs[:, 1] >= border)]
    return pairs


def _settled(task: Join, pairs: I64) -> tuple[I64, F32]:
    """The pairs, a < b, whose exact score reaches the threshold, and these scores."""
    if task.screen is not None:
        pairs = pairs[task.screen.scores(task.photos, pairs) >= task.threshold - task.screen.error]
    scores = task.photos.scores(pairs)
    # Wider than float32, so that no reported score is below the threshold as the user wrote it.
    good = scores.astype(np.float64) >= task.threshold
    return np.sort(pairs[good], axis=1), scores[good]
