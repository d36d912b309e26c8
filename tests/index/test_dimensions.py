"""Layers of any number of dimensions: the default index finds what exact search finds, and the axes are the axes."""

import numpy as np
import pytest

from engine.index import reduce
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from kernels import load
from tests.builders import CPU, clustered, make_store, oracle_scores, recall


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("dim", [1, 2, 7, 8, 16, 25, 100, 128])
def test_recall_of_defaults(tmp_path, dim, metric):
    """2,000 rows here; 5,000 rows of 2 to 960 dimensions gave 0.98 and more."""
    store = make_store(tmp_path / "store", {"x": clustered(2000, dim, seed=dim)})
    spec = IndexSpec.model_validate({"layer": "x", "metric": metric})
    index = Index.open(build_index(store, spec, device=CPU).path, device=CPU)
    assert bool(index.shards) == (dim >= 8)
    rows = np.random.default_rng(0).choice(len(store), 100, replace=False)
    queries, own = np.asarray(store.x[rows]), store.photo_ids[rows]
    true = exact_search(store, "x", queries, 10, metric=spec.metric, kernels=load("cpu"), exclude=own)
    assert recall(index.search(queries, SearchSpec(k=10), exclude=own).scores, true.scores) >= 0.95


def test_more_dimensions_than_a_covariance_is_taken_of(tmp_path, monkeypatch):
    """5,000 rows of 20,000 dimensions took a minute; here fewer count as many."""
    monkeypatch.setattr(reduce, "WIDE", 1000)
    data = clustered(1024, 16, seed=3) @ np.random.default_rng(3).standard_normal((16, 1500)).astype(np.float32)
    store = make_store(tmp_path / "store", {"wide": data})
    index = Index.open(build_index(store, IndexSpec(layer="wide", metric="l2"), device=CPU).path, device=CPU)
    assert index.shards and float(index.manifest.training["explained_variance"]) > 0.999
    found = index.search(data[:20], SearchSpec(k=5))
    for query, scores in zip(data[:20], found.scores, strict=True):
        true = np.sort(oracle_scores(query, data, "l2"))[::-1][:5]
        assert (scores >= true - 1e-5 * np.abs(true) - 1e-3).mean() >= 0.8


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize(("rows", "dim", "reduced"), [(900, 300, 32), (60, 300, 40), (500, 40, 40), (3, 20, 8)])
def test_axes_found_by_iteration_are_those_of_the_covariance(monkeypatch, unit, rows, dim, reduced):
    data, kernels = clustered(rows, dim, seed=rows), load("cpu")
    if not unit:
        data = data + np.float32(3)  # the mean is no axis
    at = np.arange(0, rows, 1)
    expected = reduce.learn(data, at, reduced, unit=unit, kernels=kernels)
    monkeypatch.setattr(reduce, "WIDE", 0)
    monkeypatch.setattr(reduce, "BLOCK_ROWS", 100)
    found = reduce.learn(data, at, reduced, unit=unit, kernels=kernels)
    assert found.axes.shape == expected.axes.shape and found.axes.dtype == np.float32
    assert np.abs(found.axes.T @ found.axes - np.eye(reduced)).max() < 1e-5
    assert found.explained == pytest.approx(expected.explained, abs=2e-4)
    strong = expected.axes[:, : max(reduced // 4, 1)]  # the last axes may stand for others of the same variance
    assert np.linalg.norm(found.axes.T @ strong, axis=0).min() > 0.999


@pytest.mark.parametrize("scale", [1e-30, 1e20])
def test_axes_by_iteration_of_features_of_any_size(monkeypatch, scale):
    monkeypatch.setattr(reduce, "WIDE", 0)
    data = clustered(400, 64, seed=1) * np.float32(scale)
    found = reduce.learn(data, np.arange(400), 16, unit=False, kernels=load("cpu"))
    assert np.isfinite(found.axes).all() and 0.5 < found.explained <= 1


def test_blocks_of_wide_rows_are_smaller(monkeypatch, tmp_path):
    """The same answers and the same bytes, whatever a block may hold."""
    data = clustered(1200, 32, seed=5)
    store = make_store(tmp_path / "store", {"x": data})
    sums = []
    for bytes_ in (1 << 30, 32 * 4 * 10, 1):
        monkeypatch.setattr("engine.index.build.BLOCK_BYTES", bytes_)
        monkeypatch.setattr("engine.index.exact.BLOCK_BYTES", bytes_)
        path = build_index(store, IndexSpec(layer="x"), device=CPU, force=True).path if bytes_ > 1 else None
        found = exact_search(store, "x", data[:5], 7, metric="l2", kernels=load("cpu"))
        sums.append((path and (path / "refine.npy").read_bytes(), found.photo_ids.tolist(), found.scores.tolist()))
    assert sums[0] == sums[1] and sums[0][1:] == sums[2][1:]
