"""Queries to export with a layer, and their nearest neighbours among the rows that are exported."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, StoreError
from engine.index.exact import exact_search
from engine.jobs.truth import choose_rows
from engine.progress import Progress, silent
from engine.store import npy
from engine.store.formats.hdf5 import Queries, distances_of
from engine.store.manifest import digest
from engine.store.store import Store
from engine.words import counted
from kernels import Device, Metric, load

_QUERIES, _NEIGHBOURS = 1000, 100


@dataclass(frozen=True, kw_only=True)
class TruthWish:
    """What is asked of the truth. queries: photos to hold out; k; metric; each None: as it was imported, if it was."""

    queries: int | None = None
    k: int | None = None
    metric: Metric | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What is exported, and what is asked of it.

    rows: (n,) int64 ascending, the store's rows to export. found: the queries; its neighbors are positions in `rows`.
    photo_ids: (q,) int64 of the queries where they are photos of the store, else None. source: where they come from.
    """

    rows: npt.NDArray[np.int64]
    found: Queries
    photo_ids: npt.NDArray[np.int64] | None
    source: str


def choose_questions(
    store: Store, layer: str, wish: TruthWish, *, device: Device, progress: Progress = silent
) -> Questions:
    """The imported queries of a layer; or photos that are held out, if the wish says how many or nothing was imported.

    An imported truth is taken as it is while the store holds the same photos and the wish asks for no other metric or
    more neighbours; else the exact neighbours are computed. InputError for more queries than can be held out.
    """
    imported = store.query_set(layer) if wish.queries is None else None
    if imported is None:
        return _held_out(store, layer, wish, device, progress)
    rows = store.present_rows
    metric: Any = wish.metric or imported.metric
    k = wish.k or imported.neighbors.shape[1]
    distances = _distances(store, layer)
    if imported.current and metric == imported.metric and k <= imported.neighbors.shape[1] and distances is not None:
        at = np.searchsorted(rows, store.rows_of(imported.neighbors[:, :k].reshape(-1))).reshape(-1, k)
        found = Queries(
            queries=np.asarray(imported.queries), neighbors=at, distances=distances[:, :k], metric=metric
        )  # fmt: skip
        return Questions(rows=rows, found=found, photo_ids=None, source="imported, with their truth")
    found = _search(store, layer, np.asarray(imported.queries), k, metric, device, progress)
    return Questions(rows=rows, found=found, photo_ids=None, source="imported, their truth computed anew")


def held_out(queries: int | None, photos: int) -> int:
    """How many of the photos become queries where none were imported: as many as asked for, else a tenth or 1,000."""
    return queries or min(_QUERIES, max(photos // 10, 1))


def _held_out(store: Store, layer: str, wish: TruthWish, device: Device, progress: Progress) -> Questions:
    present = store.present_rows
    count = held_out(wish.queries, len(present))
    if count >= len(present):
        there = counted(len(present), "photo")
        raise InputError(
            f"--queries {count:,}: the store has {there}, and some must be left to export. Hold out fewer, or export "
            "vectors alone, to .npy say."
        )
    chosen = present[choose_rows(len(present), count, wish.seed)]
    gone = np.zeros(len(store), np.bool_) if store.removed is None else store.removed.copy()
    gone[chosen] = True
    rest = replace(store, removed=gone)
    queries = np.asarray(store.layer(layer)[chosen])
    found = _search(rest, layer, queries, wish.k or _NEIGHBOURS, wish.metric or "cosine", device, progress)
    return Questions(
        rows=np.flatnonzero(~gone), found=found, photo_ids=store.photo_ids[chosen],
        source=f"photos held out, seed {wish.seed}",
    )  # fmt: skip


def _search(
    store: Store,
    layer: str,
    queries: npt.NDArray[np.float32],
    k: int,
    metric: Metric,
    device: Device,
    progress: Progress,
) -> Queries:
    """The exact neighbours among the photos that are not removed, as positions in `present_rows`."""
    rows = np.flatnonzero(~store.removed) if store.removed is not None else np.arange(len(store))
    k = min(k, len(rows))
    answers = exact_search(store, layer, queries, k, metric=metric, kernels=load(device), progress=progress)
    at = np.searchsorted(rows, store.rows_of(answers.photo_ids.reshape(-1))).reshape(-1, k)
    return Queries(queries=queries, neighbors=at, distances=distances_of(answers.scores, metric), metric=metric)


def _distances(store: Store, layer: str) -> npt.NDArray[np.float32] | None:
    """The distances that were imported with the queries of a layer, (q, k), if they were."""
    known = store.manifest.query_sets[layer]
    if known.distances is None:
        return None
    path = store.path / known.distances
    array: Any = npy.open_rows(path, (known.count, known.k), "<f4", store.manifest.header_bytes)
    if digest(np.ascontiguousarray(array)) != known.xxh3.get(known.distances):
        raise StoreError(f"{path}: does not match its checksum. Restore it, or import again.")
    distances: npt.NDArray[np.float32] = array
    return distances
