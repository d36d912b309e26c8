"""FAISS IVF-PQ on either device: the only file that imports faiss, the door to both, and what happens on the CPU.

A shard is trained once as a template (coarse quantizer and codebooks) and copied: all shards share what was learned.
On disk and as a template every index has its CPU form; on CUDA a shard is an `engine.index.gpu_shard.GpuShard`.

Arrays lie on the host or on the device (CuPy); results lie where the first array lay.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DependencyError, EngineError, IndexUnusableError
from engine.index import gpu_limits
from engine.index.spec import IndexSpec
from kernels import Device, threads
from kernels.device import GpuLibrary

DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-gpu-cu11")

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


def has_cuvs() -> bool:
    """Whether this FAISS was built with NVIDIA's cuVS."""
    return "NVIDIA_CUVS" in faiss().get_compile_options()


def check_gpu_spec(spec: IndexSpec, library: GpuLibrary = "faiss") -> None:
    """EngineError, before any training, for a resolved specification that IVF-PQ on GPUs cannot hold."""
    gpu_limits.check_spec(spec, library)


def train(sample: Any, spec: IndexSpec, device: Device) -> Any:
    """A trained, empty index for reduced rows, in its CPU form; sample: (t, reduced) float32, on host or device."""
    module = faiss()
    metric = module.METRIC_INNER_PRODUCT if spec.metric == "ip" else module.METRIC_L2
    if device.kind == "cuda":
        from engine.index import gpu_shard

        return gpu_shard.train(sample, spec, metric, device)
    quantizer = module.IndexFlat(spec.reduced, metric)
    kind = module.IndexIVFPQFastScan if spec.pq_bits == 4 else module.IndexIVFPQ
    with _failing_clearly("train"):
        index = kind(quantizer, spec.reduced, spec.lists, spec.pq_m, spec.pq_bits, metric)
        index.cp.seed = index.pq.cp.seed = spec.seed + 1
        # FAISS would print a warning for a small store; the number of lists is chosen with its rows in mind.
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.train(np.ascontiguousarray(sample))
    return index


class _failing_clearly:
    """Turns FAISS's exceptions into one line."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, RuntimeError):
            text = str(error).strip().splitlines()[-1]
            raise EngineError(f"FAISS could not {self._doing}: {text}.") from error


def empty_copy(trained: Any, device: Device, rows: int = 0) -> Any:
    """A new shard on a device that shares nothing with the template but what it learned.

    rows: how many will be added, if that is known: memory for them is taken at once on CUDA.
    """
    if device.kind == "cpu":
        return faiss().clone_index(trained)
    from engine.index import gpu_shard

    return gpu_shard.empty_copy(trained, device, rows)


def emptied(path: Path) -> Any:
    """What a shard's file was trained to, without its rows: a template as `train` gives it."""
    shard = load(path, Device(kind="cpu"))
    shard.reset()
    return shard


def list_sizes(shard: Any) -> I64:
    """How many rows lie in each list of a shard, (lists,)."""
    if _on_gpu(shard):
        return shard.list_sizes()  # type: ignore[no-any-return]
    return np.array([shard.invlists.list_size(i) for i in range(shard.nlist)], np.int64)


def centroids(trained: Any, rows: F32) -> F32:
    """The centroid (n, reduced) of the list that each reduced row (n, reduced) belongs to. trained: on the CPU."""
    _, lists = trained.quantizer.search(np.ascontiguousarray(rows), 1)
    nearest: F32 = trained.quantizer.reconstruct_batch(np.ascontiguousarray(lists[:, 0]))
    return nearest


def _on_gpu(shard: Any) -> bool:
    return bool(getattr(shard, "on_gpu", False))


def add(shard: Any, rows: Any, first_row: int) -> None:
    """Add reduced rows (n, reduced) float32, on host or device; their ids are the store's rows from `first_row` up.

    DeviceError when a GPU has no room for them.
    """
    if _on_gpu(shard):
        shard.add(rows, first_row)
        return
    shard.add_with_ids(np.ascontiguousarray(rows), np.arange(first_row, first_row + len(rows), dtype=np.int64))


def save(shard: Any, path: Path) -> None:
    """Write a shard's file; OSError when it does not fit.

    Not by `write_index`: when the disk is full at its last bytes, that prints a line and leaves the file cut short.
    """
    with _failing_clearly(f"write {path}"):
        data = faiss().serialize_index(shard.to_host() if _on_gpu(shard) else shard)
    path.write_bytes(data)


def load(path: Path, device: Device) -> Any:
    """Open a shard's file on a device; IndexUnusableError when its codes cannot live there."""
    return load_all([path], device)[0]


def load_all(paths: Sequence[Path], device: Device) -> list[Any]:
    """Open the shards of an index on a device: on CUDA placed by their size over its GPUs, see `placement.place`.

    IndexUnusableError when a file is damaged or its codes cannot live there; DeviceError when a shard is larger than
    what a GPU may be filled with.
    """
    if device.kind == "cpu":
        return [_read(path) for path in paths]
    from engine.index import gpu_shard

    sizes = []
    for path in paths:
        seen = _read(path, mapped=True)
        if isinstance(seen, faiss().IndexIVFPQFastScan):
            raise IndexUnusableError(
                f"{path}: 4-bit FastScan codes, which IVF-PQ on CUDA does not have. Search with --device cpu, or build "
                "again with --device cuda (8-bit codes)."
            )
        sizes.append((gpu_shard.shape_of(seen), int(seen.ntotal)))
        _check_opens(path, sizes[-1][0], device.gpu.library)
    return gpu_shard.open_shards([partial(_read, path) for path in paths], sizes, device)


def _read(path: Path, *, mapped: bool = False) -> Any:
    """A file in its CPU form; mapped: its lists stay in the file, which must stay as it is meanwhile."""
    module = faiss()
    try:
        return module.read_index(str(path), module.IO_FLAG_MMAP if mapped else 0)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise IndexUnusableError(f"{path}: FAISS cannot read it ({reason}). Build the index again.") from error


def _check_opens(path: Path, shape: gpu_limits.Shape, library: GpuLibrary) -> None:
    spec = IndexSpec.model_construct(layer="", reduced=shape.dim, pq_m=shape.m, pq_bits=shape.bits)  # type: ignore[arg-type]
    try:
        gpu_limits.check_spec(spec, library)
    except EngineError as error:
        raise IndexUnusableError(f"{path}: {error} Or build it again.") from None


def most_candidates(device: Device, rows: int) -> int:
    """The most candidates that one search of an index of so many rows can give on a device."""
    return rows if device.kind == "cpu" else min(rows, gpu_limits.MOST[device.gpu.library])


def gpu_memory(device: Device) -> int:
    """Bytes of the memory of a device's GPUs that are in use now, by anybody; the most of them. 0 on the CPU."""
    if device.kind == "cpu":
        return 0
    from engine.index.gpu import in_use

    return max(in_use(device))


def most_probes(device: Device, lists: int) -> int:
    """The most of so many lists that one search visits on a device."""
    return lists if device.kind == "cpu" else min(lists, gpu_limits.MOST[device.gpu.library])


def filters(device: Device) -> bool:
    """Whether `search` takes a filter on this device: FAISS's own IVF-PQ on CUDA passes over it in silence."""
    return device.kind == "cpu" or device.gpu.library == "cuvs"


def search(
    shard: Any, queries: Any, count: int, probes: int, bits: npt.NDArray[np.uint8] | None = None
) -> tuple[Any, Any]:
    """The `count` nearest codes for each reduced query: (closeness (q, count), rows (q, count); −1 = absent).

    Closeness is higher-is-better for every metric. bits: row i may be found if bit i % 8 of byte i // 8 is set.
    """
    module = faiss()
    if _on_gpu(shard):
        return search_all([shard], queries, count, probes, bits)
    parameters = _parameters(min(probes, shard.nlist))
    if bits is not None:
        parameters = module.SearchParametersIVF(nprobe=parameters.nprobe, sel=module.IDSelectorBitmap(bits))
    with _failing_clearly("search"):
        distances, rows = shard.search(np.ascontiguousarray(queries), count, params=parameters)
    if shard.metric_type != module.METRIC_INNER_PRODUCT:
        distances = -distances
    return distances, rows


def search_all(
    shards: Sequence[Any], queries: Any, count: int, probes: int, bits: npt.NDArray[np.uint8] | None = None
) -> tuple[Any, Any]:
    """`search` in all shards of an index: the `count` nearest of them together, in no order when there are several.

    On CUDA every GPU searches its own shards at the same time, and they are in order.
    """
    if _on_gpu(shards[0]):
        from engine.index import gpu_search

        if bits is not None and not filters(shards[0].device):
            raise AssertionError("a filter would be ignored")
        return gpu_search.search_all(shards, queries, count, probes, bits)
    found = [search(shard, queries, count, probes, bits) for shard in shards]
    if len(found) == 1:
        return found[0]
    closeness = np.concatenate([distances for distances, _ in found], axis=1)
    rows = np.concatenate([rows for _, rows in found], axis=1)
    closeness[rows < 0] = -np.inf
    best = np.argpartition(closeness, -count, axis=1)[:, -count:]
    return np.take_along_axis(closeness, best, axis=1), np.take_along_axis(rows, best, axis=1)


def fewest(shards: Sequence[Any], probes: int) -> int:
    """How many rows any so many lists of all shards hold at least; 0 where it is not known."""
    sizes = [getattr(shard, "sizes", None) for shard in shards]
    return sum(int(size[min(probes, len(size)) - 1]) if size is not None else 0 for size in sizes)


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


def describe_build(device: Device | None = None) -> dict[str, Any]:
    """What FAISS this is: version, distribution, compile options, SIMD level; of a device with GPUs, how it uses them.

    gpu_library: faiss or cuvs. gpu_memory: bytes of each GPU for shards and FAISS's temporary memory.
    """
    module = faiss()
    level = module.SIMDConfig.get_level_name() if hasattr(module, "SIMDConfig") else "unknown"
    build = {
        "version": module.__version__,
        "distributions": installed_builds(),
        "options": module.get_compile_options().strip(),
        "simd": level,
    }
    if device is not None and device.kind == "cuda":
        from engine.index.gpu import gpus_of

        build |= {"gpu_library": device.gpu.library, "gpu_memory": [gpu.memory for gpu in gpus_of(device)]}
    return build
