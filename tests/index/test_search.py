"""Searching an index: exact scores, the closeness of exact search, and an error for whatever is no query."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from engine.errors import InputError
from engine.index import search as search_module
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.query_rows import check_queries
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.index.verify import verify_index
from kernels import load
from tests.builders import CPU, Array, clustered, make_store, oracle_scores, recall
from tests.index.conftest import DIM, ROWS

METRICS = ["cosine", "ip", "l2"]


@pytest.fixture(scope="module")
def queries(photos) -> Array:
    random = np.random.default_rng(9)
    rows = photos.fc7[random.choice(ROWS, 200, replace=False)]
    return np.asarray(rows * random.uniform(0.8, 1.2, rows.shape), np.float32)


def exactly(index: Index, queries: Array, k: int, **options):
    metric = index.manifest.spec.metric
    return exact_search(index.store, index.layer, queries, k, metric=metric, kernels=load("cpu"), **options)


@pytest.mark.parametrize("metric", METRICS)
def test_all_lists_and_all_rows_are_exact(indices, queries, metric):
    index = indices[metric]
    found = index.search(queries, SearchSpec(k=10, probes=index.manifest.spec.lists, rerank=ROWS))
    true = exactly(index, queries, 10)
    assert np.array_equal(found.photo_ids, true.photo_ids)
    assert np.array_equal(found.scores, true.scores)


@pytest.mark.parametrize("metric", METRICS)
def test_all_lists_and_nearly_all_rows_lose_next_to_nothing(indices, queries, metric):
    """One row fewer takes the way through codes, sketches and refine codes."""
    index = indices[metric]
    found = index.search(queries, SearchSpec(k=10, probes=index.manifest.spec.lists, rerank=ROWS - 1))
    assert recall(found.scores, exactly(index, queries, 10).scores) >= 0.995


@pytest.mark.parametrize("metric", METRICS)
def test_defaults_find_what_exact_search_finds(indices, queries, metric):
    index = indices[metric]
    assert recall(index.search(queries).scores, exactly(index, queries, 10).scores) >= 0.95


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("options", [{}, {"probes": 1}, {"k": 100}, {"k": 3, "rerank": 3}, {"k": 400, "rerank": 500}])
def test_scores_are_those_of_the_raw_rows_best_first(indices, queries, photos, metric, options):
    found = indices[metric].search(queries[:50], SearchSpec(**options))
    assert (found.photo_ids.dtype, found.scores.dtype) == (np.int64, np.float32)
    for query, ids, scores in zip(queries, found.photo_ids, found.scores, strict=False):
        n = int((ids >= 0).sum())
        assert (ids[n:] == -1).all() and (scores[n:] == -np.inf).all()
        true = oracle_scores(query, photos.fc7, metric)[photos.rows_of(ids[:n])] if n else np.empty(0)
        assert (np.abs(scores[:n] - true) <= 1e-5 * np.maximum(np.abs(true), 1e-3)).all()
        assert (np.diff(scores[:n]) <= 0).all()
        assert len(set(ids[:n].tolist())) == n


def test_more_effort_never_finds_less(indices, queries):
    index = indices["cosine"]
    true = exactly(index, queries, 10).scores
    by_probes = [recall(index.search(queries, SearchSpec(probes=p)).scores, true) for p in (1, 4, 16, 64)]
    by_rerank = [recall(index.search(queries, SearchSpec(rerank=r)).scores, true) for r in (10, 40, 200, 1000)]
    for found in (by_probes, by_rerank):
        assert all(after >= before - 0.01 for before, after in pairwise(found)), found
        assert found[-1] > found[0] + 0.01, "the setting does nothing"


@pytest.mark.parametrize("k", [ROWS - 1, ROWS, ROWS + 1, 2 * ROWS])
@pytest.mark.parametrize("metric", METRICS)
def test_as_many_neighbours_as_there_are_photos(indices, queries, metric, k):
    found = indices[metric].search(queries[:3], SearchSpec(k=k))
    n = min(k, ROWS)
    assert (found.photo_ids[:, n:] == -1).all() and (found.scores[:, n:] == -np.inf).all()
    for ids in found.photo_ids:
        assert len(set(ids[:n].tolist())) == n
        assert (ids[:n] >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rerank", [None, ROWS])
def test_an_excluded_photo_is_not_in_its_own_answer(indices, photos, metric, rerank):
    rows = np.arange(0, ROWS, 30)
    ids = photos.photo_ids[rows].copy()
    ids[::3] = -1
    with_all = indices[metric].search(photos.fc7[rows], SearchSpec(k=5, rerank=rerank))
    without = indices[metric].search(photos.fc7[rows], SearchSpec(k=5, rerank=rerank), exclude=ids)
    assert not (without.photo_ids == np.where(ids < 0, -2, ids)[:, None]).any()
    assert (without.photo_ids >= 0).all()
    unchanged = ids < 0
    assert np.array_equal(without.photo_ids[unchanged], with_all.photo_ids[unchanged])
    if metric != "ip":
        excluded_itself = ids >= 0
        assert (with_all.photo_ids == photos.photo_ids[rows][:, None])[excluded_itself].any(axis=1).mean() > 0.95


def test_what_cannot_be_excluded_is_refused(indices, photos):
    index = indices["cosine"]
    with pytest.raises(InputError, match="photo 1: not in"):
        index.search(photos.fc7[:2], exclude=[1000, 1])
    for wrong in ([1000], [1000, 1007, 1014], 1000, [[1000, 1007]]):
        for spec in (SearchSpec(), SearchSpec(rerank=ROWS)):
            with pytest.raises(InputError, match="one photo id for each of 2 queries"):
                index.search(photos.fc7[:2], spec, exclude=wrong)
    one = index.search(photos.fc7[0], exclude=1000)
    assert 1000 not in one.photo_ids


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 1023, 1024, 1025, 2049])
@pytest.mark.parametrize("rerank", [None, ROWS])
def test_borders_of_query_blocks(indices, photos, count, rerank):
    """However many are asked together, each is answered as if alone."""
    assert search_module.BLOCK_QUERIES == 1024
    index, at = indices["cosine"], [i for i in (0, 1, 511, 1022, 1023, 1024, 2047, 2048) if i < count]
    asked = np.asarray(photos.fc7)[np.arange(count) * 7 % ROWS]
    together = index.search(asked, SearchSpec(k=4, rerank=rerank))
    assert together.photo_ids.shape == together.scores.shape == (count, 4)
    assert len(together) == count
    for i in at:
        alone = index.search(asked[i], SearchSpec(k=4, rerank=rerank))
        assert np.array_equal(alone.scores[0], together.scores[i])
        assert np.array_equal(alone.photo_ids[0], together.photo_ids[i])


def test_progress_counts_the_queries(indices, photos, monkeypatch):
    monkeypatch.setattr(search_module, "cpu_threads", lambda: 2)
    seen = []

    def listener(phase, done, total, *, unit="rows", detail=""):
        seen.append((done, total))

    indices["cosine"].search(np.asarray(photos.fc7)[:2500], progress=listener)
    assert seen == [(2048, 2500), (2500, 2500)]


def test_queries_of_any_form(indices, photos):
    index = indices["cosine"]
    rows = np.asarray(photos.fc7[:3])
    expected = index.search(rows).photo_ids
    for same in (
        rows.astype(np.float64), rows.tolist(), np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2],
        np.repeat(rows, 2, axis=1)[:, ::2], rows.astype(">f4"), photos.fc7[:3],
    ):  # fmt: skip
        assert np.array_equal(index.search(same).photo_ids, expected)
    assert np.array_equal(index.search(rows[1]).photo_ids, expected[1:2])
    integers = (rows * 100).astype(np.int16)
    assert np.array_equal(
        index.search(integers).photo_ids, index.search(integers.astype(np.float32)).photo_ids
    )  # fmt: skip


WRONG_SHAPES = {
    "too few dimensions": np.zeros((2, DIM - 1)), "too many": np.zeros((2, DIM + 1)),
    "three axes": np.zeros((1, 1, DIM)), "a number": 3.0, "nothing": [], "transposed": np.zeros((DIM, 2)),
    "text": [["a"] * DIM], "bool": np.ones((1, DIM), bool), "complex": np.zeros((1, DIM), complex),
    "objects": np.full((1, DIM), None),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_what_is_no_query_is_refused(indices, case):
    with pytest.raises(InputError, match=rf"expected \(n, {DIM}\) float32 for fc7"):
        indices["cosine"].search(WRONG_SHAPES[case])


def test_ragged_queries_are_refused(indices):
    with pytest.raises((InputError, ValueError)):
        indices["cosine"].search([[1.0] * DIM, [1.0]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300])
@pytest.mark.parametrize("at", [(0, 0), (4, DIM - 1)])
def test_values_that_are_not_finite_are_refused(indices, value, at):
    asked = np.zeros((5, DIM))
    asked[at] = value
    with pytest.raises(InputError, match=rf"query {at[0]}: holds NaN, infinity or values past float32"):
        indices["cosine"].search(asked)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-30, 1e18, 1e30, 3e38])
def test_queries_of_any_finite_size_are_answered(indices, photos, metric, size):
    """For cosine and inner product the size of a query changes no order."""
    rows = np.asarray(photos.fc7[100:120])
    asked = (rows / np.abs(rows).max() * size).astype(np.float32)
    found = indices[metric].search(asked)
    assert not np.isnan(found.scores).any()
    assert (found.photo_ids >= 0).all()
    if metric == "cosine" and size >= 1e-30:
        # Compared by true score: another size may order equal scores in another way.
        true = exactly(indices[metric], asked, 10)
        assert recall(found.scores, true.scores) >= 0.9


def test_check_queries_gives_rows_that_kernels_take():
    rows = check_queries(np.asfortranarray(np.ones((3, 4), np.float64)), 4, "x")
    assert (rows.dtype, rows.shape, rows.flags["C_CONTIGUOUS"]) == (np.dtype(np.float32), (3, 4), True)


@pytest.mark.parametrize(("metric", "refine", "bits"), [
    ("cosine", "uint8", 8), ("cosine", "float16", 4), ("cosine", "none", 4), ("ip", "uint8", 4), ("ip", "float16", 8),
    ("l2", "uint8", 8), ("l2", "none", 4), ("cosine", "uint4", 4), ("ip", "uint4", 4), ("l2", "uint4", 8),
])  # fmt: skip
def test_every_kind_of_codes_finds_the_neighbours(photos, queries, metric, refine, bits):
    spec = IndexSpec(layer="fc7", metric=metric, refine=refine, pq_bits=bits, lists=16)
    index = Index.open(build_index(photos, spec, device=CPU, name=f"codes-{metric}-{refine}-{bits}").path, device=CPU)
    assert (index.refine is None) == (refine == "none")
    found = index.search(queries, SearchSpec(k=10, probes=16, rerank=600))
    assert recall(found.scores, exactly(index, queries, 10).scores) >= 0.97


def test_four_bit_codes_are_half_as_large_and_lose_next_to_nothing(photos, queries):
    found, sizes = {}, {}
    for refine in ("uint8", "uint4"):
        spec = IndexSpec(layer="fc7", refine=refine, lists=16)
        report = build_index(photos, spec, device=CPU, name=f"half-{refine}")
        index = Index.open(report.path, device=CPU)
        assert verify_index(report.path).damage == [] and index.refine is not None
        answer = index.search(queries, SearchSpec(k=10, probes=16, rerank=300))
        found[refine] = recall(answer.scores, exactly(index, queries, 10).scores)
        sizes[refine] = report.manifest.parts["refine.npy"].bytes - 128
    assert sizes["uint8"] == 2 * sizes["uint4"] and found["uint4"] >= found["uint8"] - 0.002


@pytest.mark.parametrize("dim", [9, 33])
def test_four_bit_codes_of_an_odd_number_of_dimensions(tmp_path, dim):
    data = clustered(1500, dim, seed=3)
    store = make_store(tmp_path / "store", {"x": data})
    index = Index.open(build_index(store, IndexSpec(layer="x", refine="uint4"), device=CPU).path, device=CPU)
    assert index.refine is not None and index.refine.values.shape == (1500, (dim + 1) // 2)
    found = index.search(data[:40], SearchSpec(k=5, probes=64, rerank=400))
    assert recall(found.scores, exactly(index, data[:40], 5).scores) >= 0.95


def test_other_layers_and_dimensions(photos):
    for spec in (
        IndexSpec(layer="fc8"), IndexSpec(layer="fc8", reduced=7), IndexSpec(layer="fc8", reduced=24, pq_m=3),
        IndexSpec(layer="fc8", reduced=500), IndexSpec(layer="fc8", lists=1), IndexSpec(layer="fc8", training_rows=300),
    ):  # fmt: skip
        path = build_index(photos, spec, device=CPU, name="other", force=True).path
        index = Index.open(path, device=CPU)
        found = index.search(photos.fc8[:50], SearchSpec(k=5, probes=64, rerank=500))
        assert recall(found.scores, exactly(index, photos.fc8[:50], 5).scores) >= 0.95


def test_searching_from_several_threads(indices, queries):
    index = indices["cosine"]
    expected = index.search(queries).photo_ids
    wrong: list[bool] = []

    def work():
        wrong.extend(not np.array_equal(index.search(queries).photo_ids, expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 20


def test_results_cannot_be_half_ids(indices, photos):
    """Row numbers never leak: every id in an answer is one of the store's."""
    found = indices["l2"].search(np.asarray(photos.fc7[:200]), SearchSpec(k=30))
    assert np.isin(found.photo_ids, photos.photo_ids).all()
