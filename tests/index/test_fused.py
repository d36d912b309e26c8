"""Several layers in one search: equal to the textbook's weighted sum over every photo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexUnusableError, InputError
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.fused import FusedIndex
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
