"""The engines that `benchmarks.search` compares: each builds into a folder, opens it, and answers batches of queries.

All get the same float32 rows and the same threads. Cosine: rows and queries of unit length and the inner product, or
the library's own cosine. The *honest rivals* search a graph over the very same reduction as mirsearch's index, and
compare its candidates by the very same codes and raw rows: what an expert would set up by hand.
"""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.peer_autofaiss import Autofaiss
from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from kernels import Codes, Device, Metric, Step, load
from kernels.device import cpu_threads

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
CPU = Device(kind="cpu")
M, EF_CONSTRUCTION = 16, 100


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is searched: a layer of a store, by a metric. folder: where a peer keeps its index."""

    store: Store
    layer: str
    metric: Metric
    folder: Path

    @property
    def rows(self) -> F32:
        """The layer's rows (n, dim)."""
        return self.store.layer(self.layer)

    def prepared(self, rows: F32) -> F32:
        """Rows as a peer without a cosine of its own wants them."""
        rows = np.asarray(rows, np.float32)
        return load(CPU).normalize(rows) if self.metric == "cosine" else rows

    def blocks(self, size: int = 4096) -> Any:
        """(first row, prepared rows) in blocks."""
        for start in range(0, len(self.rows), size):
            yield start, self.prepared(self.rows[start : start + size])


class Peer(Protocol):
    """One engine. settings: from quick to thorough; each is a name and what `search` takes."""

    settings: list[tuple[str, Any]]

    def build(self, task: Task) -> None:
        """Build the index of a task in its folder."""

    def open(self, task: Task) -> None:
        """Have the index ready to be searched."""

    def search(self, queries: F32, k: int, setting: Any) -> I64:
        """Row numbers (q, k) of the nearest rows."""


def _efs(*values: int) -> list[tuple[str, Any]]:
    return [(f"ef {value}", value) for value in values]


@dataclass
class Hnswlib:
    """hnswlib over the raw vectors."""

    settings: list[tuple[str, Any]] = field(default_factory=lambda: _efs(10, 20, 40, 80, 160, 320, 640))

    def _space(self, task: Task) -> str:
        return "l2" if task.metric == "l2" else "ip"

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        index = importlib.import_module("hnswlib").Index(self._space(task), task.rows.shape[1])
        index.init_index(len(task.rows), M=M, ef_construction=EF_CONSTRUCTION, random_seed=1)
        for start, rows in task.blocks():
            index.add_items(rows, np.arange(start, start + len(rows)), num_threads=cpu_threads())
        index.save_index(str(task.folder / "index"))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._task = task
        self._index = importlib.import_module("hnswlib").Index(self._space(task), task.rows.shape[1])
        self._index.load_index(str(task.folder / "index"))

    def search(self, queries: F32, k: int, setting: int) -> I64:
        """See `Peer.search`."""
        self._index.set_ef(max(setting, k))
        threads = cpu_threads() if len(queries) > 1 else 1
        found, _ = self._index.knn_query(self._task.prepared(queries), k, num_threads=threads)
        return np.asarray(found, np.int64)


@dataclass
class Usearch:
    """usearch over the raw vectors in float16."""

    settings: list[tuple[str, Any]] = field(default_factory=lambda: _efs(16, 32, 64, 128, 256, 512))

    def _new(self, dim: int, metric: Metric) -> Any:
        kind = {"cosine": "cos", "ip": "ip", "l2": "l2sq"}[metric]
        make = importlib.import_module("usearch.index").Index
        return make(ndim=dim, metric=kind, dtype="f16", connectivity=M, expansion_add=EF_CONSTRUCTION)

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        index = self._new(task.rows.shape[1], task.metric)
        for start, rows in task.blocks():
            index.add(np.arange(start, start + len(rows)), rows, threads=cpu_threads())
        index.save(str(task.folder / "index"))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._index = self._new(task.rows.shape[1], task.metric)
        self._index.load(str(task.folder / "index"))

    def search(self, queries: F32, k: int, setting: int) -> I64:
        """See `Peer.search`."""
        self._index.expansion_search = max(setting, k)
        found = self._index.search(queries, k, threads=cpu_threads() if len(queries) > 1 else 1)
        return np.asarray(found.keys, np.int64).reshape(len(queries), k)


@dataclass
class Scann:
    """ScaNN: a tree, anisotropic 4-bit codes, and the raw vectors to reorder."""

    settings: list[tuple[str, Any]] = field(
        default_factory=lambda: [
            (f"{leaves} leaves, {reorder} reordered", (leaves, reorder))
            for leaves, reorder in ((10, 60), (20, 100), (40, 100), (60, 200), (100, 300), (200, 500))
        ]
    )

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        scann = importlib.import_module("scann")
        rows = np.concatenate([block for _, block in task.blocks()])
        leaves = max(int(len(rows) ** 0.5 * 3), 10)
        measure = "squared_l2" if task.metric == "l2" else "dot_product"
        builder = scann.scann_ops_pybind.builder(rows, 10, measure).tree(
            num_leaves=leaves, num_leaves_to_search=100, training_sample_size=min(len(rows), 100_000)
        )
        searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        searcher.set_n_training_threads(cpu_threads())
        built = searcher.build()
        (task.folder / "index").mkdir()
        built.serialize(str(task.folder / "index"))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._task = task
        self._index = importlib.import_module("scann").scann_ops_pybind.load_searcher(str(task.folder / "index"))
        self._index.set_num_threads(cpu_threads())

    def search(self, queries: F32, k: int, setting: tuple[int, int]) -> I64:
        """See `Peer.search`."""
        queries, (leaves, reorder) = self._task.prepared(queries), setting
        words = {"final_num_neighbors": k, "leaves_to_search": leaves, "pre_reorder_num_neighbors": reorder}
        if len(queries) == 1:
            return np.asarray(self._index.search(queries[0], **words)[0], np.int64)[None]
        return np.asarray(self._index.search_batched_parallel(queries, **words)[0], np.int64)


@dataclass
class Faiss:
    """An index of FAISS by its factory string; setting: what its search takes.

    {most} in the string: the most sub-quantizers up to 64 that divide the dimensions.
    """

    factory: str
    settings: list[tuple[str, Any]]
    parameter: str
    training: int = 65_536

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        faiss = ivfpq.faiss()
        metric = faiss.METRIC_L2 if task.metric == "l2" else faiss.METRIC_INNER_PRODUCT
        dim = task.rows.shape[1]
        most = max(m for m in range(1, 65) if dim % m == 0)
        index = faiss.index_factory(dim, self.factory.format(most=most), metric)
        if not index.is_trained:
            at = np.sort(np.random.default_rng(0).choice(len(task.rows), min(self.training, len(task.rows)), False))
            index.train(task.prepared(task.rows[at]))
        if self.parameter == "efSearch":
            index.hnsw.efConstruction = EF_CONSTRUCTION
        for _, rows in task.blocks():
            index.add(rows)
        faiss.write_index(index, str(task.folder / "index"))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self._task = task
        self._faiss = ivfpq.faiss()
        self._index = self._faiss.read_index(str(task.folder / "index"))

    def search(self, queries: F32, k: int, setting: int) -> I64:
        """See `Peer.search`."""
        if self.parameter:
            self._faiss.ParameterSpace().set_index_parameter(self._index, self.parameter, setting)
        return np.asarray(self._index.search(self._task.prepared(queries), k)[1], np.int64)


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

    def build(self, task: Task) -> None:
        """See `Peer.build`."""
        spec = IndexSpec(layer=task.layer, metric=task.metric, refine=self.refine)
        report = build_index(task.store, spec, device=CPU, name=self._name(task), force=True)
        (task.folder / "index").symlink_to(report.path.resolve())
        (task.folder / "phases.json").write_text(json.dumps(report.manifest.training))

    def open(self, task: Task) -> None:
        """See `Peer.open`."""
        self.index = Index.open(task.store.path / "indices" / self._name(task), device=CPU, store=task.store)

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
            (f"ef {ef}, {count} compared", (ef, count))
            for ef, count in (
                (20, 13),
                (20, 16),
                (20, 20),
                (30, 20),
                (30, 25),
                (40, 30),
                (60, 40),
                (80, 40),
                (120, 50),
                (200, 60),
                (400, 100),
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

    def search(self, queries: F32, k: int, setting: tuple[int, int]) -> I64:
        """See `Peer.search`."""
        index, (ef, count) = self.ours.index, setting
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
        if (keep := k + 4) < count:
            steps.insert(0, Step(index.reduction.scaled(queries), index.refine, keep))
        return index.kernels.cascade(candidates, steps, index.manifest.spec.metric)[0]


def _rows(store: Store, photo_ids: I64) -> I64:
    """Row numbers of an answer's photo ids, −1 = absent; ids of the sample collection ascend with the rows."""
    at = np.searchsorted(store.photo_ids, photo_ids)
    return np.where(photo_ids >= 0, at, -1)


PEERS: dict[str, Peer] = {
    "mirsearch": Mirsearch(),
    "mirsearch, uint8": Mirsearch(refine="uint8"),
    "mirsearch, raw rows": Mirsearch(refine="none"),
    "hnswlib": Hnswlib(),
    "usearch float16": Usearch(),
    "ScaNN": Scann(),
    "FAISS HNSW": Faiss(f"HNSW{M}", _efs(16, 32, 64, 128, 256), "efSearch"),
    "FAISS IVF-PQ": Faiss("IVF1024,PQ{most}x4fs", [(f"{n} probes", n) for n in (4, 16, 64)], "nprobe"),
    "autofaiss": Autofaiss(),
    "rival: hnswlib over our reduction": Rival("hnswlib"),
    "rival: usearch over our reduction": Rival("usearch"),
    "exact": Exact(),
}
