"""Recall with default settings, ties fair, on made-up photos and on real features where they are at hand."""

from pathlib import Path

import numpy as np
import pytest

from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from engine.store.synth import features
from kernels import load
from tests.builders import CPU, make_store, recall

REAL = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "vgg16_fc7_video_frames.npz"
FLOOR = 0.95


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Store:
    fc7, fc8 = features(0, 3000, seed=3)
    return make_store(tmp_path_factory.mktemp("sample") / "store", {"fc7": fc7, "fc8": fc8})


def check(store: Store, layer: str, metric: str) -> None:
    spec = IndexSpec.model_validate({"layer": layer, "metric": metric})
    index = Index.open(build_index(store, spec, device=CPU, name=f"{layer}-{metric}").path, device=CPU)
    assert index.shards, "too few rows: nothing approximate is tested"
    rows = np.random.default_rng(0).choice(len(store), 300, replace=False)
    queries, ids = np.asarray(store.layer(layer)[rows]), store.photo_ids[rows]
    true = exact_search(store, layer, queries, 10, metric=spec.metric, kernels=load("cpu"), exclude=ids)
    found = index.search(queries, SearchSpec(k=10), exclude=ids)
    assert recall(found.scores, true.scores) >= FLOOR
    # The floor means something: candidates alone, not compared again, stay well below it or at most reach it.
    assert recall(index.search(queries, SearchSpec(k=10, probes=1, rerank=10), exclude=ids).scores, true.scores) < 0.9


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("layer", ["fc7", "fc8"])
def test_recall_of_defaults_on_made_up_photos(sample, layer, metric):
    check(sample, layer, metric)


@pytest.mark.skipif(not REAL.exists(), reason="the real features are not shipped: shared/data beside the repository")
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_recall_of_defaults_on_real_features(tmp_path, metric):
    with np.load(REAL, allow_pickle=False) as data:
        check(make_store(tmp_path / "store", {"fc7": data["fc7"].astype(np.float32)}), "fc7", metric)
