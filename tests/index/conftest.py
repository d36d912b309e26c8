"""Small stores and indices that the tests of this folder share; nothing changes them."""

from pathlib import Path

import pytest

from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store

ROWS, DIM = 3000, 48


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """On small data FAISS's threads wait for each other more than they work, and tests run side by side anyway."""
    ivfpq.set_threads(1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Store:
    """3,000 rows: fc7 of 48 dimensions, half zeros; fc8 of 24."""
    layers = {"fc7": clustered(ROWS, DIM, seed=1, relu=True), "fc8": clustered(ROWS, 24, seed=2)}
    return make_store(tmp_path_factory.mktemp("photos") / "store", layers)


@pytest.fixture(scope="session")
def indices(photos: Store) -> dict[str, Index]:
    """One index of fc7 for each metric, with every default."""
    built = {}
    for metric in ("cosine", "ip", "l2"):
        spec = IndexSpec.model_validate({"layer": "fc7", "metric": metric})
        path: Path = build_index(photos, spec, device=CPU, name=metric).path
        built[metric] = Index.open(path, device="cpu")
    return built
