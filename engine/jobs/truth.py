"""Ground truth of a benchmark: the exact neighbours of held-out queries, kept beside the store, and recall against it.

**Held out** means leave-one-out: queries are distinct photos of the store, chosen by the seed, and a query's own
photo is in neither its truth nor its answer.

**Recall@k** is the share of the k nearest photos that was found. An answer counts when its exact score is at least
the k-th true score, less a relative 1e-6 for rounding; so photos that tie for the last places are worth the same,
whichever of them is found. That is recall by distance threshold as in ann-benchmarks (ann_benchmarks/plotting/
metrics.py, `get_recall_values` with `knn_threshold`), where the tolerance is an absolute 1e-3. Scores are computed
anew from the photo ids: what an index says of its own answers is not believed; a photo named twice counts once.
"""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

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
    """The exact neighbours of held-out queries.

    query_ids: (q,) int64, the photos that are asked for. queries: (q, dim) float32, their rows. photo_ids: (q, k)
    int64 and scores: (q, k) float32, best first, absent = −1 and −inf. cached: read from the store's `truth` folder.
    """

    spec: TruthSpec
    query_ids: npt.NDArray[np.int64]
    queries: npt.NDArray[np.float32]
    photo_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    cached: bool

    def __len__(self) -> int:
        """How many queries."""
        return len(self.query_ids)


def ground_truth(store: Store, spec: TruthSpec, *, device: Device, progress: Progress = silent) -> Truth:
    """The truth of a specification, from `STORE/truth/` if it is there and whole, else computed and kept there.

    As many queries and neighbours as the store has, where it has fewer (one neighbour at least, which may be absent).
    A file that is damaged or belongs to another state of the store is computed again. A store that cannot be written
    to still gets its truth; it is then not kept. InputError for an empty store.
    """
    if not len(store):
        raise InputError(f"{store.path}: the store is empty, there is nothing to ask for")
    rows = choose_rows(len(store), spec.queries, spec.seed)
    ids, queries = store.photo_ids[rows], np.asarray(store.layer(spec.layer)[rows])
    k = max(min(spec.k, len(store) - 1), 1)
    key = _key(store, spec, (len(rows), k), device)
    path = _path(store, spec, (len(rows), k), device)
    kept = _read(path, key, ids, k)
    if kept is not None:
        return Truth(spec=spec, query_ids=ids, queries=queries, photo_ids=kept[0], scores=kept[1], cached=True)
    found = exact_search(
        store, spec.layer, queries, k, metric=spec.metric, kernels=load(device), exclude=ids, progress=progress
    )
    _write(path, key, ids, found.photo_ids, found.scores)
    return Truth(
        spec=spec, query_ids=ids, queries=queries, photo_ids=found.photo_ids, scores=found.scores, cached=False
    )


def choose_rows(rows: int, queries: int, seed: int) -> npt.NDArray[np.int64]:
    """Distinct row numbers (≤ queries,) int64 in random order: sorted ones would flatter the caches."""
    return np.random.default_rng(seed).choice(rows, min(queries, rows), replace=False).astype(np.int64)


def _key(store: Store, spec: TruthSpec, shape: tuple[int, int], device: Device) -> str:
    """Everything that the truth depends on, as one line of JSON; kernels of another kind round otherwise."""
    queries, k = shape
    parts = asdict(spec) | {"queries": queries, "k": k, "device": device.kind, "store": store.manifest.digest}
    return json.dumps(parts | {"version": VERSION}, sort_keys=True)


def _path(store: Store, spec: TruthSpec, shape: tuple[int, int], device: Device) -> Path:
    layer = Path(store.manifest.layers[spec.layer].file).stem
    name = f"{layer}-{spec.metric}-{shape[0]}x{shape[1]}-seed{spec.seed}-{device.kind}.npz"
    return store.path / "truth" / name


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
    truth = truth_scores[:, :k].astype(np.float64)
    wanted = (truth > -np.inf).sum(axis=1)
    asked = wanted > 0
    if not asked.any():
        return 1.0
    truth, wanted, given = truth[asked], wanted[asked], scores[asked, :k]
    last = np.take_along_axis(truth, wanted[:, None] - 1, axis=1)
    least = last - RELATIVE_TOLERANCE * np.abs(np.where(np.isfinite(last), last, 0))
    found = ((given >= least) & (given > -np.inf)).sum(axis=1)
    return float(np.mean(np.minimum(found, wanted) / wanted))


def recall_of_answers(store: Store, truth: Truth, photo_ids: npt.NDArray[np.int64], k: int, *, device: Device) -> float:
    """Recall@k of answers photo_ids (q, ≥ k) int64, best first, to the first q queries of the truth; −1 = absent.

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
    return recall(scores, truth.scores[: len(given)], k)
