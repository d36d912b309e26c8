"""Duplicates as a search might have found them, from a few pairs."""

from typing import Any

import numpy as np

from engine.jobs.dedup import Duplicates
from engine.jobs.groups import group_photos


def duplicates(found: list[tuple[int, int, float]], **changes: Any) -> Duplicates:
    """The duplicates of a made-up store: found are pairs of photo ids with their scores, and groups of them."""
    found = sorted(found)
    photos = np.array([pair[:2] for pair in found], np.int64).reshape(-1, 2)
    scores = np.array([pair[2] for pair in found], np.float32)
    fields: dict[str, Any] = {
        "pairs": photos, "scores": scores, "groups": group_photos(photos, scores), "copies": np.empty((0, 2), np.int64),
        "threshold": 0.95, "photos": 20_000, "seconds": {"checksums": 0.5, "search": 1.5},
        "layer": "fc7", "metric": "cosine", "device": "cpu",
    }  # fmt: skip
    return Duplicates(**fields | changes)
