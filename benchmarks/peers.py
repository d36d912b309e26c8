"""The engines that `benchmarks.search` compares: each builds into a folder, opens it, and answers batches of queries.

All get the same float32 rows and the same threads. Cosine: rows and queries of unit length and the inner product, or
the library's own cosine.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.peer_autofaiss import Autofaiss
from benchmarks.peer_ours import Exact, Mirsearch, Rival
from benchmarks.peer_task import EF_CONSTRUCTION, F32, I64, M, Peer, Task
from engine.index import ivfpq
from kernels import Metric
from kernels.device import cpu_threads


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
