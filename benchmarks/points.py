"""What `benchmarks.search` measures of an engine: recall, throughput and latency at each of its settings."""

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_task import CPU, F32, I64, Peer, Task
from engine.index.exact import exact_search
from kernels import Codes, load

K, SINGLES = 10, 300


@dataclass
class Point:
    """One setting of one peer."""

    peer: str
    name: str
    setting: Any
    queries: int
    recall: float = 0.0
    seconds: list[float] = field(default_factory=list)
    singles: list[Any] = field(default_factory=list)

    @property
    def qps(self) -> float:
        """Queries per second."""
        return self.queries / statistics.median(self.seconds)


class Recall:
    """Of answers, against the exact one. kept: a .npy file where the tenth true scores are, or will be."""

    def __init__(self, task: Task, queries: F32, kept: Path | None = None) -> None:
        self.task, self.queries, self.kernels = task, queries, load(CPU)
        if kept and kept.exists():
            least = np.load(kept)
        else:
            truth = exact_search(task.store, task.layer, queries, K, metric=task.metric, kernels=self.kernels)
            least = truth.scores[:, -1].astype(np.float64)
            if kept:
                np.save(kept, least)
        self.least = least - 1e-6 * np.abs(least)

    def __call__(self, found: I64) -> float:
        """Of rows (q, k), k ≥ 10."""
        found = np.where(np.arange(found.shape[1]) < K, found, -1)
        _, scores = self.kernels.rerank(self.queries, found, Codes(self.task.rows), self.task.metric, K)
        return float((scores >= self.least[:, None]).mean())


def measure(peers: dict[str, Peer], queries: F32, recall: Recall, rounds: int) -> list[Point]:
    """Every setting of every peer."""
    points = [
        Point(name, label, setting, len(queries)) for name, peer in peers.items() for label, setting in peer.settings
    ]
    for point in points:
        point.recall = recall(peers[point.peer].search(queries, K, point.setting))
        print(f"{point.peer}, {point.name}: recall {point.recall:.4f}", flush=True)
    chosen = {id(best) for name in peers if (best := quickest_so_far(points, name, 0.95))}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for point in points:
            peer = peers[point.peer]
            if point.peer == "exact" and number:
                continue
            started = time.perf_counter()
            peer.search(queries, K, point.setting)
            point.seconds.append(time.perf_counter() - started)
            if id(point) in chosen:
                point.singles.append(one_by_one(peer, queries, point.setting, 20 if point.peer == "exact" else SINGLES))
    return points


def quickest_so_far(points: list[Point], peer: str, least: float) -> Point | None:
    """The first setting, which are in order from quick to thorough, that reaches a recall."""
    return next((point for point in points if point.peer == peer and point.recall >= least), None)


def one_by_one(peer: Peer, queries: F32, setting: Any, count: int) -> Any:
    """Milliseconds of single queries (count,)."""
    taken = np.empty(count)
    for i in range(-5, count):
        started = time.perf_counter()
        peer.search(queries[i % len(queries)][None], K, setting)
        if i >= 0:
            taken[i] = (time.perf_counter() - started) * 1e3
    return taken


def at_recall(points: list[Point], peer: str, least: float) -> Point | None:
    """The setting of most throughput that reaches a recall."""
    good = [point for point in points if point.peer == peer and point.recall >= least and point.seconds]
    return max(good, key=lambda point: point.qps, default=None)
