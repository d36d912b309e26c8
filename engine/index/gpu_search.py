"""A search of all shards of an index on one GPU or several: the same answers wherever the shards lie.

Each GPU searches its shards by its own thread. Of shards that do not stay, one is searched while a second thread of the
same GPU copies the next. What they find is merged on the first GPU if all others reach its memory, else on the host.
"""

from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index.gpu import Lane, cupy, gpu_of, here
from engine.index.gpu_limits import check_search
from engine.index.gpu_shard import Ask, GpuShard
from engine.index.placement import parts
from kernels import dense

Found = tuple[Any, Any]
"""Closeness (q, count) float32 and rows (q, count) int64, −1 = absent."""


@dataclass(frozen=True)
class _Task:
    """Shards that a lane searches one after the other, for some of the queries."""

    lane: Lane
    queries: slice
    shards: list[GpuShard]


def search_all(
    shards: Sequence[GpuShard], queries: Any, count: int, probes: int, bits: npt.NDArray[np.uint8] | None = None
) -> Found:
    """The `count` nearest codes of all shards for each query, nearest first: as `ivfpq.search_all`.

    Queries on the device: the results are there too, of the GPU that the kernels run on, and in order on the current
    stream of the calling thread; nothing waits for the GPU, unless shards are copied for the search. Queries on the
    host: results on the host.
    """
    device, xp = shards[0].device, cupy()
    ask = Ask(count, check_search(count, probes, shards[0].nlist, device.gpu.library), bits)
    with xp.cuda.Device(device.gpus[0]):
        inside = isinstance(queries, xp.ndarray)
        asked = xp.ascontiguousarray(xp.asarray(queries, dtype=xp.float32))
        tasks = _tasks(shards, len(asked))
        on_device = _reach(device.gpus[0], tuple(sorted({task.lane.gpu for task in tasks})))
        found = [_room(task, asked, count) if on_device else None for task in tasks]
        _run(tasks, asked, ask, found)
        best = _together(xp if on_device else np, tasks, found, count)
        if inside:
            return best if on_device else (xp.asarray(best[0]), xp.asarray(best[1]))
        return (xp.asnumpy(best[0]), xp.asnumpy(best[1])) if on_device else best


def _tasks(shards: Sequence[GpuShard], queries: int) -> list[_Task]:
    """Who searches what: every GPU all queries in its shards, or with replicas a part of them in all shards."""
    device = shards[0].device
    if device.gpu.replicate:
        cut = parts(queries, len(device.gpus)) or [slice(0, 0)]
        return [task for gpu, part in zip(device.gpus, cut, strict=False) for task in _of_gpu(shards, gpu, part)]
    return [task for gpu in device.gpus for task in _of_gpu(shards, gpu, slice(0, queries))]


def _of_gpu(shards: Sequence[GpuShard], gpu: int, part: slice) -> list[_Task]:
    """The tasks of one GPU: shards that stay first; of the others the second lane copies one while one is in use."""
    staying = [shard for shard in shards if gpu in shard.copies]
    coming = [shard for shard in shards if gpu in shard.streamed]
    lanes = 2 if len(staying) + len(coming) > 1 and any(shard.streamed[gpu] for shard in coming) else 1
    work = [staying + coming[0::lanes], coming[1::lanes] if lanes == 2 else []]
    own = gpu_of(gpu, shards[0].device.gpu)
    return [_Task(own.lane(number), part, some) for number, some in enumerate(work) if some]


def _room(task: _Task, asked: Any, count: int) -> Found:
    """Arrays on the first GPU for what a task finds."""
    xp, n = cupy(), task.queries.stop - task.queries.start
    return xp.empty((n, count), xp.float32), xp.empty((n, count), xp.int64)


def _run(tasks: list[_Task], asked: Any, ask: Ask, found: list[Found | None]) -> None:
    """Have every task find; the calling thread's stream waits for them. The first error, when all have ended."""
    stream = cupy().cuda.get_current_stream()
    ready = stream.record()
    futures: list[Future[Any]] = [
        task.lane.submit("search", _answer, task, asked, ready, ask, found[i]) for i, task in enumerate(tasks)
    ]
    wait(futures)
    for i, future in enumerate(futures):
        done, on_host = future.result()
        if on_host is None:
            stream.wait_event(done)
        else:
            found[i] = on_host


def _answer(task: _Task, asked: Any, ready: Any, ask: Ask, place: Found | None) -> tuple[Any, Found | None]:
    """Search the shards of a task, on its lane's thread; an event for the end, or the results on the host."""
    xp, lane = cupy(), task.lane
    lane.stream.wait_event(ready)
    queries = here(lane, asked[task.queries])
    best: Found | None = None
    if len(queries):
        own = place if len(task.shards) == 1 and asked.device.id == lane.gpu else None
        for shard in task.shards:
            some = shard.find(lane, queries, ask, own)
            best = some if best is None else merge(xp, [best, some], ask.count)
        assert best is not None
        if place is None:
            return None, (xp.asnumpy(best[0]), xp.asnumpy(best[1]))
        for source, target in zip(best, place, strict=True):
            if source is not target:
                target.data.copy_from_device_async(source.data, source.nbytes, lane.stream)
    elif place is None:
        return None, (np.empty((0, ask.count), np.float32), np.empty((0, ask.count), np.int64))
    return lane.stream.record(), None


def _together(xp: Any, tasks: list[_Task], found: list[Any], count: int) -> Found:
    """What the tasks have found, queries in order; of the same queries the best."""
    by_part: dict[int, list[Found]] = {}
    for task, some in zip(tasks, found, strict=True):
        by_part.setdefault(task.queries.start, []).append(some)
    merged = [merge(xp, some, count) if len(some) > 1 else some[0] for _, some in sorted(by_part.items())]
    if len(merged) == 1:
        return merged[0]
    return xp.concatenate([closeness for closeness, _ in merged]), xp.concatenate([rows for _, rows in merged])


def merge(xp: Any, found: Sequence[Found], count: int) -> Found:
    """The `count` closest of several findings of the same queries, of equal ones those of the lowest rows.

    So that it makes no difference in which order shards were searched, and where.
    """
    closeness = xp.concatenate([some for some, _ in found], axis=1)
    rows = xp.concatenate([some for _, some in found], axis=1)
    rows = xp.where(rows < 0, xp.iinfo(xp.int64).max, rows)
    order = xp.argsort(rows, axis=1)
    ordered = xp.take_along_axis(rows, order, axis=1), xp.take_along_axis(closeness, order, axis=1)
    best, scores = dense.best_first(xp, *ordered, count)
    return scores, best


@cache
def _reach(first: int, gpus: tuple[int, ...]) -> bool:
    """Whether the first GPU's memory can be written by all others."""
    can = cupy().cuda.runtime.deviceCanAccessPeer
    return all(gpu == first or can(gpu, first) for gpu in gpus)
