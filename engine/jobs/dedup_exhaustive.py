"""Every row with every other, by the exact self-join of the kernels: the oracle of the join through an index."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from engine.jobs import dedup_join
from engine.jobs.dedup_ceilings import SLACK
from engine.jobs.dedup_files import Unfinished, found_of
from engine.jobs.dedup_photos import F32, I64, Photos
from engine.progress import Progress, silent
from kernels.contract import Metric, TooManyPairsError

STAGE = "exhaustive"
# Rows that are compared with all that follow in one block of the journal: for each block all of these are read.
LINES = {"numpy": 2048, "cupy": 1 << 17}
ROWS = 4096


def join_everything(
    photos: Photos, distinct: I64, threshold: float, unfinished: Unfinished, progress: Progress = silent
) -> tuple[I64, F32]:
    """Pairs (m, 2), a < b, of these photos (ascending) whose exact score reaches the threshold, scores (m,); ascending.

    Of two stores: pairs of the first with itself and the other, none of the other with itself. InputError for more
    than MOST_PAIRS.
    """
    lines = LINES[photos.kernels.xp.__name__]
    metric: Metric = "cosine" if len(photos.layers) == 1 else "ip"
    n = len(distinct)
    last = n if len(photos.stores) == 1 else int(np.searchsorted(distinct, photos.starts[1]))
    starts = range(0, last, lines)
    waiting = [block for block in range(len(starts)) if not unfinished.known(STAGE, block)]
    total = n * (n - 1) // 2 - (n - last) * (n - last - 1) // 2
    for block in waiting:
        start = starts[block]
        done = n * (n - 1) // 2 - (n - start) * (n - start - 1) // 2
        million = 1_000_000
        progress("compare", done // million, max(total // million, 1), unit="million pairs",
                 detail=f"{unfinished.count:,} found")  # fmt: skip
        try:
            pairs, _ = photos.kernels.join(
                partial(_blocks, photos, distinct),
                threshold - SLACK,
                metric,
                2 * dedup_join.MOST_PAIRS,
                (start, min(start + lines, last)),
            )
        except TooManyPairsError:
            dedup_join.check_count(2 * dedup_join.MOST_PAIRS + 1, threshold, photos.layers)
            raise
        scores = photos.scores(pairs)
        good = scores.astype(np.float64) >= threshold
        unfinished.add(STAGE, block, found_of(pairs[good], scores[good]))
        dedup_join.check_count(unfinished.count, threshold, photos.layers)
    progress("compare", 1, 1, unit="million pairs", detail=f"{unfinished.count:,} found")
    return unfinished.pairs(STAGE)


def _blocks(photos: Photos, distinct: I64) -> Iterator[tuple[I64, F32]]:
    """The rows; of several layers side by side, such that an inner product is the weighted mean of cosines."""
    for start, layers in photos.blocks(ROWS):
        a, b = np.searchsorted(distinct, [start, start + len(layers[0])])
        if a == b:
            continue
        whole = b - a == len(layers[0])
        some = [np.asarray(layer if whole else layer[distinct[a:b] - start], np.float32) for layer in layers]
        if len(some) > 1:
            roots = np.sqrt(photos.weights).astype(np.float32)
            some = [root * photos.kernels.normalize(rows) for root, rows in zip(roots, some, strict=True)]
        yield distinct[a:b], some[0] if len(some) == 1 else np.hstack(some)
