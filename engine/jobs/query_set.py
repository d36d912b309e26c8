"""The queries that were imported with a layer, and their true neighbours as a benchmark's ground truth.

The photo ids that came are believed, as far as a sample agrees with exact search; their scores are computed anew from
the rows, by which recall is then measured. Where the ids cannot be the nearest photos of the store as it is now, or
are too few, the exact neighbours are computed. A query is no photo of the store, and nothing is left out of its answer.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.exact import exact_search
from engine.index.query_rows import check_queries
from engine.jobs.truth import Asked, Truth, TruthSpec, check_not_empty, compute_truth, recall
from engine.progress import Progress, silent
from engine.store.store import Queries, Store
from kernels import Codes, Device, Kernels, load

MOST_QUERIES = 10_000
CHECKED = 16  # queries, spread over all, whose neighbours are compared with the exact ones
AGREEMENT, IN_ORDER = 0.99, 0.99  # below these, something is wrong: ties and rounding do not come near
BLOCK = 1024

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]


def imported_truth(
    store: Store, spec: TruthSpec, least: int, *, device: Device, progress: Progress = silent
) -> Truth | None:
    """The first `spec.queries` imported queries of a layer and up to `spec.k` neighbours of each, `least` or more.

    None when no queries came with the layer, or for another metric. InputError for an empty store and for queries
    that are not finite; StoreError when their files are damaged.
    """
    given = store.query_set(spec.layer)
    if given is None or given.metric != spec.metric:
        return None
    check_not_empty(store)
    queries = check_queries(given.queries[: spec.queries], store.layer(spec.layer).shape[1], spec.layer)
    known = store.manifest.query_sets[spec.layer]
    asked = Asked(
        ids=np.full(len(queries), -1), rows=queries, name="imported", about={"imported": known.xxh3[known.queries]}
    )
    rows = _rows(store, given, len(queries), least)
    if isinstance(rows, str):
        truth = compute_truth(store, spec, asked, device=device, progress=progress)
        return replace(truth, warnings=(f"The neighbours were computed: {rows}.",))
    kernels = load(device)
    found, scores = _score(store, spec, queries, rows, kernels, progress)
    ids = np.where(found >= 0, store.photo_ids[found], -1)
    truth = Truth(
        spec=spec, query_ids=asked.ids, queries=queries, photo_ids=ids[:, : spec.k], scores=scores[:, : spec.k],
        cached=False, held_out=False, source="imported",
    )  # fmt: skip
    return _judged(store, truth, _in_order(rows, found, scores), kernels)


def _rows(store: Store, given: Queries, queries: int, least: int) -> I64 | str:
    """The rows (q, k) of the given neighbours, −1 for absent or named before; or why they cannot be the truth."""
    ids = np.asarray(given.neighbors[:queries])
    if not given.current:
        return "photos were added, replaced or removed since the queries came"
    if ids.shape[1] < min(least, store.photos):
        return f"{ids.shape[1]:,} came with each query, {least:,} are asked for"
    rows = np.full(ids.shape, -1, np.int64)
    try:
        rows[ids >= 0] = store.rows_of(ids[ids >= 0])
    except InputError as error:
        return f"those that came name {error}"
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    np.put_along_axis(rows, order, ordered, axis=1)
    return rows


def _score(
    store: Store, spec: TruthSpec, queries: F32, rows: I64, kernels: Kernels, progress: Progress
) -> tuple[I64, F32]:
    """The rows (q, k) best first, and their exact scores (q, k)."""
    data = Codes(store.layer(spec.layer))
    found, scores = np.empty_like(rows), np.empty(rows.shape, np.float32)
    for start in range(0, len(rows), BLOCK):
        part = np.s_[start : start + BLOCK]
        found[part], scores[part] = kernels.rerank(queries[part], rows[part], data, spec.metric, rows.shape[1])
        progress("score the given neighbours", min(start + BLOCK, len(rows)), len(rows), unit="queries")
    return found, scores


def _in_order(rows: I64, found: I64, scores: F32) -> float:
    """The share of the queries whose given neighbours come best first, small differences left aside."""
    given = np.empty(scores.shape)
    np.put_along_axis(given, np.argsort(rows, axis=1), np.take_along_axis(scores, np.argsort(found, axis=1), axis=1), 1)
    there = np.isfinite(given)
    rises = np.diff(np.where(there, given, 0), axis=1, append=-np.inf)
    rises = np.where(there & np.roll(there, -1, axis=1), rises, 0)
    slack = 1e-3 * np.abs(given).max(axis=1, keepdims=True, where=there, initial=0)
    return float((rises <= slack).all(axis=1).mean())


def _judged(store: Store, truth: Truth, in_order: float, kernels: Kernels) -> Truth:
    """The truth with what a sample of its queries, and the order of all its neighbours, says of it."""
    at = np.unique(np.linspace(0, len(truth) - 1, min(CHECKED, len(truth))).astype(np.int64))
    k, metric = truth.scores.shape[1], truth.spec.metric
    exact = exact_search(store, truth.spec.layer, truth.queries[at], k, metric=metric, kernels=kernels)
    agrees = recall(truth.scores[at], exact.scores, k)
    warnings = []
    if agrees < AGREEMENT:
        warnings.append(
            f"The imported neighbours hold {agrees:.1%} of the exact {k:,} nearest by {metric}, in a sample of "
            f"{len(at)} queries: recall against them says little. --held-out measures without them."
        )
    if in_order < IN_ORDER:
        warnings.append(
            f"The imported neighbours of {1 - in_order:.1%} of the queries are not in order of their scores by "
            f"{metric}: were they found by another metric?"
        )
    return replace(truth, agrees=round(agrees, 10), warnings=tuple(warnings))
