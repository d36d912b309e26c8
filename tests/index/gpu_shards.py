"""Small shards on disk, and pretended GPUs to open them on."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.index import gpu, gpu_search, ivfpq, shards
from engine.index.spec import IndexSpec
from kernels import Device
from kernels.device import GpuOptions
from tests.index.fake_gpu import MIB, Machine, pretend
from tests.kernels import emulated

CPU = Device(kind="cpu")
DIM, ROWS, LISTS, FIRST = 32, 1500, 16, 5_000


def cuda(*gpus: int, **options: Any) -> Device:
    return Device(kind="cuda", gpus=gpus or (0,), gpu=GpuOptions(**options))


@cache
def rows(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((30, DIM))[rng.integers(0, 30, ROWS)] * 2 + rng.standard_normal((ROWS, DIM))).astype(
        "f4"
    )


@cache
def trained(metric: str = "l2") -> Any:
    spec = IndexSpec.model_validate(
        {"layer": "fc7", "metric": metric, "reduced": DIM, "lists": LISTS, "pq_m": 8, "pq_bits": 8}
    )
    return ivfpq.train(rows(), spec, CPU)


def files(folder: Path, count: int, metric: str = "l2") -> list[Path]:
    """The rows, numbered from 5,000, in so many shards."""
    paths = []
    for number, (start, stop) in enumerate(shards.ranges(ROWS, -(-ROWS // count))):
        shard = ivfpq.empty_copy(trained(metric), CPU)
        ivfpq.add(shard, rows()[start:stop], FIRST + start)
        paths.append(folder / f"shard-{number}.faiss")
        ivfpq.save(shard, paths[-1])
    return paths


def expected(paths: list[Path], queries: Any, count: int, probes: int, bits: Any = None) -> tuple[Any, Any]:
    """What all shards answer together, on the CPU, ties by row."""
    found = [ivfpq.search(shard, queries, count, probes, bits) for shard in ivfpq.load_all(paths, CPU)]
    return gpu_search.merge(np, found, count)


@contextmanager
def machine_of(
    monkeypatch: pytest.MonkeyPatch, gpus: int = 1, memory: int = 256 * MIB, *, peers: bool = True, cuvs: bool = True
) -> Iterator[Machine]:
    """Pretended GPUs; in the end nothing of theirs is left, and nothing was freed by the wrong thread."""
    if emulated.NEEDS:
        pytest.skip(emulated.NEEDS)
    machine = Machine(gpus, memory, peers=peers, cuvs=cuvs)
    gpu_search._reach.cache_clear()
    with monkeypatch.context() as patch:
        pretend(patch, machine)
        try:
            yield machine
        finally:
            gc.collect()
            gpu.close()
            gpu_search._reach.cache_clear()
    assert machine.wrong == [] and machine.used == [0] * gpus
