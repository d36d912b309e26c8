"""Recall, throughput and build time at the default settings, on several sets: what the defaults rest on.

`python -m benchmarks.defaults --photos 20000 100000` writes results/defaults.md and .json. For each set, layer and
metric: an index with the default specification, recall@10 of the default search against exact search (fair to ties,
1,000 held-out photos as queries), queries per second in batch, and exact search in the same run. The real set is
`../shared/data/vgg16_fc7_video_frames.npz` beside the repository, where it is present.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import table, write_result
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.truth import TruthSpec, ground_truth, recall
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import describe, synthesize
from engine.store.writer import StoreWriter
from kernels import Device, Metric

CPU = Device(kind="cpu")
REAL = Path(__file__).parents[2] / "shared" / "data" / "vgg16_fc7_video_frames.npz"
METRICS: tuple[Metric, ...] = ("cosine", "l2", "ip")


def sample_store(folder: Path, photos: int) -> Store:
    """The store of the sample collection, made if it is not there."""
    sample, store = folder / f"sample-{photos}", folder / f"store-{photos}"
    if not (store / "manifest.json").exists():
        if describe(sample) is None:
            synthesize(sample, photos=photos, seed=0)
        ingest([sample / "features"], store, device=CPU)
    return Store.open(store)


def real_store(folder: Path) -> Store:
    """The store of the real rows: fc7 of VGG16 for 4,080 video frames."""
    store = folder / "store-real"
    if not (store / "manifest.json").exists():
        rows = np.load(REAL)["fc7"]
        with StoreWriter(store, {"fc7": rows.shape[1]}) as writer:
            for start in range(0, len(rows), 256):
                block = rows[start : start + 256]
                ids = np.arange(start, start + len(block))
                writer.write(writer.reserve(len(block)), ids, {"fc7": block})
            writer.finish([REAL.name])
    return Store.open(store)


def measure(store: Store, layer: str, metric: Metric) -> dict[str, Any]:
    """Build anew, then the default search against the truth."""
    spec = IndexSpec(layer=layer, metric=metric)
    built = build_index(store, spec, device=CPU, name=f"{layer}-{metric}", force=True)
    index = Index.open(built.path, device=CPU, store=store)
    truth = ground_truth(store, TruthSpec(layer=layer, metric=metric, queries=1000, k=100), device=CPU)
    search = SearchSpec(k=10)
    index.search(truth.queries[:64], search)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        found = index.search(truth.queries, search, exclude=truth.query_ids)
        seconds.append(time.perf_counter() - started)
    manifest = index.manifest
    return {
        "layer": layer,
        "metric": metric,
        "rows": len(store),
        "lists": manifest.spec.lists,
        "probes": manifest.probes,
        "rerank": manifest.rerank,
        "recall@10": recall(found.scores, truth.scores, 10),
        "recall@1": recall(found.scores, truth.scores, 1),
        "qps": len(truth) / statistics.median(seconds),
        "build_seconds": built.seconds,
        "phases": {k.removeprefix("seconds_"): v for k, v in manifest.training.items() if k.startswith("seconds_")},
        "bytes_per_photo": built.bytes_per_photo,
        "explained": manifest.training.get("explained_variance"),
    }


def exact_qps(store: Store, layer: str) -> float:
    """Queries per second of exact search, cosine, 256 at a time."""
    index = Index.open(store.path / "indices" / f"{layer}-cosine", device=CPU, store=store)
    queries = np.asarray(store.layer(layer)[:256])
    started = time.perf_counter()
    index.search(queries, SearchSpec(k=10, probes=1 << 20, rerank=1 << 20))
    return len(queries) / (time.perf_counter() - started)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    sets = {f"sample {photos:,}": sample_store(options.dir, photos) for photos in options.photos}
    if REAL.exists():
        sets["real VGG16 fc7, video frames"] = real_store(options.dir)
    results, rows = [], []
    for name, store in sets.items():
        for layer in sorted(store.layers):
            for metric in METRICS:
                found = measure(store, layer, metric) | {"set": name}
                exact = exact_qps(store, layer) if metric == "cosine" else None
                results.append(found | {"exact_qps": exact})
                phases = ", ".join(
                    f"{phase} {seconds:.1f}" for phase, seconds in found["phases"].items() if seconds > 0.05
                )
                rows.append(
                    [name, layer, metric, f"{found['lists']} / {found['probes']} / {found['rerank']}",
                     f"{found['recall@10']:.4f}", f"{found['qps']:,.0f}", f"{exact:,.0f}" if exact else "",
                     f"{found['build_seconds']:.1f}", phases, f"{found['bytes_per_photo']:,.0f}"]
                )  # fmt: skip
                print(rows[-1], flush=True)
    header = ["set", "layer", "metric", "lists / probes / re-ranked", "recall@10", "queries/s", "exact q/s", "build s",
              "phases s", "index bytes/photo"]  # fmt: skip
    text = (
        "# The default index and the default search\n\n1,000 held-out photos, k = 10, all cores, median of 5 batches; "
        "recall fair to ties.\n\n" + table(header, rows)
    )
    write_result("defaults", {"results": results}, text)


if __name__ == "__main__":
    main()
