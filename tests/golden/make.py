"""Writes the golden store and index of these format versions: `python -m tests.golden.make store`, or `index`.

Run once for each format version, of the store (`v1`, ...) and of the index (`index-v2`, ...), by the engine that
introduced it, and never again: what lies here stands for files that users have. tests/index/test_golden.py opens it.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from engine.index.build import build_index
from engine.index.manifest import FORMAT_VERSION as INDEX_VERSION
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.tune import TuneSpec, run_tune
from engine.store.manifest import FORMAT_VERSION
from engine.store.store import Store
from engine.store.writer import StoreWriter
from kernels import Device

CPU = Device(kind="cpu")
FOLDER = Path(__file__).parent
# What is recorded of an index: with each, the settings it stands for and the answers to every 40th row.
SEARCHES: dict[str, dict[str, Any]] = {
    "default": {"k": 5},
    "recall": {"k": 5, "recall": 0.8},
    "given": {"k": 5, "probes": 4, "rerank": 60},
}


def make_store(folder: Path) -> Store:
    """400 rows of 32 dimensions, and queries that came along."""
    rng = np.random.default_rng(7)
    rows = np.maximum(rng.standard_normal((400, 32)) + rng.standard_normal((20, 32)).repeat(20, axis=0), 0)
    layer = rows.astype(np.float32)
    with StoreWriter(folder / "store", {"fc7": 32}) as writer:
        writer.write(writer.reserve(400), np.arange(1000, 1400), {"fc7": layer})
        near = np.arange(1000, 1400).reshape(20, 20)[:, :5]
        writer.query_set("fc7", layer.reshape(20, 20, 32).mean(axis=1), near, None, "cosine")
        manifest = writer.finish(["golden"])
    assert manifest.rows == 400
    return Store.open(folder / "store")


def of_store() -> None:
    """A store, an index with lists, and the answers it gives."""
    folder = FOLDER / f"v{FORMAT_VERSION}"
    store = make_store(folder)
    report = build_index(store, IndexSpec(layer="fc7", lists=4, reduced=16), device=CPU)
    index = Index.open(report.path, device=CPU)
    found = index.search(store.layer("fc7")[::40], SearchSpec(k=5, probes=4, rerank=60))
    (folder / "answers.json").write_text(json.dumps(_answers(found)) + "\n")


def of_index() -> None:
    """An index that was tuned, of lists and 4-bit codes of the raw rows, and the answers it gives."""
    folder = FOLDER / f"index-v{INDEX_VERSION}"
    store = make_store(folder)
    report = build_index(store, IndexSpec(layer="fc7", lists=8, reduced=16, refine="uint4"), device=CPU)
    run_tune(store, "fc7", TuneSpec(recall=0.9, queries=100, rounds=1), device=CPU)
    shutil.rmtree(store.path / "truth", ignore_errors=True)  # belongs to no index
    index = Index.open(report.path, device=CPU)
    searches = {name: SearchSpec.model_validate(values) for name, values in SEARCHES.items()}
    answers = {
        name: {
            "search": SEARCHES[name],
            "settings": index.settings(search),
            **_answers(index.search(store.layer("fc7")[::40], search)),
        }
        for name, search in searches.items()
    }
    (folder / "answers.json").write_text(json.dumps(answers) + "\n")


def _answers(found: SearchResult) -> dict[str, Any]:
    scores = [[round(x, 5) for x in row] for row in found.scores.tolist()]
    return {"photo_ids": found.photo_ids.tolist(), "scores": scores}


if __name__ == "__main__":
    {"store": of_store, "index": of_index}[sys.argv[1]]()
