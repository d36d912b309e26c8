"""k nearest neighbours beside the field's engines: build, size, recall, throughput, latency, in one run.

`python -m benchmarks.search` makes the sample collection (`--photos` and 1,000 more, which are the queries), builds
every peer's index in a process of its own, and writes results/search-LAYER-METRIC-PHOTOS.md, .json and .png.

Recall@10 is fair to ties: an answer counts when its exact score is at least the tenth true one, less a relative 1e-6.
Throughput: all queries in one call; every setting of every peer once a round, rounds in turn, medians. Latency:
single queries at each peer's quickest setting of recall 0.95. Bytes: of the files of the index for each vector;
graphs over raw vectors and ScaNN hold these, mirsearch and the rivals read them from the store.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ingest import sample
from benchmarks.machine import RESULTS, table, write_result
from benchmarks.peer_autofaiss import PYTHON, Autofaiss
from benchmarks.peer_ours import Rival
from benchmarks.peer_task import CPU, F32, I64, Peer, Task
from benchmarks.peers import PEERS
from engine.index.exact import exact_search
from engine.jobs.import_vectors import ImportSpec, import_vectors
from engine.store.dat import PHOTOS_PER_FOLDER
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import features
from kernels import Codes, load

K, QUERIES, SINGLES = 10, 1_000, 300
TARGETS = (0.90, 0.95, 0.98, 0.99)


@dataclass
class Point:
    """One setting of one peer."""

    peer: str
    name: str
    setting: Any
    queries: int
    recall: float = 0.0
    seconds: list[float] = field(default_factory=list)
    singles: list[Any] = field(default_factory=list)

    @property
    def qps(self) -> float:
        """Queries per second."""
        return self.queries / statistics.median(self.seconds)


def collection(folder: Path, photos: int, layer: str) -> tuple[Store, F32]:
    """A store of so many photos of the sample collection, and the layer of the 1,000 that follow as queries."""
    if photos % PHOTOS_PER_FOLDER:
        raise SystemExit(f"--photos {photos}: expected a multiple of {PHOTOS_PER_FOLDER:,}")
    store = folder / f"store-{photos}"
    if not (store / "manifest.json").exists():
        ingest([sample(folder, photos) / "features"], store, device=CPU)
    return Store.open(store), following(photos, layer)


def following(photos: int, layer: str, count: int = QUERIES) -> F32:
    """The layer of the `count` photos that follow so many in the sample collection, (count, dim)."""
    fc7, fc8 = features(photos, count, seed=0)
    return {"fc7": fc7, "fc8": fc8}[layer]


def public(folder: Path, file: Path) -> tuple[Store, F32]:
    """A store of the vectors of a file in the format of ann-benchmarks, as layer `vectors`, and its queries."""
    store = folder / f"store-{file.stem}"
    if not (store / "manifest.json").exists():
        import_vectors(ImportSpec(file=file, layer="vectors"), store)
    opened = Store.open(store)
    given = opened.query_set("vectors")
    if given is None:
        raise SystemExit(f"{file}: has no queries (a dataset `test`)")
    return opened, np.asarray(given.queries[:QUERIES], np.float32)


def build(task: Task, name: str) -> dict[str, float]:
    """Build a peer, or take over what is there."""
    facts = task.folder / "facts.json"
    if not facts.exists():
        task.folder.mkdir(parents=True, exist_ok=True)
        words = [str(task.store.path), task.layer, task.metric, name, str(task.folder)]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peer_build", *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        peer: Any = PEERS[name]
        built = peer.facts(task) if isinstance(peer, Autofaiss) else json.loads(done.stdout.splitlines()[-1])
        facts.write_text(json.dumps(built))
    found: dict[str, float] = json.loads(facts.read_text())
    files = [task.folder / "index", *(task.folder / "index").glob("*")]
    found["bytes"] = sum(file.stat().st_size for file in files if file.is_file())
    return found


class Recall:
    """Of answers, against the exact one."""

    def __init__(self, task: Task, queries: F32) -> None:
        self.task, self.queries, self.kernels = task, queries, load(CPU)
        truth = exact_search(task.store, task.layer, queries, K, metric=task.metric, kernels=self.kernels)
        least = truth.scores[:, -1].astype(np.float64)
        self.least = least - 1e-6 * np.abs(least)

    def __call__(self, found: I64) -> float:
        """Of rows (q, k), k ≥ 10."""
        found = np.where(np.arange(found.shape[1]) < K, found, -1)
        _, scores = self.kernels.rerank(self.queries, found, Codes(self.task.rows), self.task.metric, K)
        return float((scores >= self.least[:, None]).mean())


def measure(peers: dict[str, Peer], queries: F32, recall: Recall, rounds: int) -> list[Point]:
    """Every setting of every peer."""
    points = [
        Point(name, label, setting, len(queries)) for name, peer in peers.items() for label, setting in peer.settings
    ]
    for point in points:
        point.recall = recall(peers[point.peer].search(queries, K, point.setting))
        print(f"{point.peer}, {point.name}: recall {point.recall:.4f}", flush=True)
    chosen = {id(best) for name in peers if (best := quickest_so_far(points, name, 0.95))}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for point in points:
            peer = peers[point.peer]
            if point.peer == "exact" and number:
                continue
            started = time.perf_counter()
            peer.search(queries, K, point.setting)
            point.seconds.append(time.perf_counter() - started)
            if id(point) in chosen:
                point.singles.append(one_by_one(peer, queries, point.setting, 20 if point.peer == "exact" else SINGLES))
    return points


def quickest_so_far(points: list[Point], peer: str, least: float) -> Point | None:
    """The first setting, which are in order from quick to thorough, that reaches a recall."""
    return next((point for point in points if point.peer == peer and point.recall >= least), None)


def one_by_one(peer: Peer, queries: F32, setting: Any, count: int) -> Any:
    """Milliseconds of single queries (count,)."""
    taken = np.empty(count)
    for i in range(-5, count):
        started = time.perf_counter()
        peer.search(queries[i % len(queries)][None], K, setting)
        if i >= 0:
            taken[i] = (time.perf_counter() - started) * 1e3
    return taken


def at_recall(points: list[Point], peer: str, least: float) -> Point | None:
    """The setting of most throughput that reaches a recall."""
    good = [point for point in points if point.peer == peer and point.recall >= least and point.seconds]
    return max(good, key=lambda point: point.qps, default=None)


def report(points: list[Point], facts: dict[str, dict[str, float]], rows: int) -> str:
    """The table: a line for each peer."""
    lines = []
    for name, known in facts.items():
        best = [at_recall(points, name, least) for least in TARGETS]
        cells = [f"{point.qps:,.0f} ({point.recall:.3f})" if point else "–" for point in best]
        timed = next((point for point in points if point.peer == name and point.singles), None)
        p50, p99 = (
            (statistics.median(float(np.percentile(taken, q)) for taken in timed.singles) for q in (50, 99))
            if timed
            else (float("nan"), float("nan"))
        )
        lines.append(
            [name, f"{known['seconds']:.0f}", f"{known['peak_mib']:,.0f}", f"{known['bytes'] / rows:,.0f}", *cells,
             f"{p50:.2f} / {p99:.2f}"]
        )  # fmt: skip
    header = ["engine", "build s", "build MiB", "bytes/vector", *(f"queries/s at ≥ {least}" for least in TARGETS)]
    return table([*header, "one query, ms p50 / p99"], lines)


def draw(points: list[Point], title: str, path: Path) -> None:
    """Throughput over recall."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    colors = iter(
        [
            "#f4a6a6",
            "#c49c94",
            "#1f77b4",
            "#ff7f0e",
            "#2ca02c",
            "#9467bd",
            "#8c564b",
            "#e377c2",
            "#17becf",
            "#bcbd22",
            "#7f7f7f",
        ]
    )
    for name in dict.fromkeys(point.peer for point in points):
        mine = sorted((p for p in points if p.peer == name and p.seconds), key=lambda p: p.recall)
        ours = name == "mirsearch"
        axes.plot(
            [_spread_out(p.recall) for p in mine], [p.qps for p in mine], "s--" if name.startswith("rival") else "o-",
            markersize=4, linewidth=2.5 if ours else 1.2, color="#d62728" if ours else next(colors), label=name,
        )  # fmt: skip
    ticks = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1]
    axes.set_xticks([_spread_out(tick) for tick in ticks], map(str, ticks))
    axes.set(xlabel="recall@10", ylabel="queries per second", yscale="log", title=title, xlim=(_spread_out(0.5), 3.4))
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def _spread_out(recall: float) -> float:
    """Where a recall stands on an axis that gives as much room to what is missing from 0.1 to 0.01 as from 1 to 0.1."""
    return -math.log10(max(1 - recall, 10**-3.3))


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layer", default="fc7")
    parser.add_argument("--set", type=Path, help="a file in the format of ann-benchmarks, instead of the sample")
    parser.add_argument("--metric", default="cosine", choices=["cosine", "ip", "l2"])
    parser.add_argument("--peers", nargs="+", default=[name for name in PEERS if name != "autofaiss"], choices=PEERS)
    parser.add_argument("--autofaiss", metavar="PYTHON", help="that has autofaiss (see peer_autofaiss.py); joins it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--suffix", default="", help="of the result's name, where memory holds not all peers at once")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    if options.set:
        options.dir.mkdir(parents=True, exist_ok=True)
        options.layer, (store, queries) = "vectors", public(options.dir, options.set)
    else:
        store, queries = collection(options.dir, options.photos, options.layer)
    what = options.set.stem if options.set else options.layer
    facts, peers = {}, {}
    if options.autofaiss:
        os.environ[PYTHON] = options.autofaiss
        options.peers.append("autofaiss")
    for name in options.peers:
        folder = options.dir / f"peers-{what}-{options.metric}-{len(store)}" / name.replace(" ", "-")
        task = Task(store=store, layer=options.layer, metric=options.metric, folder=folder)
        print(f"build {name}", flush=True)
        facts[name] = build(task, name)
        peers[name] = PEERS[name]
        peers[name].open(task)
        if isinstance(peer := peers[name], Rival):  # whose candidates are compared by our codes
            facts[name]["bytes"] += sum(
                part.bytes for file, part in peer.ours.index.manifest.parts.items() if file.startswith("refine")
            )
    recall = Recall(task, queries)
    points = measure(peers, queries, recall, options.rounds)
    name = f"search-{what}-{options.metric}-{len(store)}{options.suffix}"
    RESULTS.mkdir(exist_ok=True)
    title = f"{what}, {options.metric}, {len(store):,} {'rows' if options.set else 'photos'}, k = {K}"
    draw(points, title, RESULTS / f"{name}.png")
    document = {
        "facts": facts,
        "points": [{"peer": p.peer, "setting": p.name, "recall": p.recall, "seconds": p.seconds} for p in points],
    }
    text = f"# {title}\n\n![queries per second over recall]({name}.png)\n\n{report(points, facts, len(store))}"
    write_result(name, document, text)


if __name__ == "__main__":
    main()
