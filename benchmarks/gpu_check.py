"""Does everything work on this GPU, and how fast? `python -m benchmarks.gpu_check --out DIR` writes DIR/gpu_check.json.

Compares every CUDA kernel with the reference, times decode and re-ranking against the copy speeds of the same
machine, builds an 8-bit index on the GPU and holds it against exact search. Exit code 0: all agree; 1: no usable GPU
(one line) or something disagrees (said in the document). Needs NumPy, CuPy, FAISS, pydantic and xxhash alone.

It has never run on a GPU: until a result is committed beside the others, it is a promise.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError
from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.device import settle
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.parity_kernels import KINDS, K, Pair, kernels_agree
from engine.store.dat import FC7_DIM, RECORD_BYTES, records
from engine.store.store import Store
from engine.store.writer import StoreWriter
from engine.version import VERSION
from kernels import Codes, Device, Kernels, load

Rows = npt.NDArray[np.float32]
RECALL_FLOOR: Final = 0.9
GRID: Final = ((16, 100), (64, 200), (128, 300), (256, 600))  # probes, candidates


def features(n: int, dim: int, seed: int) -> Rows:
    """Rows (n, dim) float32 that resemble fc7: clustered, non-negative, mostly zeros. The centres never change."""
    centres = np.random.default_rng(0).standard_normal((200, 48)).astype(np.float32) * 1.5
    basis = np.random.default_rng(1).standard_normal((48, dim)).astype(np.float32)
    random = np.random.default_rng([2, seed])
    out = np.empty((n, dim), np.float32)
    for start in range(0, n, 4096):
        part = out[start : start + 4096]
        inner = centres[random.integers(0, 200, len(part))] + random.standard_normal((len(part), 48), np.float32)
        np.maximum(inner @ basis - 6, 0, out=part)
    return out


def codes_of(kernels: Kernels, rows: Rows, kind: Any) -> Codes:
    """The rows as they are, or their codes."""
    return Codes(rows) if kind == "float32" else kernels.quantize(rows, kind)


# Agreement ------------------------------------------------------------------------------------------------------------


def parity(ours: Kernels, oracle: Kernels, *, photos: int = 600) -> dict[str, bool]:
    """Whether each kernel gives what the oracle gives, by name."""
    checks = kernels_agree(Pair(ours=ours, oracle=oracle), features(photos, FC7_DIM, 1))
    return {check.what: check.agrees for check in checks}


# Speed ----------------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], wait: Callable[[], object], repeats: int = 7) -> float:
    """The median time of `work`, after it ran twice; `wait` returns when the GPU is done."""
    taken = []
    for i in range(repeats + 2):
        wait()
        started = time.perf_counter()
        work()
        wait()
        if i >= 2:
            taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def speed(cuda: Any) -> dict[str, float]:
    """GB/s of copies, decode and re-ranking. The bounds: `upload` is PCIe's, `copy on the GPU` its memory's."""
    cupy = cuda.cupy
    wait = cupy.cuda.runtime.deviceSynchronize
    n = 4096
    raw = cuda.host_buffer((n, RECORD_BYTES))
    raw[:] = records(features(n, FC7_DIM, 4), features(n, 1000, 4)).view(np.uint8).reshape(raw.shape)
    there, other = cupy.asarray(raw), cupy.empty_like(raw)
    fc7, fc8 = np.empty((n, FC7_DIM), np.float32), np.empty((n, 1000), np.float32)
    out = cupy.empty(fc7.shape, cupy.uint32), cupy.empty(fc8.shape, cupy.uint32), cupy.empty(n, cupy.uint8)
    size = raw.nbytes / 1e9
    return {
        "upload, page-locked": size / seconds(lambda: there.set(raw), wait),
        "download, page-locked": size / seconds(lambda: there.get(out=raw), wait),
        "copy on the GPU, read and written": 2 * size / seconds(lambda: cupy.copyto(other, there), wait),
        "decode, host to host, read": size / seconds(lambda: cuda.decode(raw, fc7, fc8), wait),
        "decode, kernel, read and written": 2 * size
        / seconds(lambda: cuda._launch("decode.cu", "decode", n, (there, *out)), wait),
        **_rerank_speed(cuda, wait),
    }  # fmt: skip


def _rerank_speed(cuda: Any, wait: Callable[[], object]) -> dict[str, float]:
    rows, found = features(20_000, FC7_DIM, 5), {}
    queries, at = rows[:1000], np.random.default_rng(6).integers(0, len(rows), (1000, 300))
    for kind in KINDS:
        codes = cuda.resident(codes_of(cuda, rows, kind))
        size = at.size * codes.values[:1].nbytes / 1e9
        taken = seconds(lambda codes=codes: cuda.rerank(queries, at, codes, "cosine", K), wait)  # type: ignore[misc]
        found[f"rerank {kind} on the GPU, rows read"] = size / taken
    return found


# An index -------------------------------------------------------------------------------------------------------------


def make_store(path: Path, rows: Rows) -> Store:
    """A store with one layer, fc7, of these rows."""
    with StoreWriter(path, {"fc7": rows.shape[1]}) as writer:
        for start in range(0, len(rows), 256):
            block = rows[start : start + 256]
            place = writer.reserve(len(block))
            writer.write(place, np.arange(start, start + len(block), dtype=np.int64), {"fc7": block})
        writer.finish(["made up by benchmarks.gpu_check"])
    return Store.open(path)


def index_check(
    folder: Path, device: Device, *, photos: int, queries: int, dim: int = FC7_DIM, bits: Literal[4, 8] = 8
) -> dict[str, Any]:
    """Build over made-up photos, search with others: seconds, and recall@10 and queries per second by setting."""
    store, asked = make_store(folder / "store", features(photos, dim, 7)), features(queries, dim, 8)
    report = build_index(store, IndexSpec(layer="fc7", pq_bits=bits), device=device)
    started = time.perf_counter()
    true = exact_search(store, "fc7", asked, K, metric="cosine", kernels=load(device)).scores
    exact_seconds = time.perf_counter() - started
    index, settings = Index.open(report.path, device=device), []
    for probes, candidates in GRID:
        spec = SearchSpec(k=K, probes=probes, rerank=candidates)
        index.search(asked[:10], spec)
        started = time.perf_counter()
        scores = index.search(asked, spec).scores
        taken = time.perf_counter() - started
        recall = float((scores >= true[:, -1:] - 1e-6).mean())  # as good as the tenth: fair to ties
        figures = {"recall@10": recall, "queries_per_second": queries / taken}
        settings.append({"probes": probes, "rerank": candidates, **figures})
    return {
        "photos": photos,
        "queries": queries,
        "spec": report.manifest.spec.model_dump(),
        "build_seconds": report.seconds,
        "training": report.manifest.training,
        "exact_queries_per_second": queries / exact_seconds,
        "settings": settings,
    }


# The document ---------------------------------------------------------------------------------------------------------


def facts(cuda: Any, device: Device) -> dict[str, str]:
    """The GPU, its driver, and the versions that matter."""
    runtime, number = cuda.cupy.cuda.runtime, device.gpus[0]
    return {
        "gpu": runtime.getDeviceProperties(number)["name"].decode(),
        "gpu_memory_bytes": str(cuda.cupy.cuda.Device(number).mem_info[1]),
        "driver_cuda": str(runtime.driverGetVersion()),
        "driver": _driver(),
        "runtime_cuda": str(runtime.runtimeGetVersion()),
        "cupy": cuda.cupy.__version__,
        "faiss": json.dumps(ivfpq.describe_build()),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "mirsearch": VERSION,
        "device": str(device),
        "command": " ".join(["python -m benchmarks.gpu_check", *sys.argv[1:]]),
    }


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except OSError:
        return "unknown"


def check(device: Device, photos: int, queries: int) -> dict[str, Any]:
    """The whole document."""
    cuda: Any = load(device)
    cuda.use_gpu(device.gpus[0])
    document: dict[str, Any] = {"machine": facts(cuda, device), "agrees": parity(cuda, load("reference"))}
    document["gigabytes_per_second"] = speed(cuda)
    with tempfile.TemporaryDirectory() as folder:
        document["index"] = index_check(Path(folder), device, photos=photos, queries=queries)
    best = max(setting["recall@10"] for setting in document["index"]["settings"])
    document["agrees"]["index recall"] = best >= RECALL_FLOOR
    return document


def main(arguments: list[str] | None = None) -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of gpu_check.json")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--photos", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=2_000)
    options = parser.parse_args(arguments)
    try:
        device = settle(options.device)
        if device.kind != "cuda":
            raise EngineError(f"--device {options.device}: this checks a GPU. Use cuda or cuda:N.")
        document = check(device, options.photos, options.queries)
    except EngineError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu_check.json").write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))
    wrong = [name for name, agrees in document["agrees"].items() if not agrees]
    if wrong:
        print(f"gpu_check: {len(wrong)} checks failed: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
