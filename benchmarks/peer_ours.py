"""mirsearch as an engine of `benchmarks.search`, and the *honest rivals*.

These search a graph over the very same reduction as mirsearch's index, and compare its candidates by the very same
codes and raw rows: what an expert would set up by hand.
"""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_task import CPU, EF_CONSTRUCTION, F32, I64, M, Task
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from kernels import Codes, Metric, Step, load
from kernels.device import cpu_threads


@dataclass
class Exact:
    """Every row compared, by mirsearch: blocks of matrix products."""

    settings: list[tuple[str, Any]] = field(default_factory=lambda: [("all", None)])

    def build(self, task: Task) -> None:
        """Nothing."""

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._task, self._kernels = task, load(CPU)

    def search(self, queries: F32, k: int, setting: None) -> I64:
        """See `Peer.search`."""
        task = self._task
        found = exact_search(task.store, task.layer, queries, k, metric=task.metric, kernels=self._kernels)
        return _rows(task.store, found.photo_ids)


@dataclass
class Mirsearch:
    """Our index; refine: the codes that re-rank. A setting: (probes, candidates)."""

    refine: Any = "uint4"
    settings: list[tuple[str, Any]] = field(
        default_factory=lambda: [
            (f"{probes} probes, {rerank} candidates", (probes, rerank))
            for probes, rerank in (
                (3, 50),
                (4, 80),
                (5, 90),
                (6, 110),
                (8, 150),
                (10, 175),
                (12, 200),
                (14, 220),
                (16, 250),
                (20, 300),
                (32, 400),
                (64, 600),
                (128, 1000),
                (256, 2000),
                (512, 4000),
            )
        ]
    )

    def _name(self, task: Task) -> str:
        return f"bench-{task.layer}-{task.metric}-{self.refine}"

    def folder(self, task: Task) -> Path:
        """Where the index lies."""
        return task.store.path / "indices" / self._name(task)

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        spec = IndexSpec(layer=task.layer, metric=task.metric, refine=self.refine)
        report = build_index(task.store, spec, device=CPU, name=self._name(task), force=True)
        (task.folder / "index").symlink_to(report.path.resolve())
        (task.folder / "phases.json").write_text(json.dumps(report.manifest.training))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self.index = Index.open(self.folder(task), device=CPU, store=task.store)

    def search(self, queries: F32, k: int, setting: tuple[int, int]) -> I64:
        """See `Peer.search`."""
        probes, rerank = setting
        spec = SearchSpec(k=k, probes=probes, rerank=max(rerank, k))
        return _rows(self.index.store, self.index.search(queries, spec).photo_ids)


@dataclass
class Rival:
    """A graph (hnswlib or usearch) over mirsearch's reduced rows, its candidates compared as mirsearch's are."""

    graph: str
    settings: list[tuple[str, Any]] = field(
        default_factory=lambda: [
            (f"ef {ef}, {count} compared, {exact} exactly", (ef, count, exact))
            for ef, count, exact in (
                (20, 13, 13),
                (20, 16, 14),
                (20, 20, 14),
                (30, 20, 14),
                (30, 25, 14),
                (40, 30, 14),
                (60, 40, 15),
                (80, 40, 18),
                (120, 50, 20),
                (200, 60, 25),
                (400, 100, 40),
            )
        ]
    )
    ours: Mirsearch = field(default_factory=Mirsearch)

    def build(self, task: Task) -> None:
        """From mirsearch's reduction and codes, which are there already; their time is not counted."""
        self.ours.open(task)
        index, kernels = self.ours.index, self.ours.index.kernels
        assert index.reduction is not None
        graph = self._new(index.reduction.axes.shape[1], len(task.rows), task.metric)
        for start in range(0, len(task.rows), 4096):
            rows = index.reduction.apply(np.asarray(task.rows[start : start + 4096]), kernels)
            numbers = np.arange(start, start + len(rows))
            if self.graph == "hnswlib":
                graph.add_items(rows, numbers, num_threads=cpu_threads())
            else:
                graph.add(numbers, rows, threads=cpu_threads())
        (graph.save_index if self.graph == "hnswlib" else graph.save)(str(task.folder / "index"))

    def _new(self, dim: int, count: int, metric: Metric) -> Any:
        if self.graph == "hnswlib":
            index = importlib.import_module("hnswlib").Index("l2" if metric == "l2" else "ip", dim)
            index.init_index(count, M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
            return index
        kind = "l2sq" if metric == "l2" else "ip"
        make = importlib.import_module("usearch.index").Index
        return make(ndim=dim, metric=kind, dtype="f16", connectivity=M, expansion_add=EF_CONSTRUCTION)

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._task = task
        self.ours.open(task)
        assert self.ours.index.reduction is not None
        self._graph = self._new(self.ours.index.reduction.axes.shape[1], len(task.rows), task.metric)
        (self._graph.load_index if self.graph == "hnswlib" else self._graph.load)(str(task.folder / "index"))

    def search(self, queries: F32, k: int, setting: tuple[int, int, int]) -> I64:
        """See `Peer.search`."""
        index, (ef, count, exact) = self.ours.index, setting
        assert index.reduction is not None and index.refine is not None
        reduced = index.reduction.apply(queries, index.kernels)
        count, threads = max(count, k), cpu_threads() if len(queries) > 1 else 1
        if self.graph == "hnswlib":
            self._graph.set_ef(max(ef, count))
            found, _ = self._graph.knn_query(reduced, count, num_threads=threads)
        else:
            self._graph.expansion_search = max(ef, count)
            found = self._graph.search(reduced, count, threads=threads).keys
        candidates = np.asarray(found, np.int64).reshape(len(queries), count)
        steps = [Step(queries, Codes(index.store.layer(index.layer)), k)]
        if exact < count:
            steps.insert(0, Step(index.reduction.scaled(queries), index.refine, max(exact, k)))
        return index.kernels.cascade(candidates, steps, index.manifest.spec.metric)[0]


def _rows(store: Store, photo_ids: I64) -> I64:
    """Row numbers of an answer's photo ids, −1 = absent; ids of the sample collection ascend with the rows."""
    at = np.searchsorted(store.photo_ids, photo_ids)
    return np.where(photo_ids >= 0, at, -1)
