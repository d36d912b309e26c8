"""Engines that memory does not hold all at once: each is measured alone, in a process of its own, in turn.

`python -m benchmarks.search --in-turn` starts them. Before an engine is measured, the raw rows that it reads are
brought into the page cache, as far as they fit beside it; with another engine's index in memory they would not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_ours import Exact, Mirsearch, Rival
from benchmarks.peer_task import Task
from benchmarks.peers import PEERS
from benchmarks.points import Point, Recall, measure
from engine.store.store import Store


def measure_in_turn(tasks: dict[str, Task], queries: Path, rounds: int) -> list[Point]:
    """Every setting of every peer, by name; queries: a .npy file (n, dim) float32."""
    points: dict[tuple[str, str], Point] = {}
    for number in range(rounds):
        for name, task in tasks.items():
            print(f"round {number + 1} of {rounds}: {name}", flush=True)
            words = [str(task.store.path), task.layer, task.metric, name, str(task.folder), str(queries)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.in_turn", *words], stdout=subprocess.PIPE, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name}: ended with {done.returncode}")
            for found in json.loads(done.stdout.splitlines()[-1]):
                new = Point(**found)
                point = points.setdefault((name, new.name), new)
                if point is not new:
                    point.seconds += new.seconds
                    point.singles += new.singles
    return list(points.values())


def _bring(rows: Any) -> None:
    """Read all rows once, so that the page cache has what fits there."""
    for start in range(0, len(rows), 4096):
        rows[start : start + 4096].max()


def main() -> None:
    """Measure PEER once, and print its points as one JSON document."""
    store, layer, metric, name, folder, file = sys.argv[1:]
    task = Task(store=Store.open(store), layer=layer, metric=metric, folder=Path(folder))  # type: ignore[arg-type]
    queries, peer = np.load(file), PEERS[name]
    recall = Recall(task, queries, Path(file).with_suffix(".least.npy"))
    peer.open(task)
    if isinstance(peer, Mirsearch | Rival | Exact):
        _bring(task.rows)
    said, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the process's life
    points = measure({name: peer}, queries, recall, 1)
    said.write(json.dumps([{**vars(p), "singles": [one.tolist() for one in p.singles]} for p in points]) + "\n")


if __name__ == "__main__":
    main()
