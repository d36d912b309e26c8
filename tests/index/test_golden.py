"""Stores and indices written by earlier versions still open, and answer as they did."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.index.verify import verify_index
from engine.store.store import Store
from engine.store.verify import verify_store

VERSIONS = sorted((Path(__file__).parents[1] / "golden").glob("v*"))


@pytest.mark.parametrize("golden", VERSIONS, ids=lambda path: path.name)
def test_a_golden_index_opens_and_answers_as_it_did(golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / "store", tmp_path / "store")
    assert verify_store(folder).damage == []
    assert verify_index(folder / "indices" / "fc7").damage == []
    store = Store.open(folder)
    index = Index.open(folder / "indices" / "fc7", device="cpu")
    found = index.search(store.layer("fc7")[::40], SearchSpec(k=5, probes=4, rerank=60))
    expected = json.loads((golden / "answers.json").read_text())
    assert found.photo_ids.tolist() == expected["photo_ids"]
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)


def test_there_is_a_golden_index_of_every_version() -> None:
    from engine.store.manifest import FORMAT_VERSION

    assert [path.name for path in VERSIONS] == [f"v{version}" for version in range(1, FORMAT_VERSION + 1)]
