"""Near pairs of photos by whichever way there is: through cells and ceilings, or every row with every other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.index.search import Index
from engine.jobs.dedup_ceilings import Ceilings
from engine.jobs.dedup_cells import cells_of
from engine.jobs.dedup_exhaustive import join_everything
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_join import Join, Screen, join
from engine.jobs.dedup_nearest import NearestScores
from engine.jobs.dedup_photos import F32, I64, Photos
from engine.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """What is known before photos are compared; indices: None where every row is compared with every other."""

    photos: Photos
    indices: Sequence[Index] | None
    ceilings: Ceilings
    nearest: NearestScores

    def find(
        self, distinct: I64, threshold: float, unfinished: Unfinished, progress: Progress = silent
    ) -> tuple[I64, F32]:
        """Pairs (m, 2), a < b, of these photos (ascending) that reach a threshold, and their scores (m,); ascending.

        Where there are two stores, pairs of both alone. InputError for more than MOST_PAIRS.
        """
        photos, ceilings = self.photos, self.ceilings
        between = len(photos.stores) > 1
        if len(distinct) < 2:
            return np.empty((0, 2), np.int64), np.empty(0, np.float32)
        if ceilings.vectors.shape[1]:
            cells = cells_of(ceilings, distinct, threshold, progress)
            screen = Screen.of(photos, self.indices, self.nearest.pairs, self.nearest.known)
            task = Join(
                photos=photos, ceilings=ceilings, cells=cells, threshold=threshold, screen=screen, between=between
            )
            return join(task, unfinished, progress)
        pairs, scores = join_everything(photos, distinct, threshold, unfinished, progress)
        if not between:
            return pairs, scores
        across = (pairs[:, 0] < photos.starts[1]) & (pairs[:, 1] >= photos.starts[1])
        return pairs[across], scores[across]
