"""What an engine of `benchmarks.search` is given to do, and what it offers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.store.store import Store
from kernels import Device, Metric, load

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
CPU = Device(kind="cpu")
M, EF_CONSTRUCTION = 16, 100  # of every graph


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is searched: a layer of a store, by a metric. folder: where a peer keeps its index."""

    store: Store
    layer: str
    metric: Metric
    folder: Path

    @property
    def rows(self) -> F32:
        """The layer's rows (n, dim)."""
        return self.store.layer(self.layer)

    def prepared(self, rows: F32) -> F32:
        """Rows as a peer without a cosine of its own wants them."""
        rows = np.asarray(rows, np.float32)
        return load(CPU).normalize(rows) if self.metric == "cosine" else rows

    def blocks(self, size: int = 4096) -> Any:
        """(first row, prepared rows) in blocks."""
        for start in range(0, len(self.rows), size):
            yield start, self.prepared(self.rows[start : start + size])


class Peer(Protocol):
    """One engine. settings: from quick to thorough; each is a name and what `search` takes."""

    settings: list[tuple[str, Any]]

    def build(self, task: Task) -> None:
        """Build the index of a task in its folder."""

    def open(self, task: Task) -> None:
        """Have the index ready to be searched."""

    def search(self, queries: F32, k: int, setting: Any) -> I64:
        """Row numbers (q, k) of the nearest rows."""
