"""autofaiss as a peer of `benchmarks.search`: it is built by another Python, and searched by our own FAISS.

autofaiss 2.18.0 wants NumPy below 2, so it gets a virtual environment of its own:
`python3.11 -m venv DIR && DIR/bin/pip install autofaiss 'pyarrow<20'` (newer PyArrow wants NumPy 2, and autofaiss does
not say so); faiss-cpu 1.15.1 comes with it. Which Python that is, the environment variable AUTOFAISS_PYTHON says.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.index import ivfpq
from kernels.device import cpu_threads

if TYPE_CHECKING:
    from benchmarks.peer_task import F32, I64, Task

PYTHON = "AUTOFAISS_PYTHON"
# Beside the point that autofaiss chooses: the same index from quick to thorough.
SWEEPS = {"efSearch": (16, 32, 64, 128, 256), "nprobe": (4, 8, 16, 32, 64, 128)}


@dataclass
class Autofaiss:
    """index_memory, memory: what it is told that the index may take and that the machine has.

    A setting is a string of FAISS's `ParameterSpace`; the first is the one that autofaiss tuned (`index_param`).
    """

    index_memory: str = "8G"
    memory: str = "16G"
    settings: list[tuple[str, Any]] = field(default_factory=list)

    def build(self, task: "Task") -> None:
        """See `Peer.build`. The prepared rows are written as a `.npy` first and removed after; that is not counted.

        Nor is this process's memory what the build takes: `facts` gives the time and memory of the other one.
        """
        python = os.environ.get(PYTHON)
        if not python:
            raise SystemExit(f"autofaiss: {PYTHON} says which Python has it; see benchmarks/peer_autofaiss.py")
        rows = task.folder / "rows"
        rows.mkdir(exist_ok=True)
        try:
            whole = np.lib.format.open_memmap(rows / "rows.npy", "w+", np.float32, task.rows.shape)
            for start, block in task.blocks():
                whole[start : start + len(block)] = block
            whole.flush()
            del whole
            metric = "l2" if task.metric == "l2" else "ip"
            words = [rows, task.folder, metric, self.index_memory, self.memory, cpu_threads()]
            script = Path(__file__).with_name("autofaiss_build.py")
            done = subprocess.run(
                [python, str(script), *map(str, words)], capture_output=True, text=True, check=False
            )  # fmt: skip
        finally:
            shutil.rmtree(rows)
        if done.returncode:
            raise SystemExit(f"autofaiss: {(done.stderr or done.stdout)[-2000:]}")

    def facts(self, task: "Task") -> dict[str, float]:
        """Seconds and peak_mib of the build alone."""
        found: dict[str, float] = json.loads((task.folder / "built.json").read_text())
        return found

    def open(self, task: "Task") -> None:
        """See `Peer.open`."""
        self._task, self._faiss = task, ivfpq.faiss()
        self._index = self._faiss.read_index(str(task.folder / "index"))
        infos = json.loads((task.folder / "infos.json").read_text())
        chosen = str(infos["index_param"])
        name = "efSearch" if infos["index_key"].startswith("HNSW") else "nprobe"
        sweep = [(f"{name} {value}", f"{name}={value}") for value in SWEEPS[name]]
        self.settings = [(f"as it chose: {infos['index_key']}, {chosen}", chosen), *sweep]

    def search(self, queries: "F32", k: int, setting: str) -> "I64":
        """See `Peer.search`."""
        if setting:
            self._faiss.ParameterSpace().set_index_parameters(self._index, setting)
        return np.asarray(self._index.search(self._task.prepared(queries), k)[1], np.int64)
