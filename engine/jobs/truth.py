"""Ground truth of a benchmark: the exact neighbours of its queries, kept beside the store, and recall against it.

**Held out** means leave-one-out: queries are distinct photos of the store, chosen by the seed, and a query's own
photo is in neither its truth nor its answer. Queries that were imported with the store: `engine.jobs.query_set`.
Removed photos are neither queries nor neighbours.

**Recall@k** is the share of the k nearest photos that was found. An answer counts when its exact score is at least
the k-th true score, less a relative 1e-6 for rounding; so photos that tie for the last places are worth the same,
whichever of them is found. That is recall by distance threshold as in ann-benchmarks (ann_benchmarks/plotting/
metrics.py, `get_recall_values` with `knn_threshold`), where the tolerance is an absolute 1e-3. Scores are computed
anew from the photo ids: what an index says of its own answers is not believed; a photo named twice counts once.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.index.exact import exact_search
from engine.progress import Progress, silent
from engine.store.durable import disk_errors, write_whole
from engine.store.manifest import digest
from engine.store.store import Store
from kernels import Codes, Device, Metric, load

VERSION = 1
RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class TruthSpec:
    """Which truth: the layer and metric, how many queries and neighbours are wanted, the seed of the choice."""

    layer: str
    metric: Metric
    queries: int = 1000
    k: int = 100
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The exact neighbours of queries.

    query_ids: (q,) int64, the photos that are asked for and must be in no answer; −1 for queries that are no photos of
    the store. queries: (q, dim) float32, their rows. photo_ids: (q, k) int64 and scores: (q, k) float32, best first,
    absent = −1 and −inf. cached: read from the store's `truth` folder. held_out: the queries are photos of the store,
    or they were imported. source: of the neighbours. agrees: of imported ones, the share of the exact nearest that a
    sample of the queries has among them. warnings: what is odd about them, in sentences.
    """

    spec: TruthSpec
    query_ids: npt.NDArray[np.int64]
    queries: npt.NDArray[np.float32]
    photo_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    cached: bool
    held_out: bool = True
    source: Literal["computed", "imported"] = "computed"
    agrees: float | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many queries."""
        return len(self.query_ids)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Queries whose neighbours are wanted: ids (q,) int64, −1 or the photo that is left out; rows (q, dim) float32.

    name: what tells their file from those of other queries. about: what the rows depend on beside store and layer.
    """

    ids: npt.NDArray[np.int64]
    rows: npt.NDArray[np.float32]
    name: str
    about: dict[str, Any] = field(default_factory=dict)


def ground_truth(store: Store, spec: TruthSpec, *, device: Device, progress: Progress = silent) -> Truth:
    """The truth of held-out queries, from `STORE/truth/` if it is there and whole, else computed and kept there.

    As many queries and neighbours as the store has, where it has fewer (one neighbour at least, which may be absent).
    InputError for an empty store, or one whose photos were all removed.
    """
    check_not_empty(store)
    rows = store.present_rows[choose_rows(store.photos, spec.queries, spec.seed)]
    asked = Asked(ids=store.photo_ids[rows], rows=np.asarray(store.layer(spec.layer)[rows]), name=f"seed{spec.seed}")
    return compute_truth(store, spec, asked, device=device, progress=progress)


def check_not_empty(store: Store) -> None:
    """InputError when there is no photo to ask for, or to be answered with."""
    if not store.photos:
        problem = "every photo was removed" if len(store) else "the store is empty"
        raise InputError(f"{store.path}: {problem}, there is nothing to ask for")


def compute_truth(store: Store, spec: TruthSpec, asked: Asked, *, device: Device, progress: Progress = silent) -> Truth:
    """The exact neighbours of any queries, kept as those of `ground_truth`.

    A file that is damaged or belongs to another state of the store is computed again. A store that cannot be written
    to still gets its truth; it is then not kept.
    """
    held_out = bool((asked.ids >= 0).any())
    k = max(min(spec.k, store.photos - held_out), 1)
    key = _key(store, spec, asked, k, device)
    path = _path(store, spec, asked, k, device)
    kept = _read(path, key, asked.ids, k)
    cached = kept is not None
    if kept is None:
        found = exact_search(
            store, spec.layer, asked.rows, k, metric=spec.metric, kernels=load(device), exclude=asked.ids,
            progress=progress,
        )  # fmt: skip
        kept = found.photo_ids, found.scores
        _write(path, key, asked.ids, *kept)
    return Truth(
        spec=spec, query_ids=asked.ids, queries=asked.rows, photo_ids=kept[0], scores=kept[1], cached=cached,
        held_out=held_out,
    )  # fmt: skip


def choose_rows(rows: int, queries: int, seed: int) -> npt.NDArray[np.int64]:
    """Distinct row numbers (≤ queries,) int64 in random order: sorted ones would flatter the caches."""
    return np.random.default_rng(seed).choice(rows, min(queries, rows), replace=False).astype(np.int64)


def _key(store: Store, spec: TruthSpec, asked: Asked, k: int, device: Device) -> str:
    """Everything that the truth depends on, as one line of JSON; kernels of another kind round otherwise."""
    parts = asdict(spec) | {"queries": len(asked.ids), "k": k, "device": device.kind, "store": store.manifest.state}
    if store.manifest.removed:
        parts["removed"] = store.manifest.removed.xxh3
    return json.dumps(parts | asked.about | {"version": VERSION}, sort_keys=True)


def _path(store: Store, spec: TruthSpec, asked: Asked, k: int, device: Device) -> Path:
    layer = Path(store.manifest.layers[spec.layer].file).stem
    return store.path / "truth" / f"{layer}-{spec.metric}-{len(asked.ids)}x{k}-{asked.name}-{device.kind}.npz"


def _sum(key: str, *arrays: npt.NDArray[np.generic]) -> str:
    return digest(key.encode() + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def _write(
    path: Path,
    key: str,
    query_ids: npt.NDArray[np.int64],
    photo_ids: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
) -> None:
    data = io.BytesIO()
    total = _sum(key, query_ids, photo_ids, scores)
    np.savez(
        data, key=np.array(key), digest=np.array(total), query_ids=query_ids, photo_ids=photo_ids, scores=scores
    )  # fmt: skip
    try:
        with disk_errors(path.parent):
            path.parent.mkdir(exist_ok=True)
            write_whole(path, data.getvalue())
    except (EngineError, OSError):  # a store on a read-only or full disk is measured all the same, only slower again
        return


def _read(
    path: Path, key: str, query_ids: npt.NDArray[np.int64], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
    """Photo ids and scores, both (q, k), of a kept truth that is whole and of this very key; else None."""
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            entries = {name: file[name] for name in ("key", "digest", "query_ids", "photo_ids", "scores")}
    except Exception:  # zip, header and array reading fail in many ways; all mean: damaged, compute it again
        return None
    ids, scores = entries["photo_ids"], entries["scores"]
    same = str(entries["key"]) == key and np.array_equal(entries["query_ids"], query_ids)
    shaped = ids.shape == scores.shape == (len(query_ids), k) and (ids.dtype, scores.dtype) == (np.int64, np.float32)
    if not (same and shaped and str(entries["digest"]) == _sum(key, query_ids, ids, scores)):
        return None
    return ids, scores


def recall(scores: npt.NDArray[np.float32], truth_scores: npt.NDArray[np.float32], k: int) -> float:
    """Recall@k, the mean over the queries; see the module's text. In [0, 1], fair to ties.

    scores: (q, ≥ 1) exact scores of each query's distinct answers, best first, absent = −inf. truth_scores: (q, t)
    true scores, best first, absent = −inf, t ≥ k unless the store has fewer photos. A query with fewer than k true
    neighbours is asked for those there are; where no query has any, nothing was missed and recall is 1.
    """
    found = shares(scores, truth_scores, k)
    return float(np.mean(found)) if len(found) else 1.0


def shares(scores: npt.NDArray[np.float32], truth_scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.float64]:
    """Of each query that has a true neighbour, the share of its k nearest that was found; (≤ q,). See `recall`."""
    truth = truth_scores[:, :k].astype(np.float64)
    wanted = (truth > -np.inf).sum(axis=1)
    asked = wanted > 0
    truth, wanted, given = truth[asked], wanted[asked], scores[asked, :k]
    last = np.take_along_axis(truth, wanted[:, None] - 1, axis=1)
    least = last - RELATIVE_TOLERANCE * np.abs(np.where(np.isfinite(last), last, 0))
    found = ((given >= least) & (given > -np.inf)).sum(axis=1)
    each: npt.NDArray[np.float64] = np.minimum(found, wanted) / wanted
    return each


def recall_of_answers(store: Store, truth: Truth, photo_ids: npt.NDArray[np.int64], k: int, *, device: Device) -> float:
    """Recall@k of answers, the mean over the queries; see `shares_of_answers`."""
    found = shares_of_answers(store, truth, photo_ids, k, device=device)
    return float(np.mean(found)) if len(found) else 1.0


def shares_of_answers(
    store: Store, truth: Truth, photo_ids: npt.NDArray[np.int64], k: int, *, device: Device
) -> npt.NDArray[np.float64]:
    """`shares` of answers photo_ids (q, ≥ k) int64, best first, to the first q queries of the truth; −1 = absent.

    The first k of each answer are scored exactly, from the raw rows. Repeats and the query's own photo count nothing.
    """
    given = photo_ids[:, :k]
    asked = truth.query_ids[: len(given), None]
    rows = np.full(given.shape, -1, np.int64)
    named = (given >= 0) & (given != asked)
    rows[named] = store.rows_of(given[named])
    rows.sort(axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    queries, data = truth.queries[: len(given)], Codes(store.layer(truth.spec.layer))
    _, scores = load(device).rerank(queries, rows, data, truth.spec.metric, given.shape[1])
    return shares(scores, truth.scores[: len(given)], k)
