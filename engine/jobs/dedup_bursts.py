"""Pairs of a burst: photos that one owner took within minutes, alike but no copies.

A burst is of several shots. Photos of one owner and the very same second that are as alike as copies are taken for one
shot, put up twice: an edit keeps the time of its original. Midnight to the second is no such time: so Flickr writes a
date of which the hour is not known, and so begins the clock of a camera that was never set.
"""

import numpy as np
import numpy.typing as npt

from engine.jobs.dedup_context import annotations_of
from engine.store.store import Store

MINUTES = 10


def burst_pairs(
    store: Store, pairs: npt.NDArray[np.int64], scores: npt.NDArray[np.floating], copies: float
) -> npt.NDArray[np.bool_]:
    """Which pairs (m, 2) of photo ids were taken by one owner at most MINUTES apart and are no single shot, (m,).

    scores: (m,); copies: the score from which photos of one second are one shot. By the camera's clock if both photos
    have its time, else by the time their owner gave. None of them without annotations, or where owner or time is not
    known.
    """
    photos, number = np.unique(pairs, return_inverse=True)
    known = annotations_of(store, photos, ("owner", "exif_taken", "taken")) if len(photos) else []
    if not known:
        return np.zeros(len(pairs), np.bool_)
    names = {name: place for place, name in enumerate(sorted({row["owner"] for row in known if row["owner"]}))}
    owner = np.array([names.get(row["owner"], -1) for row in known], np.int64)
    a, b = number.reshape(-1, 2).T
    found = (owner[a] >= 0) & (owner[a] == owner[b])
    camera, given = (np.array([row[name] for row in known], "datetime64[s]") for name in ("exif_taken", "taken"))
    both = ~np.isnat(camera[a]) & ~np.isnat(camera[b])
    first, second = (np.where(both, camera[side], given[side]) for side in (a, b))
    apart = np.abs(first - second)
    one_shot = (first == second) & (first != first.astype("datetime64[D]")) & (scores >= copies)
    with np.errstate(invalid="ignore"):
        return np.asarray(found & ~np.isnat(apart) & (apart <= np.timedelta64(MINUTES, "m")) & ~one_shot)
