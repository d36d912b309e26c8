"""Builds one peer of `benchmarks.search` in a process of its own, and says how long it took and in how much memory.

`python -m benchmarks.peer_build STORE LAYER METRIC PEER FOLDER` prints one JSON document. Memory is the peak of what
the process holds for itself (RssAnon), looked at every 20 ms: maps of files, which the system may drop, do not count.
"""

import json
import sys
import threading
import time
from pathlib import Path

from benchmarks.peer_task import Task
from benchmarks.peers import PEERS
from engine.store.store import Store


def anonymous() -> int:
    """Bytes of memory that are this process's own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


class Peak:
    """The largest `anonymous()` while a `with` runs."""

    def __enter__(self) -> "Peak":
        self.bytes, self._over = anonymous(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, anonymous())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def main() -> None:
    """Build PEER."""
    store, layer, metric, name, folder = sys.argv[1:]
    task = Task(store=Store.open(store), layer=layer, metric=metric, folder=Path(folder))  # type: ignore[arg-type]
    started = time.perf_counter()
    with Peak() as peak:
        PEERS[name].build(task)
    print(json.dumps({"seconds": time.perf_counter() - started, "peak_mib": peak.bytes / (1 << 20)}))


if __name__ == "__main__":
    main()
