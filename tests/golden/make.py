"""Writes the golden store and index of this format version: `python -m tests.golden.make`.

Run once for each format version, by the engine that introduced it, and never again: what lies here stands for the
files that users have. tests/index/test_golden.py opens it.
"""

import json
from pathlib import Path

import numpy as np

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.manifest import FORMAT_VERSION
from engine.store.writer import StoreWriter
from kernels import Device

CPU = Device(kind="cpu")
FOLDER = Path(__file__).parent / f"v{FORMAT_VERSION}"


def main() -> None:
    """400 rows of 32 dimensions, an index with lists, and the answers it gives."""
    rng = np.random.default_rng(7)
    rows = np.maximum(rng.standard_normal((400, 32)) + rng.standard_normal((20, 32)).repeat(20, axis=0), 0)
    layer = rows.astype(np.float32)
    with StoreWriter(FOLDER / "store", {"fc7": 32}) as writer:
        writer.write(writer.reserve(400), np.arange(1000, 1400), {"fc7": layer})
        near = np.arange(1000, 1400).reshape(20, 20)[:, :5]
        writer.query_set("fc7", layer.reshape(20, 20, 32).mean(axis=1), near, None, "cosine")
        manifest = writer.finish(["golden"])
    assert manifest.rows == 400
    # In version 2 also: queries that came along, and photos that were removed later.
    from engine.store.store import Store

    store = Store.open(FOLDER / "store")
    report = build_index(store, IndexSpec(layer="fc7", lists=4, reduced=16), device=CPU)
    found = Index.open(report.path, device=CPU).search(layer[::40], SearchSpec(k=5, probes=4, rerank=60))
    answers = {
        "photo_ids": found.photo_ids.tolist(),
        "scores": [[round(x, 5) for x in row] for row in found.scores.tolist()],
    }
    (FOLDER / "answers.json").write_text(json.dumps(answers) + "\n")


if __name__ == "__main__":
    main()
