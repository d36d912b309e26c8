"""Which photos of a new collection are already in an old one: pairs of the two stores, none within either."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.fused import FusedIndex
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.jobs import dedup_nearest, dedup_threshold
from engine.jobs.decisions import rows_among
from engine.jobs.dedup import Clock, DedupSpec, best_scores, job_of
from engine.jobs.dedup_ceilings import ceilings_of
from engine.jobs.dedup_files import Unfinished
from engine.jobs.dedup_near import NearPairs
from engine.jobs.dedup_out import check_outputs, write_text, write_together
from engine.jobs.dedup_photos import F32, I64, Photos, indices_of, searcher_of
from engine.jobs.dedup_threshold import ThresholdChoice
from engine.jobs.identical import copies_of, equal_rows, members_of, spread
from engine.jobs.needed import need
from engine.progress import Progress, silent
from engine.store.store import Store
from engine.version import VERSION


@dataclass(frozen=True, kw_only=True)
class KnownPhotos:
    """Photos of a new store that are in an old one too.

    pairs: (m, 2) int64, the id of a new photo and that of an old one, ascending. Photos that are identical within a
    store are in it as `identical` says: each with each, of more than LARGE_CLASS each with the lowest of the other
    store. unlisted: how many pairs are left out for that. scores: (m,) float32, exact: (m,) bool, of the same values.
    known, unknown: the ids of the new photos that are in a pair, and of the others.
    """

    pairs: I64
    scores: F32
    exact: npt.NDArray[np.bool_]
    known: I64
    unknown: I64
    unlisted: int
    threshold_choice: ThresholdChoice
    layer: str
    store: Path
    query_store: Path
    seconds: dict[str, float]


def find_known(
    where: Index | FusedIndex | Searcher,
    new: Store,
    spec: DedupSpec | None = None,
    progress: Progress = silent,
    *,
    unfinished: Path | None = None,
) -> KnownPhotos:
    """The photos of `new` that are in the store that is searched; see `dedup.find_duplicates`.

    The old photos are read once and are not compared with each other. InputError where the new store has no such layer
    or one of other dimensions, or is the same. normalise, groups and decisions of the specification mean nothing here.
    """
    spec, searcher, clock = spec or DedupSpec(), searcher_of(where), Clock()
    photos = Photos.of(searcher, new)
    _check(photos, new)
    indices = None if spec.method == "exhaustive" else indices_of(searcher)
    border = photos.starts[1]
    job = job_of(searcher, spec, other=[new.manifest.state, new.manifest.removed and new.manifest.removed.xxh3])
    with Unfinished(unfinished, job) as files:
        ceilings = ceilings_of(photos, indices, files, progress)
        parts = np.split(np.asarray(ceilings.sums), [border]), np.split(photos.ids, [border])
        present = np.split(photos.present, [border])
        mine, theirs = (equal_rows(*each) for each in zip(*parts, present, strict=True))
        clock.lap("rows")
        nearest = dedup_nearest.nearest_scores(searcher, Photos.of(searcher), theirs, progress)
        default = dedup_threshold.default_threshold(photos)
        choice = dedup_threshold.choose(nearest, default, given=spec.threshold, rate=spec.false_pairs)
        clock.lap("threshold")
        distinct = np.concatenate([np.unique(mine[mine >= 0]), border + np.unique(theirs[theirs >= 0])])
        near_pairs = NearPairs(photos=photos, indices=indices, ceilings=ceilings, nearest=nearest)
        near, scores = near_pairs.find(distinct, choice.threshold, files, progress)
        sums = np.asarray(ceilings.sums)
    clock.lap("search")
    choice = dedup_threshold.refine(choice, nearest, best_scores(near, scores))
    good = scores.astype(np.float64) >= choice.threshold
    same = _identical(sums, mine, theirs, border)
    return _result(photos, (mine, theirs), (near[good], scores[good], same), choice=choice, layer=searcher.layer,
                   seconds=clock.seconds)  # fmt: skip


def _check(photos: Photos, new: Store) -> None:
    old = photos.stores[-1]
    if new.path.resolve() == old.path.resolve():
        raise InputError(f"--query-store {new.path}: is the store that is searched. Leave it out.")
    for layer in photos.layers:
        if layer not in new.layers:
            raise InputError(f"--query-store {new.path}: has no layer {layer}, but {', '.join(sorted(new.layers))}")
        mine, theirs = old.layer(layer).shape[1], new.layer(layer).shape[1]
        if mine != theirs:
            raise InputError(f"--query-store {new.path}: its {layer} has {theirs:,} dimensions, expected {mine:,}")


def _identical(sums: npt.NDArray[np.uint64], mine: I64, theirs: I64, border: int) -> I64:
    """(c, 2): each class of new photos that is identical to one of old ones; numbers of the lowest, as of `Photos`."""
    old = np.unique(theirs[theirs >= 0])
    known = {tuple(line): border + row for row, line in zip(old.tolist(), sums[border + old].tolist(), strict=True)}
    new = np.unique(mine[mine >= 0])
    partner = np.array([known.get(tuple(line), -1) for line in sums[new].tolist()], np.int64)
    return np.stack([new, partner], axis=1)[partner >= 0]


def _result(photos: Photos, lowest: tuple[I64, I64], found: tuple[I64, F32, I64], **more: Any) -> KnownPhotos:
    near, scores, same = found
    near_too = ~rows_among(near, same)  # a near pair of identical photos is one of them already
    classes = photos.ids[np.concatenate([near[near_too], same])]
    of_class = np.concatenate([scores[near_too], np.ones(len(same), np.float32)])
    new, old = photos.stores
    ours, theirs = (
        members_of(copies_of(rows, store.photo_ids)) for rows, store in zip(lowest, photos.stores, strict=True)
    )
    pairs, place = spread(classes, ours, theirs)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, place = pairs[order], place[order]
    every = sum(len(ours.get(a, (a,))) * len(theirs.get(b, (b,))) for a, b in classes.tolist())
    present, known = np.sort(new.photo_ids[lowest[0] >= 0]), np.unique(pairs[:, 0])
    return KnownPhotos(
        pairs=pairs, scores=of_class[place], exact=place >= len(classes) - len(same), unlisted=every - len(pairs),
        known=known, unknown=np.setdiff1d(present, known), threshold_choice=more["choice"], layer=more["layer"],
        store=old.path, query_store=new.path, seconds=more["seconds"],
    )  # fmt: skip


def write_known(known: KnownPhotos, out: Path) -> dict[str, Path]:
    """Write pairs.parquet, known.txt, new.txt and summary.json into a folder; their paths by name.

    InputError where it holds the answers of a search within one store.
    """
    check_outputs(out, kind="known")
    columns = {
        "query_photo_id": np.ascontiguousarray(known.pairs[:, 0]),
        "photo_id": np.ascontiguousarray(known.pairs[:, 1]),
        "score": known.scores,
        "exact": known.exact,
    }
    stores = {"query_store": str(known.query_store), "store": str(known.store)}

    def table(file: BinaryIO) -> None:
        made = need("pyarrow", "pyarrow").table(columns).replace_schema_metadata(stores)
        need("pyarrow.parquet", "pyarrow").write_table(made, file)

    writers: dict[str, Callable[[BinaryIO], None]] = {
        "pairs.parquet": table,
        "known.txt": partial(write_text, text="".join(f"{photo}\n" for photo in known.known.tolist())),
        "new.txt": partial(write_text, text="".join(f"{photo}\n" for photo in known.unknown.tolist())),
        "summary.json": partial(write_text, text=json.dumps(summary_of(known), indent=1) + "\n"),
    }
    return write_together(out, writers)


def summary_of(known: KnownPhotos) -> dict[str, Any]:
    """The figures as JSON values."""
    return {
        "query_store": str(known.query_store), "store": str(known.store), "layer": known.layer,
        "threshold": known.threshold_choice.threshold, "threshold_choice": known.threshold_choice.document(),
        "query_photos": len(known.known) + len(known.unknown), "known": len(known.known),
        "new": len(known.unknown), "pairs": len(known.pairs), "exact_pairs": int(known.exact.sum()),
        "pairs_not_listed": known.unlisted,
        "seconds": {name: round(seconds, 3) for name, seconds in known.seconds.items()}, "engine_version": VERSION,
    }  # fmt: skip
