"""Exact search is exact: against the textbook in float64, for features of any size, at every border of its blocks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.index import exact
from engine.index.exact import exact_search
from engine.store.store import Store
from kernels import load
from tests.builders import Array, make_store, oracle_scores
from tests.index.removal import mark_removed
from tests.kernels import emulated
from tests.kernels.conftest import emulated_or_skip

METRICS = ["cosine", "ip", "l2"]


def check(
    store: Store, layer: str, queries: Array, k: int, metric: str, *, banned: Array | None = None, kernels: Any = None
) -> None:
    """Every answer has its true score, no better row is missing, no row comes twice, best first, ties by row."""
    result = exact_search(
        store, layer, queries, k, metric=metric, kernels=kernels or load("cpu"),  # type: ignore[arg-type]
        exclude=None if banned is None else np.where(banned >= 0, store.photo_ids[banned], -1),
    )  # fmt: skip
    assert result.photo_ids.shape == result.scores.shape == (len(queries), k)
    data = np.asarray(store.layer(layer))
    for i, query in enumerate(queries):
        true = oracle_scores(query, data, metric).astype(np.float32)
        allowed = np.arange(len(data)) != (-1 if banned is None else banned[i])
        n = min(k, int(allowed.sum()))
        ids, scores = result.photo_ids[i, :n], result.scores[i, :n]
        rows = store.rows_of(ids)
        assert len(set(rows.tolist())) == n
        assert allowed[rows].all()
        slack = 2e-6 * np.maximum(np.abs(true[rows]), 1e-30)
        assert (np.abs(scores - true[rows]) <= slack).all()
        assert (np.sort(true[allowed])[::-1][:n] - scores <= 3e-6 * np.abs(scores) + 1e-30).all(), (
            "a better one is missing"
        )
        assert (np.diff(scores) <= 0).all()
        assert ((np.diff(scores) < 0) | (np.diff(rows) > 0)).all(), "equal scores are not in order of row"
        assert (result.photo_ids[i, n:] == -1).all()
        assert (result.scores[i, n:] == -np.inf).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 10, 100, 2999, 3000, 3500])
def test_it_is_the_textbook(photos, metric, k):
    random = np.random.default_rng(k)
    queries = np.vstack([photos.fc7[random.choice(3000, 4)], random.random((3, 48), np.float32), np.zeros((1, 48))])
    check(photos, "fc7", queries.astype(np.float32), k, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_excluded_rows_do_not_cost_an_answer(photos, metric):
    rows = np.array([0, 1, 2999, 1500, -1])
    check(photos, "fc7", photos.fc7[rows], 10, metric, banned=rows)
    check(photos, "fc7", photos.fc7[rows], 3000, metric, banned=rows)


@pytest.mark.parametrize("metric", METRICS)
def test_borders_of_blocks(photos, metric, monkeypatch):
    monkeypatch.setattr(exact, "BLOCK_ROWS", 7)
    monkeypatch.setattr(exact, "BLOCK_QUERIES", 3)
    for rows in (1, 6, 7, 8, 14, 20):
        store = make_store(photos.path.parent / f"borders-{metric}-{rows}", {"fc7": np.asarray(photos.fc7[:rows])})
        for queries in (1, 2, 3, 4, 6, 7):
            check(store, "fc7", photos.fc7[100 : 100 + queries], 3, metric)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), rows=st.integers(1, 60), dim=st.integers(1, 40), k=st.integers(1, 70),
    metric=st.sampled_from(METRICS), values=st.sampled_from(["real", "few", "zero", "sparse"]),
    block=st.integers(1, 20),
)  # fmt: skip
def test_any_small_store(tmp_path_factory, seed, rows, dim, k, metric, values, block):
    random = np.random.default_rng(seed)
    data: Array = random.standard_normal((rows, dim))
    if values == "few":  # ties everywhere
        data = random.integers(-1, 2, (rows, dim))
    elif values == "zero":
        data = np.zeros((rows, dim))
    elif values == "sparse":
        data *= random.random((rows, dim)) < 0.2
    data = data.astype(np.float32)
    store = make_store(tmp_path_factory.mktemp("any") / "store", {"x": data})
    before, exact.BLOCK_ROWS = exact.BLOCK_ROWS, block
    try:
        check(store, "x", np.vstack([data[:3], random.standard_normal((2, dim))]).astype(np.float32), k, metric)
    finally:
        exact.BLOCK_ROWS = before


SHIFTED = {"far from zero": (1.0, 1000.0), "very far from zero": (1.0, 1e5), "near": (1e-3, 1.0), "tiny": (1e-12, 0.0),
           "large": (1e12, 0.0), "at the limit": (1e17, 0.0)}  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", SHIFTED)
def test_no_rounding_hides_a_row(tmp_path, case, metric):
    """Where float32 products say little about small differences, and more rows than any margin lie in between."""
    size, offset = SHIFTED[case]
    random = np.random.default_rng(3)
    data = (random.standard_normal((2000, 64)) * size + offset).astype(np.float32)
    queries = np.vstack([data[:10], data[10:20] + random.standard_normal((10, 64)) * size / 4]).astype(np.float32)
    check(make_store(tmp_path / "store", {"x": data}), "x", queries, 10, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_past_the_squares_of_float32_do_not_spoil_the_others(tmp_path, metric):
    random = np.random.default_rng(3)
    data = random.standard_normal((2000, 64)).astype(np.float32)
    data[5], data[6], data[1000, 0], data[1001, 1] = 3e38, -3e38, 1e25, -1e25
    store = make_store(tmp_path / "store", {"x": data})
    found = exact_search(store, "x", data[10:30], 10, metric=metric, kernels=load("cpu"))
    assert not np.isnan(found.scores).any()
    for i in range(20):
        true = oracle_scores(data[10 + i], data, metric)
        assert (true[store.rows_of(found.photo_ids[i])] >= np.sort(true)[-10] - 1e-6 * abs(np.sort(true)[-10])).all()


@pytest.mark.parametrize("size", [1e25, 1e38])
def test_cosine_knows_no_size(tmp_path, size):
    random = np.random.default_rng(3)
    data = (random.uniform(-1, 1, (2000, 64)) * size).astype(np.float32)
    check(make_store(tmp_path / "store", {"x": data}), "x", data[:5] / np.float32(3), 10, "cosine")


def test_many_copies_of_the_query(tmp_path):
    data = np.repeat(np.random.default_rng(0).random((40, 16), np.float32), 50, axis=0)
    for metric in METRICS:
        check(make_store(tmp_path / metric, {"x": data}), "x", data[::200], 10, metric)


def test_nothing_asked_nothing_answered(photos):
    found = exact_search(photos, "fc7", np.empty((0, 48), np.float32), 5, metric="cosine", kernels=load("cpu"))
    assert found.photo_ids.shape == found.scores.shape == (0, 5)


@pytest.mark.parametrize("exclude", [[1000], [1000, 1007, 1014], [[1000, 1007]]])
def test_excluding_another_number_of_photos_is_refused(photos, exclude):
    with pytest.raises(InputError, match="one photo id for each of 2 queries"):
        exact_search(
            photos, "fc7", photos.fc7[:2], 5, metric="cosine", kernels=load("cpu"), exclude=np.array(exclude)
        )  # fmt: skip


def counted(monkeypatch: pytest.MonkeyPatch, kernels: Any, name: str) -> list[Any]:
    """What a kernel is given first, each time."""
    seen: list[Any] = []
    function = getattr(kernels, name)

    def counting(first: Any, *more: Any) -> Any:
        seen.append(first)
        return function(first, *more)

    monkeypatch.setattr(kernels, name, counting)
    return seen


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bring", [1, 1000])
def test_on_a_device_the_rows_go_there_as_a_whole_for_many_queries(tmp_path, monkeypatch, metric, bring):
    monkeypatch.setattr(exact, "BRING_ROWS", bring)
    monkeypatch.setattr(exact, "QUERIES_ON_GPU", 5)
    monkeypatch.setattr(exact, "BLOCK_ROWS", 100)
    kernels, random = emulated_or_skip(), np.random.default_rng(4)
    data, queries = random.standard_normal((250, 20)).astype(np.float32), random.standard_normal((12, 20))
    store = mark_removed(make_store(tmp_path / "store", {"x": data}), [3, 77, 249])
    whole = counted(monkeypatch, kernels, "resident")
    found = exact_search(store, "x", queries.astype(np.float32), 8, metric=metric, kernels=kernels)
    assert len(whole) == (bring == 1)
    for i, query in enumerate(queries.astype(np.float32)):
        true = oracle_scores(query, data, metric)
        true[[3, 77, 249]] = -np.inf
        np.testing.assert_array_equal(found.photo_ids[i], store.photo_ids[np.argsort(-true, kind="stable")[:8]])


@pytest.mark.parametrize("metric", METRICS)
def test_rows_on_a_device_come_back_where_products_say_too_little(tmp_path, monkeypatch, metric):
    kernels, random = emulated_or_skip(), np.random.default_rng(3)
    data = (random.standard_normal((600, 64)) * 1e-4 + 1).astype(np.float32)
    store = make_store(tmp_path / "store", {"x": data})
    monkeypatch.setattr(exact, "BRING_ROWS", 1)
    back = counted(monkeypatch, kernels, "to_host")
    check(store, "x", data[:4], 10, metric, kernels=kernels)
    assert back and all(isinstance(rows, emulated.DeviceArray) for rows in back)
