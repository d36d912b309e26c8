"""What is known about the photos of a store, beside what the publisher says of the million."""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.jobs.annotation_counts import CELL, COLUMNS, Counts, Entry
from engine.progress import Progress, silent
from engine.store.annotations.published import PUBLISHED, PUBLISHED_PHOTOS
from engine.store.annotations.table import Annotations
from engine.store.durable import disk_errors, write_whole
from engine.store.store import Store
from engine.version import VERSION

FILES = ("stats.json", "map.png", "dates.png", "stats.html")
PLACES_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Field:
    """How many photos have a field here and in the published million; shares are of all photos, 0 to 1.

    difference: in percentage points, this store less the published collection; None where there are no photos.
    """

    name: str
    photos: int
    share: float | None
    published: int
    published_share: float
    difference: float | None


@dataclass(frozen=True, kw_only=True)
class Top:
    """The commonest values of one kind: on how many photos any is, how many there are, how many differ."""

    photos: int
    entries: int
    distinct: int
    most: list[Entry]


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The statistics of one store.

    places (360, 720) int64: geo-tagged photos in cells of half a degree, the south-west corner of the world first.
    months: photos by the month (2009-05) in which they were taken and posted.
    """

    store: Path
    photos: int
    annotated: int
    without_features: int
    quarantined: int
    fields: list[Field]
    tops: dict[str, Top]
    places: npt.NDArray[np.int64] = field(repr=False)
    months: dict[str, dict[str, int]] = field(repr=False)
    seconds: float

    def document(self) -> dict[str, Any]:
        """All of it as JSON has it; of the places, the fullest cells: [latitude, longitude, photos] each."""
        facts = {name: getattr(self, name) for name in ("photos", "annotated", "without_features", "quarantined")}
        order = np.argsort(-self.places, axis=None, kind="stable")[:PLACES_LISTED]
        cells = [
            [(row + 0.5) * CELL - 90, (column + 0.5) * CELL - 180, int(self.places[row, column])]
            for row, column in np.stack(np.unravel_index(order, self.places.shape), axis=1).tolist()
            if self.places[row, column]
        ]
        tops = {
            name: asdict(top) | {"most": [entry._asdict() for entry in top.most]} for name, top in self.tops.items()
        }
        return {
            "store": str(self.store), **facts, "availability": [asdict(one) for one in self.fields], "top": tops,
            "places": {"located": int(self.places.sum()), "cells": int((self.places > 0).sum()), "fullest": cells},
            "months": {name: dict(sorted(months.items())) for name, months in self.months.items()},
            "seconds": round(self.seconds, 3), "engine_version": VERSION,
        }  # fmt: skip


def annotation_stats(
    store: Store, annotations: Annotations | None = None, *, top: int = 20, progress: Progress = silent
) -> Stats:
    """Count what is known about the photos of a store, removed ones left out, reading a row group at a time.

    annotations: of this store, if open already. top: how many of the commonest tags, groups and so on. InputError or
    StoreError where there are no annotations, or none that fit.
    """
    if top < 1:
        raise InputError(f"top is {top}, expected 1 or more.")
    started = time.perf_counter()
    annotations = annotations or Annotations.open(store)
    counts, done = Counts(), 0
    for batch in annotations.batches(COLUMNS):
        rows = slice(done, done + batch.num_rows)
        done += batch.num_rows
        counts.add(batch if store.removed is None else _without(batch, store.removed[rows]))
        progress("counting", done, len(store), unit="photos")
    return Stats(
        store=store.path, photos=counts.photos, annotated=counts.annotated,
        without_features=annotations.facts.without_features, quarantined=annotations.facts.quarantined,
        fields=[_field(name, count, counts.photos) for name, count in counts.fields.items()],
        tops={
            name: Top(
                photos=counts.holders[name], entries=tally.entries, distinct=tally.distinct, most=tally.most(top)
            )
            for name, tally in counts.tallies.items()
        },
        places=counts.places, months=counts.months, seconds=time.perf_counter() - started,
    )  # fmt: skip


def _without(batch: Any, removed: npt.NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return batch.filter(pa.array(~removed))


def _field(name: str, photos: int, of: int) -> Field:
    share, published = (photos / of if of else None), PUBLISHED[name] / PUBLISHED_PHOTOS
    return Field(
        name=name, photos=photos, share=share, published=PUBLISHED[name], published_share=published,
        difference=None if share is None else 100 * (share - published),
    )  # fmt: skip


def write_stats(stats: Stats, out: Path | str) -> dict[str, Path]:
    """Write stats.json, map.png, dates.png and stats.html, which holds both pictures, into `out`; their paths by name.

    The JSON comes first, so that a host without Matplotlib (DependencyError) keeps what was counted. EngineError where
    `out` cannot be written.
    """
    from engine.jobs.annotation_page import page
    from engine.jobs.annotation_plot import draw_dates, draw_map

    out = Path(out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    paths = {name: out / name for name in FILES}
    text = json.dumps(stats.document(), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(paths["stats.json"], (text + "\n").encode())
    pictures = {"map.png": draw_map(stats), "dates.png": draw_dates(stats)}
    for name, data in pictures.items():
        write_whole(paths[name], data)
    write_whole(paths["stats.html"], page(stats, pictures).encode())
    return paths
