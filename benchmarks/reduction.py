"""Which reduction keeps the true neighbours: the share of the exact 10 nearest in the top R of the reduced space.

`python -m benchmarks.reduction` writes results/reduction.md and .json. Axes of the centred covariance (`cov`) or of the
second moment (`mom`), 128 or 256 of them; scores by inner product, by cosine in the reduced space (rows made unit
length again), by L2, and by L2 with the full length of the row. Exact scores in the reduced space: no codes, no lists.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.defaults import REAL, real_store, sample_store
from benchmarks.machine import table, write_result
from engine.store.store import Store
from kernels import load

F32 = npt.NDArray[np.float32]
RANKS = (10, 20, 40, 100)
QUERIES = 400


def scores(queries: F32, rows: F32, metric: str, norm2: F32 | None = None) -> F32:
    """Scores (q, n), up to a constant for each query."""
    products: F32 = queries @ rows.T
    if metric != "l2":
        return products
    return 2 * products - ((rows * rows).sum(axis=1) if norm2 is None else norm2)


def unit(rows: F32) -> F32:
    """Rows of unit length."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def best(found: F32, own: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """The k best (q, k), each query's own row left out, best first."""
    found[np.arange(len(own)), own] = -np.inf
    top = np.argpartition(-found, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(found, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def variants(rows: F32, reduced: F32, metric: str) -> Iterator[tuple[str, F32, str, F32 | None]]:
    """Ways to compare reduced rows: (name, rows, metric, squared lengths)."""
    if metric == "cosine":
        yield "inner product", reduced, "ip", None
        yield "cosine", unit(reduced), "ip", None
    elif metric == "l2":
        yield "l2", reduced, "l2", None
        yield "l2, full length", reduced, "l2", np.asarray((rows * rows).sum(axis=1), np.float32)
    else:
        yield "inner product", reduced, "ip", None


def measure(data: F32, metric: str) -> Iterator[dict[str, Any]]:
    """The share kept by every variant, for one set and metric."""
    rng = np.random.default_rng(1)
    rows = unit(data) if metric == "cosine" else data
    own = rng.choice(len(rows), min(QUERIES, len(rows)), replace=False)
    truth = best(scores(rows[own], rows, "ip" if metric == "cosine" else metric), own, 10)
    sample = rows[rng.choice(len(rows), min(20_000, len(rows)), replace=False)].astype(np.float64)
    moment, mean = sample.T @ sample / len(sample), sample.mean(axis=0)
    for basis, matrix in (("cov", moment - np.outer(mean, mean)), ("mom", moment)):
        axes, _ = load("cpu").top_axes(matrix, 256)
        for count in (128, 256):
            reduced = np.asarray(rows @ axes[:, :count])
            for name, compared, by, norm2 in variants(rows, reduced, metric):
                found = best(scores(compared[own], compared, by, norm2), own, RANKS[-1])
                kept = [
                    float(np.mean([len(set(t) & set(f[:rank])) / 10 for t, f in zip(truth, found, strict=True)]))
                    for rank in RANKS
                ]
                yield {"metric": metric, "axes": basis, "count": count, "by": name, "kept": kept}


def sets(folder: Path, photos: int) -> Iterator[tuple[str, str, Store]]:
    """The sets: name, layer, store."""
    sample = sample_store(folder, photos)
    yield from ((f"sample {photos:,}", layer, sample) for layer in ("fc7", "fc8"))
    if REAL.exists():
        yield "real VGG16 fc7, video frames", "fc7", real_store(folder)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    results, rows = [], []
    for name, layer, store in sets(options.dir, options.photos):
        for metric in ("cosine", "l2", "ip"):
            for found in measure(np.array(store.layer(layer)), metric):
                results.append(found | {"set": name, "layer": layer})
                shares = [f"{share:.3f}" for share in found["kept"]]
                rows.append([name, layer, metric, found["axes"], found["count"], found["by"], *shares])
    header = ["set", "layer", "metric", "axes", "count", "compared by", *(f"top {rank}" for rank in RANKS)]
    text = "# Share of the exact 10 nearest in the top R of the reduced space\n\n" + table(header, rows)
    write_result("reduction", {"results": results}, text)


if __name__ == "__main__":
    main()
