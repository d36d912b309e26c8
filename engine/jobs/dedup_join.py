"""All pairs of photos above a threshold, cell by cell: by their ceilings, by an index's codes, by the raw rows.

Cost of a photo, where n photos lie in c cells and each is compared with v of them: its row read once (16 KiB of fc7)
and projected (2 · 4,096 · 256 operations), 128 c for the cells, 514 v n / c for the ceilings; then 2 KiB of 4-bit codes
for each pair whose ceiling reaches the threshold, and 16 KiB for each whose codes nearly do. The floor is the reading:
16 µs at 1 GB/s. Beyond the maps 4 · 257 bytes of ceilings (a map too, in a folder) and c / 8 bytes of visits are held.
Of 100,000 photos of the sample collection, fc7, threshold 0.95: 91 µs of processor time a photo, all included.
"""

from collections.abc import Sequence
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
TILE = 2048, 4096  # visitors and members whose ceilings are looked at together, on one thread
BLOCKS, LEAST_WORK = 256, 1 << 28  # of the join: at most so many, of so many products at least
SETTLE = 1 << 20  # pairs that are settled together
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
            size = max((64 << 20) // (4 * rows.shape[1]), 1)
            for start in range(0, len(pairs), size):
                part = np.s_[start : start + size]
                total[part] += np.float32(weight) * photos.compared(rows, codes, pairs[part])
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
        start, stop, work = blocks[number]
        _say(progress, done, total, unfinished)
        near = [_of_cell(task, cell) for cell in range(start, stop)]
        pairs = unique_pairs(np.concatenate([np.empty((0, 2), np.int64), *near]), len(task.photos))
        unfinished.add(STAGE, number, found_of(*_settled(task, pairs)))
        check_count(unfinished.count, task.threshold, task.photos.layers)
        done += work
    _say(progress, total, total, unfinished)
    return unfinished.pairs(STAGE)


def _say(progress: Progress, done: int, total: int, unfinished: Unfinished) -> None:
    million = 1_000_000
    progress("compare", done // million, total // million, unit="million pairs", detail=f"{unfinished.count:,} found")


def check_count(count: int, threshold: float, layers: Sequence[str]) -> None:
    """InputError for more pairs than can be handled; most of them are found from both sides."""
    if count > 2 * MOST_PAIRS:
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


def _of_cell(task: Join, cell: int) -> I64:
    """Pairs (m, 2), a < b, of visitors and members of a cell whose ceiling reaches the threshold."""
    visitors, members = task.cells.visitors(cell), task.cells.members(cell)
    if not task.between:
        return _near(task, visitors, members)
    border = task.photos.starts[1]
    a, b = np.searchsorted(visitors, border), np.searchsorted(members, border)
    return np.concatenate([_near(task, visitors[:a], members[b:]), _near(task, visitors[a:], members[:b])])


def _near(task: Join, visitors: I64, members: I64) -> I64:
    vectors, least = task.ceilings.vectors, np.float32(task.threshold - SLACK)
    columns = np.ascontiguousarray(vectors[members])
    found: list[I64] = [np.empty((0, 2), np.int64)]

    def work(a: int, b: int) -> None:
        for start in range(a, b, TILE[0]):
            some = visitors[start : min(start + TILE[0], b)]
            lines = vectors[some]
            for first in range(0, len(members), TILE[1]):
                others = members[first : first + TILE[1]]
                at = np.flatnonzero(lines @ columns[first : first + TILE[1]].T >= least)
                x, y = some[at // len(others)], others[at % len(others)]
                found.append(np.stack([np.minimum(x, y), np.maximum(x, y)], axis=1)[x != y])

    threads.in_spans(len(visitors), 32, work)
    return np.concatenate(found)


def unique_pairs(pairs: I64, n: int) -> I64:
    """Pairs (m, 2) of numbers below n, each once, ascending."""
    return np.stack(np.divmod(np.unique(pairs[:, 0] * n + pairs[:, 1]), max(n, 1)), axis=1)


def _settled(task: Join, pairs: I64) -> tuple[I64, F32]:
    """The pairs whose exact score reaches the threshold, and these scores."""
    kept: list[tuple[I64, F32]] = [(np.empty((0, 2), np.int64), np.empty(0, np.float32))]
    for start in range(0, len(pairs), SETTLE):
        some = pairs[start : start + SETTLE]
        if task.screen is not None:
            some = some[task.screen.scores(task.photos, some) >= task.threshold - task.screen.error]
        scores = task.photos.scores(some)
        # Wider than float32, so that no reported score is below the threshold as the user wrote it.
        good = scores.astype(np.float64) >= task.threshold
        kept.append((some[good], scores[good]))
    return np.concatenate([part for part, _ in kept]), np.concatenate([part for _, part in kept])
