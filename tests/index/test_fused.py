"""Several layers in one search: equal to the textbook's weighted sum over every photo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexUnusableError, InputError
from engine.index import fused as fused_module
from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.fused import FusedIndex
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.change import remove
from engine.store.store import Store
from kernels import Kernels, load
from tests.builders import CPU, clustered, make_store, oracle_scores, recall

ROWS, NAMES = 2000, ("fc7", "fc8")
METRICS = ("cosine", "ip", "l2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """2,000 photos whose layers agree as those of one network do; an index of each by every metric."""
    pytest.importorskip("numba")
    fc7 = clustered(ROWS, 48, seed=1, relu=True)
    mixed = fc7 @ np.random.default_rng(2).standard_normal((48, 24)).astype(np.float32)
    fc8 = mixed / mixed.std() + 0.3 * clustered(ROWS, 24, seed=2)
    fc7[11], fc8[12] = 0, 0  # a photo without any feature in one layer
    fc7[900], fc8[900] = fc7[300], fc8[300]  # the same photo twice
    path = tmp_path_factory.mktemp("fused") / "store"
    made = make_store(path, {"fc7": fc7, "fc8": fc8.astype(np.float32)})
    for metric in METRICS:
        for layer in NAMES:
            spec = IndexSpec.model_validate({"layer": layer, "metric": metric})
            build_index(made, spec, device=CPU, name=layer if metric == "cosine" else f"{layer}-{metric}")
    return made


def opened(store: Store, metric: str = "cosine", weights: tuple[float, ...] | None = None) -> FusedIndex:
    names = [layer if metric == "cosine" else f"{layer}-{metric}" for layer in NAMES]
    return FusedIndex.open(store, names, weights, device=CPU)


def asked(store: Store, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {layer: np.asarray(store.layer(layer)[rows]) for layer in NAMES}


def oracle(store: Store, row: int | np.integer[Any], metric: str, weights: tuple[float, ...]) -> np.ndarray:
    layers = [np.asarray(store.layer(layer)) for layer in NAMES]
    scores = [w * oracle_scores(layer[row], layer, metric) for w, layer in zip(weights, layers, strict=True)]
    return np.asarray(sum(scores))


def recorded_searches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Grows by (queries, neighbours) at each search of an index."""
    seen: list[tuple[int, int]] = []
    search = Index.search

    def recorded(index: Index, rows: np.ndarray, spec: SearchSpec, **more: Any) -> Any:
        seen.append((len(rows), spec.k))
        return search(index, rows, spec, **more)

    monkeypatch.setattr(Index, "search", recorded)
    return seen


@pytest.mark.parametrize("metric", METRICS)
def test_exact_is_the_weighted_sum_of_every_photo(store: Store, metric: str, kernels: Kernels) -> None:
    weights, rows = (0.7, 0.3), np.array([0, 11, 12, 300, 1999])
    fused = FusedIndex.exact(store, NAMES, weights, metric, kernels)  # type: ignore[arg-type]
    ids = store.photo_ids[rows]
    found = fused.search(asked(store, rows), SearchSpec(k=15), exclude=ids)
    for i, row in enumerate(rows):
        truth = oracle(store, row, metric, weights)
        truth[row] = -np.inf
        scale = np.abs(truth[np.isfinite(truth)]).max()
        np.testing.assert_allclose(found.scores[i], np.sort(truth)[::-1][:15], atol=3e-6 * scale)
        np.testing.assert_allclose(found.scores[i], truth[store.rows_of(found.photo_ids[i])], atol=3e-6 * scale)
        assert ids[i] not in found.photo_ids[i] and len(set(found.photo_ids[i].tolist())) == 15


@pytest.mark.parametrize("metric", METRICS)
def test_indices_find_what_exact_search_finds(store: Store, metric: str) -> None:
    rows = np.arange(0, ROWS, 20)
    for weights in ((0.5, 0.5), (0.9, 0.1), (1.0, 3.0)):
        fused = opened(store, metric, weights)
        exact = FusedIndex.exact(store, NAMES, weights, metric, load(CPU))  # type: ignore[arg-type]
        ids = store.photo_ids[rows]
        truth = exact.search(asked(store, rows), exclude=ids)
        found = fused.search(asked(store, rows), exclude=ids)
        assert recall(found.scores, truth.scores) >= 0.95
        # With every photo a candidate it is the exact answer, to the bit.
        whole = fused.search(asked(store, rows[:9]), SearchSpec(k=ROWS), exclude=ids[:9])
        same = exact.search(asked(store, rows[:9]), SearchSpec(k=ROWS), exclude=ids[:9])
        assert np.array_equal(whole.photo_ids, same.photo_ids) and np.array_equal(whole.scores, same.scores)
        assert (whole.photo_ids[:, -1] == -1).all() and (whole.scores[:, -1] == -np.inf).all()


def test_all_weight_on_one_layer_is_that_layers_answer(store: Store) -> None:
    rows = np.arange(0, ROWS, 100)
    for weights, at in (((1.0, 0.0), 0), ((0.0, 1.0), 1)):
        fused = opened(store, "cosine", weights)
        assert fused.indices
        found, alone = fused.search(asked(store, rows)), fused.indices[at].search(asked(store, rows)[NAMES[at]])
        assert recall(found.scores, alone.scores) >= 0.95


def test_layers_that_know_nothing_of_each_other_are_fused_too(tmp_path: Path) -> None:
    made = make_store(tmp_path / "store", {"fc7": clustered(3000, 48, seed=1), "fc8": clustered(3000, 24, seed=2)})
    for layer in NAMES:
        build_index(made, IndexSpec(layer=layer), device=CPU)
    rows = np.arange(0, 3000, 30)
    truth = FusedIndex.exact(made, NAMES, None, "cosine", load(CPU)).search(asked(made, rows))
    assert recall(opened(made).search(asked(made, rows)).scores, truth.scores) >= 0.95


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, np.ndarray]]:
    """2,000 photos whose layers agree, 300 that are near query 0 in each layer and far from it in the other, and, the
    last row, one that is not very near in either; query 0, and nine more that are as photos of the 2,000.
    """
    random = np.random.default_rng(8)
    fc7 = clustered(2000, 24, seed=1)
    fc8 = fc7 @ np.linalg.qr(random.standard_normal((24, 24)))[0][:, :16].astype(np.float32)
    near, far = ([3.0] + [0.0] * (dim - 1) for dim in (24, 16))
    decoys = [np.array(one) + 0.1 * random.standard_normal((300, len(one))) for one in (near, far)]
    last = [np.array([[4.0, 3.0] + [0.0] * (dim - 2)]) for dim in (24, 16)]
    layers = {
        "fc7": np.concatenate([fc7, decoys[0], -decoys[0], last[0]]).astype(np.float32),
        "fc8": np.concatenate([fc8, -decoys[1], decoys[1], last[1]]).astype(np.float32),
    }
    store = make_store(tmp_path_factory.mktemp("deep") / "store", layers)
    for layer in NAMES:
        build_index(store, IndexSpec(layer=layer), device=CPU)
    others = asked(store, np.arange(0, 900, 100))
    queries = {
        name: np.vstack([np.array([one], np.float32), others[name]])
        for name, one in zip(NAMES, (near, far), strict=True)
    }
    return store, queries


def test_only_the_query_whose_answer_lies_deep_goes_deeper(
    deep: tuple[Store, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, queries = deep
    seen = recorded_searches(monkeypatch)
    found = opened(store).search(queries, SearchSpec(k=1))
    assert seen == [(10, 18)] * 2 + [(1, 72)] * 2 + [(1, 288)] * 2 + [(1, 1024)] * 2
    assert found.photo_ids[0, 0] == store.photo_ids[-1] and found.scores[0, 0] == pytest.approx(0.8, abs=1e-6)
    assert found.photo_ids[1:, 0].tolist() == store.photo_ids[np.arange(0, 900, 100)].tolist()
    # No deeper than a device can give: classic lists on CUDA 2,048, here 100.
    seen.clear()
    with monkeypatch.context() as device:
        device.setattr(ivfpq, "most_candidates", lambda device, rows: min(rows, 100))
        opened(store).search(queries, SearchSpec(k=1))
        assert seen == [(10, 18)] * 2 + [(1, 72)] * 2 + [(1, 100)] * 2
    # It is not found where no index may give more than at first.
    monkeypatch.setattr(fused_module, "LAST", 1)
    assert opened(store).search(queries, SearchSpec(k=1)).photo_ids[0, 0] != store.photo_ids[-1]


@pytest.mark.parametrize("metric", METRICS)
def test_what_the_bound_settles_is_the_answer_where_indices_miss_nothing(
    store: Store, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, weights = np.arange(0, ROWS, 50), (0.6, 0.4)
    monkeypatch.setattr(fused_module, "LEAST", 1)
    seen = recorded_searches(monkeypatch)
    found = opened(store, metric, weights).search(asked(store, rows), SearchSpec(k=10, probes=10_000, rerank=ROWS))
    assert seen[0] == (len(rows), 21) and sum(n for n, depth in seen if depth > 400) < len(rows), "little was settled"
    for i, row in enumerate(rows):
        truth = np.sort(oracle(store, row, metric, weights))[::-1][:10]
        np.testing.assert_allclose(found.scores[i], truth, atol=3e-6 * max(np.abs(truth).max(), 1))


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_in_many_blocks_is_the_weighted_sum(
    store: Store, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_module, "BLOCK_ROWS", 70)
    monkeypatch.setattr(fused_module, "BLOCK_QUERIES", 3)
    within = Filter.of_ids(store, without=store.photo_ids[100:900:3])
    rows, weights = np.array([0, 5, 11, 12, 300, 901, 1999]), (2.0, 0.0 if metric == "ip" else 0.25)
    fused = FusedIndex.exact(store, NAMES, weights, metric, load(CPU))  # type: ignore[arg-type]
    ids = store.photo_ids[rows]
    found = fused.search(asked(store, rows), SearchSpec(k=7), exclude=ids, within=within)
    for i, row in enumerate(rows):
        truth = np.where(within.mask, oracle(store, row, metric, weights), -np.inf)
        truth[row] = -np.inf
        scale = np.abs(truth[np.isfinite(truth)]).max()
        np.testing.assert_allclose(found.scores[i], np.sort(truth)[::-1][:7], atol=3e-6 * scale)
        assert within.mask[store.rows_of(found.photo_ids[i])].all()


def test_a_product_that_rounds_too_much_is_not_believed(tmp_path: Path) -> None:
    """Photos close together and far from the origin: float32 products cannot tell their distances."""
    random = np.random.default_rng(4)
    layers = {name: 1000 + random.standard_normal((600, dim)) for name, dim in (("fc7", 12), ("fc8", 8))}
    made = make_store(tmp_path / "store", layers)
    found = FusedIndex.exact(made, NAMES, None, "l2", load(CPU)).search(asked(made, np.arange(20)), SearchSpec(k=5))
    for row in range(20):
        truth = np.sort(oracle(made, row, "l2", (0.5, 0.5)))[::-1][:5]
        np.testing.assert_allclose(found.scores[row], truth, rtol=1e-5)


def test_equal_scores_are_in_order_of_row(store: Store) -> None:
    for fused in (opened(store), FusedIndex.exact(store, NAMES, None, "cosine", load(CPU))):
        found = fused.search(asked(store, np.array([300])), SearchSpec(k=2))
        assert found.photo_ids[0].tolist() == store.photo_ids[[300, 900]].tolist()
        assert fused.weights == (0.5, 0.5) and found.scores[0].tolist() == pytest.approx([1, 1], abs=1e-6)


@pytest.mark.parametrize("step", [2, 300])
def test_only_photos_of_a_filter_are_found(store: Store, step: int) -> None:
    rows = np.arange(0, ROWS, 200)
    ids = store.photo_ids[rows]
    within = Filter.of_ids(store, within=store.photo_ids[::step])
    exact = FusedIndex.exact(store, NAMES, None, "cosine", load(CPU))
    truth = exact.search(asked(store, rows), SearchSpec(k=5), exclude=ids, within=within)
    found = opened(store).search(asked(store, rows), SearchSpec(k=5), exclude=ids, within=within)
    assert recall(found.scores, truth.scores) >= 0.95
    for i, row in enumerate(rows):
        scores = np.where(within.mask, oracle(store, row, "cosine", (0.5, 0.5)), -np.inf)
        scores[row] = -np.inf
        np.testing.assert_allclose(truth.scores[i], np.sort(scores)[::-1][:5], atol=3e-6)
        assert within.mask[store.rows_of(found.photo_ids[i])].all()


def test_removed_photos_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "store"
    made = make_store(path, {"fc7": clustered(300, 16, seed=1), "fc8": clustered(300, 8, seed=2)})
    for layer in NAMES:
        build_index(made, IndexSpec(layer=layer), device=CPU)
    nearest = opened(made).search(asked(made, np.array([5])), SearchSpec(k=3)).photo_ids[0]
    remove(path, nearest[1:])
    after = Store.open(path)
    for fused in (opened(after), FusedIndex.exact(after, NAMES, None, "cosine", load(CPU))):
        found = fused.search(asked(after, np.array([5])), SearchSpec(k=300)).photo_ids[0]
        assert (found >= 0).sum() == 298 and not set(found.tolist()) & set(nearest[1:].tolist())


def test_scores_that_cannot_be_added_come_first_to_be_seen(tmp_path: Path) -> None:
    rows = clustered(50, 8, seed=1)
    rows[0], rows[1] = 3e38, -3e38
    huge = make_store(tmp_path / "store", {"fc7": rows, "fc8": -rows})
    fused = FusedIndex.exact(huge, NAMES, None, "ip", load(CPU))
    found = fused.search({"fc7": rows[:1], "fc8": rows[:1]}, SearchSpec(k=2))
    assert not np.isfinite(found.scores[0, 0]) and found.photo_ids[0, 0] in huge.photo_ids[:2]


def test_what_cannot_be_fused_is_said_in_one_line(store: Store) -> None:
    two = asked(store, np.arange(2))
    cases: dict[str, Callable[[], object]] = {
        "fc7 by cosine, fc8 by l2: scores of several metrics": lambda: FusedIndex.open(
            store, ["fc7", "fc8-l2"], device=CPU
        ),
        "expected several layers, each once": lambda: FusedIndex.open(store, ["fc7", "fc7-l2"], device=CPU),
        "expected 2, one for each of": lambda: opened(store, "cosine", (1.0, 2.0, 3.0)),
        "not all of them 0": lambda: opened(store, "cosine", (0.0, 0.0)),
        "weights -1,2": lambda: opened(store, "cosine", (-1.0, 2.0)),
        "weights nan,1": lambda: opened(store, "cosine", (float("nan"), 1.0)),
        "layer 'fc6'": lambda: FusedIndex.exact(store, ["fc7", "fc6"], None, "cosine", load(CPU)),
        "expected fc7 and fc8": lambda: opened(store).search({"fc7": two["fc7"]}),
        "as many queries of each layer": lambda: opened(store).search(two | {"fc8": two["fc8"][:1]}),
        "holds NaN": lambda: opened(store).search(two | {"fc8": two["fc8"] * np.nan}),
    }
    for says, wrong in cases.items():
        with pytest.raises(InputError) as error:
            wrong()
        assert says in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(IndexUnusableError, match="no such index"):
        FusedIndex.open(store, ["fc7", "fc9"], device=CPU)
