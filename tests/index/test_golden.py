"""Stores and indices written by earlier versions still open, and answer as they did."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.index.manifest import read_index_manifest
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.index.verify import verify_index
from engine.store.store import Store
from engine.store.verify import verify_store
from kernels.reference import restore

GOLDEN = Path(__file__).parents[1] / "golden"
VERSIONS, INDICES = sorted(GOLDEN.glob("v*")), sorted(GOLDEN.glob("index-v*"))


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


@pytest.mark.parametrize("golden", INDICES, ids=lambda path: path.name)
def test_a_golden_index_that_was_tuned_answers_as_it_did(golden: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(golden / "store", tmp_path / "store")
    assert verify_index(folder / "indices" / "fc7").damage == []
    index = Index.open(folder / "indices" / "fc7", device="cpu")
    assert index.manifest.tuned is not None and index.manifest.tuned.rows == len(index) == 400
    queries = np.asarray(index.store.layer("fc7")[::40])
    recorded = json.loads((golden / "answers.json").read_text())
    assert len({tuple(expected["settings"]) for expected in recorded.values()}) == 3
    for expected in recorded.values():
        spec = SearchSpec.model_validate(expected["search"])
        assert list(index.settings(spec)) == expected["settings"]
        found = index.search(queries, spec)
        assert found.photo_ids.tolist() == expected["photo_ids"]
        np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)


def test_codes_of_4_bits_still_mean_the_rows_they_were_made_from() -> None:
    """So few rows are searched without them."""
    index = Index.open(GOLDEN / "index-v2" / "store" / "indices" / "fc7", device="cpu")
    rows = np.asarray(index.store.layer("fc7"))
    assert index.refine is not None and index.refine.packed == 32
    error = np.linalg.norm(restore(index.refine) - rows, axis=1) / np.linalg.norm(rows, axis=1)
    assert 0.01 < error.max() < 0.1


def test_there_is_a_golden_store_and_index_of_every_version() -> None:
    from engine.index.manifest import FORMAT_VERSION as INDEX_VERSION
    from engine.store.manifest import FORMAT_VERSION

    assert [path.name for path in VERSIONS] == [f"v{version}" for version in range(1, FORMAT_VERSION + 1)]
    folders = [path / "store" / "indices" / "fc7" for path in (*VERSIONS, *INDICES)]
    assert {read_index_manifest(folder).version for folder in folders} == set(range(1, INDEX_VERSION + 1))
