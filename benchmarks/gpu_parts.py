"""The parts of `benchmarks.gpu`, each a function of a setting that gives figures. Peers are in `gpu_peers`.

Every part has a form for the CPU, for the column beside the GPU's and for tests.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_measure import (
    REPEATS,
    K,
    Point,
    Setting,
    best_of,
    exact,
    figure,
    held_out,
    in_float64,
    on_device,
    rates,
    recall,
    repeated,
    tenth,
    truth_path,
)
from engine.errors import EngineError
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.parity import CPU, Side, check_parity
from engine.store.dat import FC7_DIM, FC8_DIM, RECORD_BYTES, records
from engine.store.synth import describe, features, synthesize
from kernels import load

Figures = dict[str, Any]
ROOT = Path(__file__).parents[1]
DECODED, LAUNCHES = 65_536, 10
GRID = tuple(product((8, 16, 32, 48, 64, 96, 128), (50, 100, 200, 300)))  # probes, candidates
SINGLE = 1_000
THRESHOLD = 0.95  # of `mirsearch dedup` for fc7
ON_CPU = 1_000  # queries of an exact search there
SURE = 16  # queries of which the truth is computed in float64


def parity(setting: Setting) -> Figures:
    """Kernels, an index, filters and exact search of the device held against the reference's, before all figures."""
    sides = [
        Side(name="reference", device=CPU, kernels=load("reference"), builds=False),
        Side(name=str(setting.device), device=setting.device, kernels=setting.kernels),
    ]
    report = check_parity(sides)
    return {"agrees": report.agrees, "checks": len(report.checks), "seconds": figure([report.seconds], "s"),
            "differing": [f"{check.what}: off by {check.worst:.3g}" for check in report.differing]}  # fmt: skip


def photos(setting: Setting) -> Figures:
    """The `.dat` files, by all cores; nothing is measured but how long it takes to make them."""
    folder = setting.features.parent
    if (describe(folder) or {}).get("photos") != setting.photos:
        report = synthesize(folder, photos=setting.photos)
        return {"seconds": figure([report.seconds], "s"), "bytes": report.bytes}
    return {"seconds": figure([0.0], "s"), "made": "before"}


def decode(setting: Setting) -> Figures:
    """Records that lie on the device split into layers, beside a copy of the same bytes; GB/s read and written."""
    n, kernels = min(setting.photos, DECODED), setting.kernels
    few = min(n, 1024)
    block = records(*features(0, few, seed=0)).view(np.uint8).reshape(few, RECORD_BYTES)
    raw = np.resize(block, (n, RECORD_BYTES))
    amount = 2 * raw.nbytes / 1e9
    if setting.device.kind == "cpu":
        fc7, fc8, twin = np.empty((n, FC7_DIM), np.float32), np.empty((n, FC8_DIM), np.float32), np.empty_like(raw)
        copied = rates(amount, repeated(setting, lambda: np.copyto(twin, raw)))
        kernel = rates(amount, repeated(setting, lambda: kernels.decode(raw, fc7, fc8)))
        return _beside_copy(copied, {"kernel": kernel})
    cuda: Any = kernels
    there = cuda.to_device(raw)
    other = cuda.xp.empty_like(there)
    copied = rates(amount, repeated(setting, lambda: cuda.xp.copyto(other, there), times=LAUNCHES))
    xp, empty = cuda.xp, cuda.xp.empty
    out = empty((n, FC7_DIM), xp.uint32), empty((n, FC8_DIM), xp.uint32), empty(n, xp.uint8)
    norms = empty(n, xp.float32), empty(n, xp.float32)
    launch = partial(cuda.launch, "decode.cu")
    kernel = repeated(setting, lambda: launch("decode", n, (there, *out)), times=LAUNCHES)
    with_norms = repeated(setting, lambda: launch("decode_norms", n, (there, *out, *norms)), times=LAUNCHES)
    right = cuda.to_host(out[0][:few]).tobytes() == features(0, few, seed=0)[0].tobytes()
    rated = {"kernel": rates(amount, kernel), "with_norms": rates(amount, with_norms)}
    return _beside_copy(copied, rated) | {"right": right, **_transfers(setting, raw)}


def _beside_copy(copied: list[float], rated: dict[str, list[float]]) -> Figures:
    found: Figures = {"copy": figure(copied, "GB/s")}
    for name, values in rated.items():
        shares = [value / float(np.median(copied)) for value in values]
        found |= {name: figure(values, "GB/s"), f"{name}_share": figure(shares, "of the copy")}
    return found


def _transfers(setting: Setting, raw: Any) -> Figures:
    """GB/s between page-locked memory and the device."""
    cuda: Any = setting.kernels
    locked = cuda.host_buffer(raw[:8192].shape)
    locked[:] = raw[: len(locked)]
    there, amount = cuda.to_device(locked), locked.nbytes / 1e9
    up = repeated(setting, lambda: there.set(locked))
    down = repeated(setting, lambda: there.get(out=locked))
    return {"upload": figure(rates(amount, up), "GB/s"), "download": figure(rates(amount, down), "GB/s")}


def ingest(setting: Setting) -> Figures:
    """The whole command, `.dat` files (in the page cache, if memory holds them) to a store and its fc7 index."""
    store = setting.store_path if setting.device.kind == "cuda" or _only_cpu(setting) else setting.work / "store-cpu"
    words = [
        "ingest",
        str(setting.features),
        "--store",
        str(store),
        "--build",
        setting.layer,
        "--device",
        str(setting.device),
    ]
    shares: list[float] = []
    said: dict[str, Any] = {}

    def run() -> None:
        shutil.rmtree(store, ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", *map(str, words), "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            said_last = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
            raise EngineError(f"mirsearch ingest ended with {done.returncode}: {said_last[0]}")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        system, user = used.ru_stime - before.ru_stime, used.ru_utime - before.ru_utime
        shares.append(system / (system + user))
        said.update(json.loads(done.stdout))

    taken = repeated(setting, run, warm=0)
    if store != setting.store_path:
        shutil.rmtree(store)
    shown = {key: said[key] for key in ("photos", "stages", "seconds", "indices") if key in said}
    return {"seconds": figure(taken, "s"), "system_share": figure(shares, "of the processors' time"), "said": shown}


def _only_cpu(setting: Setting) -> bool:
    """Whether no GPU has left its store, which other parts use."""
    return not (setting.store_path / "manifest.json").exists()


def build(setting: Setting) -> Figures:
    """An index over fc7 of the store: seconds, by phase."""
    store, phases, memory = setting.store(), dict[str, list[float]](), list[float]()

    def run() -> None:
        name = f"bench-{setting.device.kind}"
        report = build_index(store, IndexSpec(layer=setting.layer), device=setting.device, name=name, force=True)
        phases.setdefault("whole", []).append(report.seconds)
        memory.append(float(report.manifest.training.get("gpu_memory_mib", 0)))
        for key, value in report.manifest.training.items():
            if key.startswith("seconds_"):
                phases.setdefault(key.removeprefix("seconds_"), []).append(float(value))

    taken = repeated(setting, run, warm=0)
    shown = {name: figure(some, "s") for name, some in phases.items()}
    return {"seconds": figure(taken, "s"), "phases": shown, "gpu_memory": figure(memory, "MiB")}


def search(setting: Setting) -> Figures:
    """A batch of queries: the quickest settings of recall@10 ≥ 0.95; queries on the device, and on the host."""
    store, queries = setting.store(), held_out(setting)
    last = tenth(setting, store, queries)
    index = Index.open(setting.index_path(), device=setting.device, store=store)
    asked = setting.kernels.to_device(queries)
    points, specs = list[Point](), dict[str, SearchSpec]()
    for probes, rerank in GRID:
        spec = SearchSpec(k=K, probes=min(probes, index.most_probes), rerank=min(rerank, len(index)))
        answer = index.search(asked, spec)  # which also brings the rows there, the first time
        [seconds] = repeated(setting.once(), lambda spec=spec: index.search(asked, spec), warm=0)  # type: ignore[misc]
        point = Point(
            f"probes {probes}, rerank {rerank}", recall(setting.kernels.to_host(answer.scores), last), seconds
        )
        points.append(point)
        specs[point.name] = spec
    found: Figures = {"settings": [vars(point) for point in points]}
    if (best := best_of(points)) is None:
        return found | {"problem": "no setting reached the recall"}
    spec, n = specs[best.name], len(queries)
    there = rates(n, repeated(setting, lambda: index.search(asked, spec), times=3))
    here = rates(n, repeated(setting, lambda: index.search(queries, spec), times=3))
    own = SearchSpec(k=K)
    default = rates(n, repeated(setting, lambda: index.search(asked, own)))
    of_default = recall(setting.kernels.to_host(index.search(asked, own).scores), last)
    return found | {
        "chosen": vars(best), "queries_per_second": figure(there, "queries/s"),
        "from_the_host": figure(here, "queries/s"), "defaults": figure(default, "queries/s"),
        "recall": best.recall, "recall_of_defaults": of_default,
    }  # fmt: skip


def latency(setting: Setting) -> Figures:
    """One query after another at the defaults: milliseconds of the median and of the slowest in a hundred."""
    store, queries = setting.store(), held_out(setting)
    index = Index.open(setting.index_path(), device=setting.device, store=store)
    found = {"rows_in_the_page_cache": _single(setting, index, queries)}
    if setting.device.kind == "cuda":
        asked = setting.kernels.to_device(queries)
        index.search(asked[: max(SINGLE, 1000)])  # brings the raw rows to the GPU
        found |= {"from_the_host": _single(setting, index, queries), "on_the_device": _single(setting, index, asked)}
    last = found.get("from_the_host", found["rows_in_the_page_cache"])
    return {"p50": last["p50"], "p99": last["p99"], "by_case": found}


def _single(setting: Setting, index: Index, queries: Any) -> Figures:
    spec = SearchSpec(k=K)
    count = min(SINGLE, len(queries))
    for i in range(min(50, count)):
        index.search(queries[i], spec)
    halves, slow = [], []
    for _ in range(REPEATS):
        taken = []
        for i in range(count):
            started = time.perf_counter()
            index.search(queries[i], spec)
            setting.wait()
            taken.append(1000 * (time.perf_counter() - started))
        halves.append(float(np.percentile(taken, 50)))
        slow.append(float(np.percentile(taken, 99)))
    return {"p50": figure(halves, "ms"), "p99": figure(slow, "ms")}


def exact_part(setting: Setting) -> Figures:
    """All rows against all queries, rows on the device where they fit; recall against float64; the truth for others."""
    store, queries = setting.store(), held_out(setting)
    count = len(queries) if setting.device.kind == "cuda" else min(ON_CPU, len(queries))
    rows, asked = on_device(setting, store), queries[:count]
    taken = repeated(setting, lambda: exact(setting, rows, asked))
    found = exact(setting, rows, asked[:SURE])[1]
    true = in_float64(setting, rows, asked[:SURE])
    figures: Figures = {
        "seconds": figure(taken, "s"), "queries": count, "recall": recall(found, true), "checked": len(found),
        "queries_per_second": figure(rates(count, taken), "queries/s"), "rows": type(rows).__module__,
    }  # fmt: skip
    if setting.device.kind == "cuda":
        tenth(setting, store, queries)
        engine = partial(exact_search, store, setting.layer, queries, K, metric="cosine", kernels=setting.kernels)
        figures["from_the_page_cache"] = figure(repeated(setting.once(), engine, warm=0), "s")
    return figures


def join(setting: Setting) -> Figures:
    """All pairs of rows of a cosine of 0.95 and more, rows on the device where they fit."""
    rows = on_device(setting, setting.store())

    def blocks() -> Iterator[Any]:
        for start in range(0, len(rows), 8192):
            yield np.arange(start, min(start + 8192, len(rows))), rows[start : start + 8192]

    pairs = 0

    def run() -> None:
        nonlocal pairs
        pairs = len(setting.kernels.join(blocks, THRESHOLD, "cosine")[0])

    taken = repeated(setting, run, warm=0)
    return {"seconds": figure(taken, "s"), "pairs": pairs, "threshold": THRESHOLD, "rows": len(rows)}


PARTS: dict[str, Callable[[Setting], Figures]] = {
    "parity": parity, "photos": photos, "decode": decode, "ingest": ingest, "build": build, "exact": exact_part,
    "search": search, "latency": latency, "join": join,
}  # fmt: skip


def expected_seconds(part: str, setting: Setting) -> float:
    """About how long a part takes with its repeats: on a GPU as `gpu.md` expects of a H200, on the CPU by its cores."""
    million, cores = setting.photos / 1e6, os.cpu_count() or 1
    if part == "photos":
        return 2 + million * (450 / cores + 40)
    if setting.device.kind == "cuda":
        fixed, each = {"parity": (25, 0), "decode": (20, 0), "ingest": (10, 110), "build": (10, 45), "exact": (15, 60),
                       "search": (15, 25), "latency": (15, 15), "join": (10, 45), "peers": (20, 70)}[part]  # fmt: skip
        return fixed + each * million
    if part == "join":
        return 5 + 70_000 * million**2 / cores
    fixed, each = {"parity": (60, 0), "decode": (10, 0), "ingest": (20, 400), "build": (20, 400), "exact": (5, 400),
                   "search": (15, 200), "latency": (10, 40), "peers": (20, 900)}[part]  # fmt: skip
    truth = 0.1 * setting.queries if part == "search" and not truth_path(setting).exists() else 0
    return fixed + (each + truth) * million / cores
