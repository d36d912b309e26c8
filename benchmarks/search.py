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
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.in_turn import measure_in_turn
from benchmarks.ingest import sample
from benchmarks.machine import RESULTS, table, write_result
from benchmarks.peer_autofaiss import PYTHON, Autofaiss
from benchmarks.peer_ours import Rival
from benchmarks.peer_task import CPU, F32, Peer, Task
from benchmarks.peers import PEERS
from benchmarks.points import K, Point, Recall, at_recall, measure
from engine.jobs.import_vectors import ImportSpec, import_vectors
from engine.store.dat import PHOTOS_PER_FOLDER
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.synth import features

QUERIES = 1_000
TARGETS = (0.90, 0.95, 0.98, 0.99)


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
    parser.add_argument("--in-turn", action="store_true", help="each alone: where memory holds not all at once")
    parser.add_argument("--remark", default="", help="what a reader of the result must know")
    parser.add_argument("--suffix", default="", help="of the result's name")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    if options.set:
        options.dir.mkdir(parents=True, exist_ok=True)
        options.layer, (store, queries) = "vectors", public(options.dir, options.set)
    else:
        store, queries = collection(options.dir, options.photos, options.layer)
    what = options.set.stem if options.set else options.layer
    facts, peers, tasks = {}, dict[str, Peer](), dict[str, Task]()
    if options.autofaiss:
        os.environ[PYTHON] = options.autofaiss
        options.peers.append("autofaiss")
    for name in options.peers:
        folder = options.dir / f"peers-{what}-{options.metric}-{len(store)}" / name.replace(" ", "-")
        task = Task(store=store, layer=options.layer, metric=options.metric, folder=folder)
        print(f"build {name}", flush=True)
        facts[name] = build(task, name)
        tasks[name], peers[name] = task, PEERS[name]
        if not options.in_turn:
            peers[name].open(task)
        if isinstance(peer := peers[name], Rival):  # whose candidates are compared by our codes
            facts[name]["bytes"] += sum(
                file.stat().st_size for file in peer.ours.folder(task).iterdir() if file.name.startswith("refine")
            )
    name = f"search-{what}-{options.metric}-{len(store)}{options.suffix}"
    if options.in_turn:
        np.save(asked := options.dir / f"{name}-queries.npy", queries)
        points = measure_in_turn(tasks, asked, options.rounds)
    else:
        points = measure(peers, queries, Recall(task, queries), options.rounds)
    RESULTS.mkdir(exist_ok=True)
    title = f"{what}, {options.metric}, {len(store):,} {'rows' if options.set else 'photos'}, k = {K}"
    draw(points, title, RESULTS / f"{name}.png")
    document = {
        "facts": facts,
        "points": [{"peer": p.peer, "setting": p.name, "recall": p.recall, "seconds": p.seconds} for p in points],
    }
    text = f"# {title}\n\n![queries per second over recall]({name}.png)\n\n{report(points, facts, len(store))}"
    if options.remark:
        text += f"\n\n{options.remark}"
    write_result(name, document, text)


if __name__ == "__main__":
    main()
