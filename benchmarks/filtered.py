"""Filtered search: recall and throughput by how many photos a filter leaves, and whether these lie together.

`python -m benchmarks.filtered` writes results/filtered-LAYER-PHOTOS.md, .json and .png. A filter leaves a random
subset, or (the hard case) the photos nearest to one: another subset in every round. Engines take turns within a round:

- mirsearch with its defaults, and with what `tune` finds for a recall of 0.95 without a filter;
- FAISS HNSW (M 16, efConstruction 100) over the very same reduction with an `IDSelectorBitmap`, its candidates compared
  by the raw rows: the first ef whose mean recall is 0.95, else the most thorough;
- exact search over the subset, which is the truth as well.

Recall@10 is fair to ties and of what there is: of a subset of 5 photos these 5 are asked for. Throughput: 1,000 queries
that are not in the store, in one call.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.held_out import held_out, index_of
from benchmarks.machine import RESULTS, table, write_result
from benchmarks.peer_task import EF_CONSTRUCTION, F32, I64, M
from benchmarks.points import K
from benchmarks.search import QUERIES
from engine.index import ivfpq
from engine.index.exact import exact_search
from engine.index.filter import Filter
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.jobs.truth import recall
from engine.jobs.tune import TuneSpec, run_tune
from kernels import Codes, Step

SHARES = (0.0001, 0.01, 0.1, 0.9, 1.0)
KINDS = ("random", "together")
EFS = (64, 256, 1024)
COMPARED = 40  # of the peer's candidates, at most ef
GOAL = 0.95
Engine = Callable[[F32, Filter], F32]


@dataclass
class Cell:
    """One engine at one kind and share: recall and seconds of each round."""

    recalls: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def recall(self) -> float:
        """The mean over the subsets."""
        return statistics.mean(self.recalls)

    @property
    def qps(self) -> float:
        """Queries per second."""
        return QUERIES / statistics.median(self.seconds)


class Hnsw:
    """FAISS HNSW over an index's reduction; kept in a file beside it."""

    def __init__(self, index: Index, file: Path) -> None:
        self.index, self.faiss = index, ivfpq.faiss()
        if not file.exists():
            self._build(file)
        self.graph = self.faiss.read_index(str(file))

    def _build(self, file: Path) -> None:
        reduction, metric = self.index.reduction, self.index.manifest.spec.metric
        assert reduction is not None
        kind = self.faiss.METRIC_INNER_PRODUCT if metric == "ip" else self.faiss.METRIC_L2
        graph = self.faiss.IndexHNSWFlat(reduction.axes.shape[1], M, kind)
        graph.hnsw.efConstruction = EF_CONSTRUCTION
        for _, rows in self.index.store.blocks(self.index.layer):
            graph.add(reduction.apply(rows, self.index.kernels))
        self.faiss.write_index(graph, str(file))

    def search(self, queries: F32, within: Filter, *, ef: int) -> F32:
        """Exact scores (q, k) of what is found."""
        index, faiss = self.index, self.faiss
        assert index.reduction is not None
        selector = faiss.IDSelectorBitmap(within.bits)
        parameters = faiss.SearchParametersHNSW(efSearch=ef, sel=selector)
        reduced = index.reduction.apply(queries, index.kernels)
        found: I64 = self.graph.search(reduced, min(COMPARED, ef), params=parameters)[1]
        step = Step(queries, Codes(index.store.layer(index.layer)), K)
        scores: F32 = index.kernels.cascade(found, [step], index.manifest.spec.metric)[1]
        return scores


def engines(index: Index, graph: Hnsw) -> dict[str, Engine]:
    """What is compared, by name; the exact one, whose answers are the truth, first."""
    metric, store = index.manifest.spec.metric, index.store
    report = run_tune(store, index.layer, TuneSpec(recall=GOAL), name=index.path.name, device=index.device)
    tuned = replace(index, manifest=report.manifest)
    untuned = replace(index, manifest=report.manifest.model_copy(update={"tuned": None}))

    def exact(queries: F32, within: Filter) -> F32:
        kernels = index.kernels
        return exact_search(store, index.layer, queries, K, metric=metric, kernels=kernels, within=within).scores

    def ours(queries: F32, within: Filter, *, searched: Index) -> F32:
        return searched.search(queries, SearchSpec(k=K), within=within).scores

    return {
        "exact": exact,
        "mirsearch": partial(ours, searched=untuned),
        "mirsearch, tuned": partial(ours, searched=tuned),
        **{f"HNSW, ef {ef}": partial(graph.search, ef=ef) for ef in EFS},
    }


def subset(index: Index, kind: str, share: float, seed: int) -> Filter:
    """A share of the rows (at least one): random ones, or the nearest to a random one."""
    count, random = max(round(share * len(index)), 1), np.random.default_rng(seed)
    if kind == "random":
        chosen = random.choice(len(index), count, replace=False)
    else:
        centre = np.asarray(index.store.layer(index.layer)[random.integers(len(index))])[None]
        every = Codes(index.store.layer(index.layer))
        chosen = index.kernels.rerank(centre, np.arange(len(index))[None], every, index.manifest.spec.metric, count)[0][
            0
        ]
    mask = np.zeros(len(index), np.bool_)
    mask[chosen] = True
    return Filter(mask=mask)


def measure(index: Index, queries: F32, compared: dict[str, Engine], rounds: int) -> dict[tuple[str, float, str], Cell]:
    """A cell for each kind, share and engine."""
    cells = {(kind, share, name): Cell() for kind in KINDS for share in SHARES for name in compared}
    few = queries[:20]
    for number in range(rounds):
        for kind in KINDS:
            for share in SHARES:
                print(f"round {number + 1} of {rounds}: {kind}, {share:.2%}", flush=True)
                within = subset(index, kind, share, number)
                truth: F32 | None = None
                for name, search in compared.items():
                    search(few, within)  # what is made of a filter once, and what was not yet in memory
                    started = time.perf_counter()
                    scores = search(queries, within)
                    cells[kind, share, name].seconds.append(time.perf_counter() - started)
                    truth = scores if truth is None else truth
                    cells[kind, share, name].recalls.append(recall(scores, truth, K))
    return cells


def peer_of(cells: dict[tuple[str, float, str], Cell], kind: str, share: float) -> tuple[str, Cell]:
    """The quickest ef of the graph that reaches the goal, else the most thorough."""
    every = [(f"ef {ef}", cells[kind, share, f"HNSW, ef {ef}"]) for ef in EFS]
    return next((found for found in every if found[1].recall >= GOAL), every[-1])


def report(cells: dict[tuple[str, float, str], Cell], rows: int) -> str:
    """A table for each kind: recall and queries/s."""
    texts = []
    for kind, about in zip(KINDS, ("A random subset", "The photos nearest to one photo"), strict=True):
        lines = []
        for share in SHARES:
            (ef, peer), exact = peer_of(cells, kind, share), cells[kind, share, "exact"]
            ours = [cells[kind, share, name] for name in ("mirsearch", "mirsearch, tuned")]
            shown = [f"{cell.recall:.3f} / {cell.qps:,.0f}" for cell in ours]
            beside = f"{peer.recall:.3f} / {peer.qps:,.0f} ({ef})"
            lines.append([f"{share:.2%}", f"{max(round(share * rows), 1):,}", *shown, f"{exact.qps:,.0f}", beside])
        header = ["left", "photos", "mirsearch", "mirsearch, tuned", "exact", "FAISS HNSW, same reduction"]
        texts.append(
            f"## {about}\n\nrecall@10 / queries per second; exact: queries per second.\n\n{table(header, lines)}"
        )
    return "\n\n".join(texts)


def draw(cells: dict[tuple[str, float, str], Cell], path: Path) -> None:
    """Recall and throughput over the share that is left."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True, sharey="row")
    percent = [share * 100 for share in SHARES]
    for column, kind in enumerate(KINDS):
        lines = {
            name: [cells[kind, share, name] for share in SHARES] for name in ("mirsearch", "mirsearch, tuned", "exact")
        }
        lines["FAISS HNSW, same reduction"] = [peer_of(cells, kind, share)[1] for share in SHARES]
        for (name, line), color in zip(lines.items(), ("#d62728", "#ff9896", "#7f7f7f", "#1f77b4"), strict=True):
            axes[0, column].plot(percent, [cell.recall for cell in line], "o-", color=color, label=name)
            axes[1, column].plot(percent, [cell.qps for cell in line], "o-", color=color, label=name)
        axes[0, column].set(title=kind, ylabel="recall@10", ylim=(0, 1.02))
        axes[1, column].set(xscale="log", yscale="log", xlabel="photos left, %", ylabel="queries per second")
        for each in axes[:, column]:
            each.grid(alpha=0.3, which="both")
    axes[0, 0].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layer", default="fc7", choices=["fc7", "fc8"])
    parser.add_argument("--metric", default="cosine", choices=["cosine", "ip", "l2"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    store, queries = held_out(options.dir, options.photos, options.layer)
    index = index_of(store, options.layer, options.metric)
    print("graph, tuning", flush=True)
    graph = Hnsw(index, options.dir / f"hnsw-reduced-{options.layer}-{options.metric}-{options.photos}")
    cells = measure(index, queries, engines(index, graph), options.rounds)
    name = f"filtered-{options.layer}-{options.photos}"
    RESULTS.mkdir(exist_ok=True)
    draw(cells, RESULTS / f"{name}.png")
    document: dict[str, Any] = {
        "cells": [
            {"kind": kind, "share": share, "engine": engine, "recalls": cell.recalls, "seconds": cell.seconds}
            for (kind, share, engine), cell in cells.items()
        ]
    }
    title = f"# Filtered search: {options.layer}, {options.metric}, {options.photos:,} photos, k = {K}"
    head = f"{title}\n\nMedians (recall: means) of {options.rounds} rounds, each with subsets of its own.\n\n"
    write_result(name, document, f"{head}![recall and queries per second]({name}.png)\n\n{report(cells, len(store))}")


if __name__ == "__main__":
    main()
