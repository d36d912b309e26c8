"""The part `peers` of `benchmarks.gpu`: other engines over the same rows and queries, in the same run.

All get what makes ours quick: our reduction to 256 dimensions, and where that is said our re-ranking by the raw rows.
Queries lie on the device and answers come to the host. What is not installed is named as absent.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gpu_measure import (
    F32,
    K,
    Point,
    Setting,
    best_of,
    figure,
    held_out,
    on_device,
    rates,
    recall,
    repeated,
    tenth,
)
from engine.errors import InputError
from engine.index import ivfpq
from engine.index.gpu_limits import FLOAT32_TABLES_M
from engine.index.reduce import sample_rows
from engine.index.search import Index
from engine.index.spec import default_lists, default_training_rows
from kernels import Codes, Step
from kernels.device import array_module

M, BITS, REFINED = 64, 8, 100
PROBES, CANDIDATES, ITOPK = (8, 16, 32, 64, 128), (100, 300), (32, 64, 128, 256)
ADD_ROWS = 1 << 16
Find = Callable[[Any, int, int], Any]
"""Rows (q, count) where the queries lie, −1 = absent: of reduced queries (q, d), how many, and how hard to look."""


class Data(NamedTuple):
    """What every peer gets: raw rows (n, dim), reduced rows (n, d), queries, where the device reads them fastest.

    reduce: raw queries to reduced ones, which is part of a search. last: exact score of each query's tenth.
    """

    setting: Setting
    raw: Any
    rows: Any
    queries: Any
    reduce: Callable[[Any], Any]
    last: F32


class Peer(NamedTuple):
    """A peer: its name, what builds it and gives how it is searched, and what it can be asked."""

    name: str
    build: Callable[[Data], Find]
    efforts: tuple[int, ...]
    candidates: tuple[int, ...]  # K: its own answer; more: re-ranked by us


def peers(setting: Setting) -> dict[str, Any]:
    """For each peer seconds to build, and the quickest setting of recall@10 ≥ 0.95; those that are absent by name."""
    data, found, absent = _data(setting), dict[str, Any](), list[str]()
    made = _Made()
    for peer, why in _known(setting):
        if why:
            absent.append(f"{peer.name}: {why}")
            continue
        try:
            found[peer.name] = _measured(data, peer, made)
        except Exception as error:  # a peer that fails is no reason to lose the others
            found[peer.name] = {"problem": f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"}
    return {"peers": found, "absent": absent}


def _data(setting: Setting) -> Data:
    store, kernels, queries = setting.store(), setting.kernels, held_out(setting)
    path = setting.index_path()
    reduction = Index.open(path, device=setting.device, store=store).reduction
    if reduction is None:
        raise InputError(f"{path}: has no reduction. Use more photos.")
    reduction = replace(reduction, axes=kernels.to_device(reduction.axes))
    last = tenth(setting, store, queries)
    raw = on_device(setting, store)
    rows = kernels.xp.empty((len(raw), reduction.axes.shape[1]), np.float32)
    reduce = partial(reduction.apply, kernels=kernels)
    for start in range(0, len(raw), 8192):
        part = np.s_[start : start + 8192]
        rows[part] = reduce(kernels.to_device(raw[part]))
    return Data(setting, raw, rows, kernels.to_device(queries), reduce, last)


class _Made:
    """The index that was built last: a peer with and without our re-ranking is built once."""

    def __init__(self) -> None:
        self._how: Any = None
        self.find: Any = None
        self.seconds: list[float] = []

    def by(self, peer: Peer, data: Data) -> Find:
        if self._how is not peer.build:
            self._how = self.find = None  # the memory of the one before
            self.seconds = repeated(data.setting.once(), partial(self._make, peer, data), warm=0)
            self._how = peer.build
        find: Find = self.find
        return find

    def _make(self, peer: Peer, data: Data) -> None:
        self.find = peer.build(data)


def _measured(data: Data, peer: Peer, made: _Made) -> dict[str, Any]:
    find = made.by(peer, data)
    points, asks = [], {}
    for effort in peer.efforts:
        for count in peer.candidates:
            ask = partial(_ask, data, find, count, effort)
            rows = ask()  # not timed
            [seconds] = repeated(data.setting.once(), ask, warm=0)
            point = Point(f"effort {effort}, candidates {count}", recall(_scores(data, rows), data.last), seconds)
            points.append(point)
            asks[point.name] = ask
    best = best_of(points)
    result: dict[str, Any] = {"build": figure(made.seconds, "s"), "settings": [vars(point) for point in points]}
    if best is None:
        return result | {"problem": f"no setting reached the recall; the best was {max(p.recall for p in points):.3f}"}
    taken = repeated(data.setting, asks[best.name])
    return result | {
        "chosen": vars(best), "recall": best.recall,
        "queries_per_second": figure(rates(len(data.queries), taken), "queries/s"),
    }  # fmt: skip


def _ask(data: Data, find: Find, count: int, effort: int) -> Any:
    """The whole search of a batch: reduction, candidates, re-ranking where more than K were asked for."""
    kernels = data.setting.kernels
    rows = find(data.reduce(data.queries), count, effort)
    if count > K:
        rows = kernels.cascade(rows, [Step(data.queries, Codes(data.raw), K)], "cosine")[0]
    return kernels.to_host(rows)


def _scores(data: Data, rows: Any) -> F32:
    """The exact scores (q, K) of answers; −inf for what is named twice."""
    kernels = data.setting.kernels
    ordered = np.sort(rows, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    _, scores = kernels.rerank(data.queries, kernels.to_device(ordered), Codes(data.raw), "cosine", K)
    host: F32 = kernels.to_host(scores)
    return host


def _known(setting: Setting) -> Iterator[tuple[Peer, str]]:
    """All peers, and why one cannot be had here ("" where it can)."""
    where = "GPU" if setting.device.kind == "cuda" else "CPU"
    yield Peer(f"FAISS {where} IVF-PQ", _faiss, PROBES, (K,)), ""
    yield Peer(f"FAISS {where} IVF-PQ, our re-ranking", _faiss, PROBES, CANDIDATES), ""
    no_gpu = "" if setting.device.kind == "cuda" else "needs a GPU"
    no_build = no_gpu or ("" if ivfpq.has_cuvs() else "this FAISS was built without cuVS (faiss-gpu-cuvs has it)")
    yield Peer("cuVS IVF-PQ (FAISS), our re-ranking", partial(_faiss, cuvs=True), PROBES, CANDIDATES), no_build
    yield Peer("CAGRA (FAISS)", _cagra, ITOPK, (K,)), no_build
    yield Peer("CAGRA (FAISS), our re-ranking", _cagra, ITOPK, (32,)), no_build
    no_cuvs = no_gpu or ("" if importlib.util.find_spec("cuvs") else "the package cuvs is not installed")
    yield Peer("cuVS IVF-PQ, its refine", _cuvs, PROBES, (K,)), no_cuvs


def _faiss(data: Data, *, cuvs: bool = False) -> Find:
    """IVF-PQ of FAISS, used directly: L2 over rows of unit length, as many lists and codes as ours on a GPU."""
    module, (n, d) = ivfpq.faiss(), data.rows.shape
    lists = min(default_lists(n), max(n // 40, 1))
    m = M if d % M == 0 else d // 4
    resources: Any = None
    if data.setting.device.kind == "cpu":
        index = module.IndexIVFPQ(module.IndexFlatL2(d), d, lists, m, BITS)
    else:
        config = module.GpuIndexIVFPQConfig()
        config.device, config.use_cuvs, config.interleavedLayout = data.setting.device.gpus[0], cuvs, cuvs
        config.useFloat16LookupTables = not cuvs and m > FLOAT32_TABLES_M
        resources = _resources(data)
        index = module.GpuIndexIVFPQ(resources, d, lists, m, BITS, module.METRIC_L2, config)
    sample = _ordered(data.rows[sample_rows(n, min(n, default_training_rows(lists)), 0)])
    index.train_c(len(sample), _floats(sample))
    for start in range(0, n, ADD_ROWS):
        part = _ordered(data.rows[start : start + ADD_ROWS])
        index.add_c(len(part), _floats(part))

    def find(queries: Any, count: int, effort: int) -> Any:
        return _found(index, queries, count, module.SearchParametersIVF(nprobe=min(effort, lists)))

    find.keeps = resources  # type: ignore[attr-defined]  # which the index needs as long as it is
    return find


def _cagra(data: Data) -> Find:
    """FAISS's GpuIndexCagra (cuVS) over the reduced rows, as it comes."""
    module, (n, d) = ivfpq.faiss(), data.rows.shape
    config, resources = module.GpuIndexCagraConfig(), _resources(data)
    config.device = data.setting.device.gpus[0]
    index = module.GpuIndexCagra(resources, d, module.METRIC_L2, config)
    index.train_c(n, _floats(_ordered(data.rows)))

    def find(queries: Any, count: int, effort: int) -> Any:
        parameters = module.SearchParametersCagra()
        parameters.itopk_size = max(effort, count)
        return _found(index, queries, count, parameters)

    find.keeps = resources, data.rows  # type: ignore[attr-defined]
    return find


def _cuvs(data: Data) -> Find:
    """IVF-PQ of the package cuvs, re-ranked by its own `refine` over raw rows of unit length."""
    neighbors, xp = importlib.import_module("cuvs.neighbors"), data.setting.kernels.xp
    n, d = data.rows.shape
    parameters = neighbors.ivf_pq.IndexParams(
        n_lists=min(default_lists(n), max(n // 40, 1)), metric="sqeuclidean", pq_dim=min(M, d), pq_bits=BITS
    )
    index = neighbors.ivf_pq.build(parameters, data.rows)
    unit = xp.empty(data.raw.shape, xp.float32)
    for start in range(0, n, 8192):
        part = np.s_[start : start + 8192]
        unit[part] = data.setting.kernels.normalize(data.setting.kernels.to_device(data.raw[part]))
    asked = data.setting.kernels.normalize(data.queries)

    def find(queries: Any, count: int, effort: int) -> Any:
        found = neighbors.ivf_pq.search(neighbors.ivf_pq.SearchParams(n_probes=effort), index, queries, REFINED)[1]
        return xp.asarray(neighbors.refine(unit, asked, found, k=count)[1]).astype(xp.int64)

    return find


def _resources(data: Data) -> Any:
    """FAISS's resources on the stream that CuPy works on, so that nothing has to wait in between."""
    module, xp = ivfpq.faiss(), data.setting.kernels.xp
    resources = module.StandardGpuResources()
    stream = module.cast_integer_to_cudastream_t(xp.cuda.get_current_stream().ptr)
    resources.setDefaultStream(data.setting.device.gpus[0], stream)
    return resources


def _ordered(rows: Any) -> Any:
    return array_module(rows).ascontiguousarray(rows, dtype=np.float32)


def _floats(rows: Any) -> Any:
    """FAISS's pointer to float32 on the host or on the device; it checks nothing."""
    module = ivfpq.faiss()
    if array_module(rows) is np:
        return module.swig_ptr(rows)
    return module.cast_integer_to_float_ptr(rows.data.ptr)


def _found(index: Any, queries: Any, count: int, parameters: Any) -> Any:
    """Rows (q, count) int64 by FAISS, where the queries lie; −1 = absent."""
    module, xp = ivfpq.faiss(), array_module(queries)
    queries = _ordered(queries)
    distances, rows = xp.empty((len(queries), count), xp.float32), xp.empty((len(queries), count), xp.int64)
    places = module.swig_ptr(rows) if xp is np else module.cast_integer_to_idx_t_ptr(rows.data.ptr)
    index.search_c(len(queries), _floats(queries), count, _floats(distances), places, parameters)
    return xp.where((rows < 0) | (rows >= index.ntotal), -1, rows)
