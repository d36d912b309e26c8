"""FAISS IVF-PQ on either device: the only file that imports faiss.

A shard is trained once as a template (coarse quantizer and codebooks) and copied: all shards share what was learned.
On disk every shard is the CPU form of its index; on CUDA it is copied to the GPU when it is opened.
"""

import importlib
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DependencyError, EngineError, IndexUnusableError
from engine.index.spec import GPU_MAX_PROBES, GPU_PQ_M, IndexSpec
from kernels import Device, threads

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")
GPU_MAX_K = 2048  # candidates of one search; of the lists it visits, GPU_MAX_PROBES

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def installed_builds() -> dict[str, str]:
    """The FAISS distributions that are installed, with their versions; more than one is a conflict."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def faiss() -> Any:
    """The faiss module; DependencyError with the line that installs it."""
    try:
        return importlib.import_module("faiss")
    except Exception as error:  # a GPU build without its CUDA libraries fails with RuntimeError
        raise DependencyError(
            f"FAISS cannot be imported ({error}). Install one build: pip install 'mirsearch[cpu]' (or [cuda12], "
            "[cuda13] beside an NVIDIA driver)."
        ) from error


def gpu_count() -> tuple[int, str]:
    """How many GPUs FAISS can use, and why there are none if there are none.

    `get_num_gpus` alone answers in CPU builds too, and other probes abort the process where there is no driver.
    """
    module = faiss()
    if not hasattr(module, "StandardGpuResources"):
        return 0, "this FAISS is a CPU build"
    count = int(module.get_num_gpus())
    return count, "" if count else "FAISS sees no GPU"


def check_gpu_spec(spec: IndexSpec) -> None:
    """EngineError, before any training, for a resolved specification that classic GPU IVF-PQ cannot hold."""
    if spec.pq_bits != 8:
        raise EngineError(f"--bits {spec.pq_bits}: IVF-PQ on CUDA has 8-bit codes only. Use --bits 8, or --device cpu.")
    if spec.pq_m not in GPU_PQ_M or (spec.reduced or 0) % spec.pq_m:
        legal = [m for m in GPU_PQ_M if (spec.reduced or 0) % m == 0]
        nearest = min(legal, key=lambda m: abs(m - (spec.pq_m or 0)))
        raise EngineError(f"--pq-m {spec.pq_m}: IVF-PQ on CUDA takes {GPU_PQ_M}. The nearest that fits is {nearest}.")


def train(sample: F32, spec: IndexSpec, device: Device) -> Any:
    """A trained, empty index for reduced rows; sample: (t, reduced) float32."""
    module = faiss()
    metric = module.METRIC_INNER_PRODUCT if spec.metric == "ip" else module.METRIC_L2
    if device.kind == "cuda":
        return _train_on_gpu(sample, spec, metric, device)
    quantizer = module.IndexFlat(spec.reduced, metric)
    kind = module.IndexIVFPQFastScan if spec.pq_bits == 4 else module.IndexIVFPQ
    with _failing_clearly("train"):
        index = kind(quantizer, spec.reduced, spec.lists, spec.pq_m, spec.pq_bits, metric)
        index.cp.seed = index.pq.cp.seed = spec.seed + 1
        # FAISS would print a warning for a small store; the number of lists is chosen with its rows in mind.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(sample))
    return index


def _train_on_gpu(sample: F32, spec: IndexSpec, metric: int, device: Device) -> Any:
    module = faiss()
    check_gpu_spec(spec)
    config = module.GpuIndexIVFPQConfig()
    config.device = device.gpus[0]
    config.use_cuvs = False  # set explicitly: Python and C++ disagree about the default
    config.useFloat16LookupTables = (spec.pq_m or 0) > 48
    with _failing_clearly("train on the GPU"):
        index = module.GpuIndexIVFPQ(_resources(device.gpus[0]), spec.reduced, spec.lists, spec.pq_m, 8, metric, config)
        index.cp.seed = spec.seed + 1
        index.train(np.ascontiguousarray(sample))
        return module.index_gpu_to_cpu(index)


@cache
def _resources(gpu: int) -> Any:
    """One set of GPU resources per GPU: they hold the temporary memory, and may serve one thread."""
    module = faiss()
    resources = module.StandardGpuResources()
    resources.setTempMemory(1 << 30)
    del gpu
    return resources


class _failing_clearly:
    """Turns FAISS's exceptions into one line."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            text = str(error).strip().splitlines()[-1]
            hint = " The GPU's memory is full: use fewer rows per shard." if "memory" in text.lower() else ""
            raise EngineError(f"FAISS could not {self._doing}: {text}.{hint}") from error


def empty_copy(trained: Any, device: Device) -> Any:
    """A new shard on a device that shares nothing with the template but what it learned."""
    copy = faiss().clone_index(trained)
    return copy if device.kind == "cpu" else _to_gpu(copy, device)


def emptied(path: Path) -> Any:
    """What a shard's file was trained to, without its rows: a template as `train` gives it."""
    shard = load(path, Device(kind="cpu"))
    shard.reset()
    return shard


def list_sizes(shard: Any) -> I64:
    """How many rows lie in each list of a shard, (lists,)."""
    lists = (faiss().index_gpu_to_cpu(shard) if _on_gpu(shard) else shard).invlists
    return np.array([lists.list_size(i) for i in range(shard.nlist)], np.int64)


def centroids(trained: Any, rows: F32) -> F32:
    """The centroid (n, reduced) of the list that each reduced row (n, reduced) belongs to. trained: on the CPU."""
    _, lists = trained.quantizer.search(np.ascontiguousarray(rows), 1)
    nearest: F32 = trained.quantizer.reconstruct_batch(np.ascontiguousarray(lists[:, 0]))
    return nearest


def _to_gpu(shard: Any, device: Device) -> Any:
    module = faiss()
    options = module.GpuClonerOptions()
    options.use_cuvs = False
    options.useFloat16 = shard.pq.M > 48
    with _failing_clearly("copy the index to the GPU"):
        return module.index_cpu_to_gpu(_resources(device.gpus[0]), device.gpus[0], shard, options)


def _on_gpu(shard: Any) -> bool:
    module = faiss()
    return hasattr(module, "GpuIndexIVF") and isinstance(shard, module.GpuIndexIVF)


def add(shard: Any, rows: F32, first_row: int) -> None:
    """Add reduced rows (n, reduced) float32; their ids are row numbers of the store from `first_row` up."""
    shard.add_with_ids(np.ascontiguousarray(rows), np.arange(first_row, first_row + len(rows), dtype=np.int64))


def save(shard: Any, path: Path) -> None:
    """Write a shard's file; OSError when it does not fit.

    Not by `write_index`: when the disk is full at its last bytes, that prints a line and leaves the file cut short.
    """
    with _failing_clearly(f"write {path}"):
        data = faiss().serialize_index(faiss().index_gpu_to_cpu(shard) if _on_gpu(shard) else shard)
    path.write_bytes(data)


def load(path: Path, device: Device) -> Any:
    """Open a shard's file on a device; IndexUnusableError when its codes cannot live there."""
    module = faiss()
    try:
        shard = module.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise IndexUnusableError(f"{path}: FAISS cannot read it ({reason}). Build the index again.") from error
    if device.kind == "cpu":
        return shard
    if isinstance(shard, module.IndexIVFPQFastScan):
        raise IndexUnusableError(
            f"{path}: 4-bit FastScan codes, which IVF-PQ on CUDA does not have. Search with --device cpu, or build "
            "again with --device cuda (8-bit codes)."
        )
    return _to_gpu(shard, device)


def most_candidates(device: Device, rows: int) -> int:
    """The most candidates that one search of an index of so many rows can give on a device."""
    return rows if device.kind == "cpu" else min(rows, GPU_MAX_K)


def filters(device: Device) -> bool:
    """Whether `search` takes a filter on this device: classic IVF-PQ on CUDA passes over it in silence."""
    return device.kind == "cpu"


def search(
    shard: Any, queries: F32, count: int, probes: int, bits: npt.NDArray[np.uint8] | None = None
) -> tuple[F32, I64]:
    """The `count` nearest codes for each reduced query: (closeness (q, count), rows (q, count); −1 = absent).

    Closeness is higher-is-better for every metric. bits: row i may be found if bit i % 8 of byte i // 8 is set.
    """
    module = faiss()
    if _on_gpu(shard) and (count > GPU_MAX_K or min(probes, shard.nlist) > GPU_MAX_PROBES):
        raise EngineError(
            f"--rerank {count}, --probes {probes}: IVF-PQ on CUDA takes at most {GPU_MAX_K} of each. "
            "Lower them, or use --device cpu."
        )
    if bits is not None and _on_gpu(shard):
        raise AssertionError("a filter would be ignored")
    parameters = _parameters(min(probes, shard.nlist))
    if bits is not None:
        parameters = module.SearchParametersIVF(nprobe=parameters.nprobe, sel=module.IDSelectorBitmap(bits))
    with _failing_clearly("search"):
        distances, rows = shard.search(np.ascontiguousarray(queries), count, params=parameters)
    if shard.metric_type != module.METRIC_INNER_PRODUCT:
        distances = -distances
    return distances, rows


@cache
def _parameters(probes: int) -> Any:
    """Settings of a search; they are only read, by any number of threads."""
    return faiss().SearchParametersIVF(nprobe=probes)


def set_threads(count: int) -> None:
    """How many threads FAISS uses on the CPU."""
    faiss().omp_set_num_threads(count)


def in_spans(n: int, least: int, work: Callable[[int, int], object]) -> None:
    """`kernels.threads.in_spans` for work that searches shards: FAISS, too, uses one thread in each.

    FAISS keeps that number for each thread: those of the caller are not touched.
    """

    def alone(start: int, stop: int) -> None:
        if stop - start < n:
            set_threads(1)
        work(start, stop)

    threads.in_spans(n, least, alone)


def describe_build() -> dict[str, Any]:
    """What FAISS this is: version, distribution, compile options, SIMD level."""
    module = faiss()
    level = module.SIMDConfig.get_level_name() if hasattr(module, "SIMDConfig") else "unknown"
    return {
        "version": module.__version__,
        "distributions": installed_builds(),
        "options": module.get_compile_options().strip(),
        "simd": level,
    }
