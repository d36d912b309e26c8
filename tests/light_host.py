"""A GPU host with little on it, pretended: `python -m tests.light_host verbs|benchmark FOLDER` works there.

What such a host lacks cannot be imported; CuPy is the stand-in of `tests.kernels.emulated`, FAISS that of
`tests.index.fake_gpu`. Says what was run on standard error, as JSON; what imports something that is not there ends it.
"""

import json
import sys
from pathlib import Path
from typing import Any

# What the project depends on and a GPU host may be without: all but NumPy, CuPy, FAISS, Typer, pydantic and xxhash.
LACKING = [
    "PIL", "backports", "duckdb", "h5py", "isal", "llvmlite", "matplotlib", "msgspec", "numba", "orjson", "pyarrow",
    "rich", "scipy", "threadpoolctl",
]  # fmt: skip
GPU_MEMORY = 8 << 30
PHOTOS = 320


class Absent:
    """Finds none of what is lacking."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def pretended_gpu(patch: Any) -> Any:
    """Kernels and FAISS of one pretended GPU behind `--device cuda`, in this process from now on."""
    from engine.index import spec
    from kernels import device
    from tests.index.fake_gpu import Machine, pretend
    from tests.index.test_gpu_index import Event, complete
    from tests.kernels import emulated

    machine = Machine(1, GPU_MEMORY, peers=True, cuvs=False)
    pretend(patch, machine)
    complete(machine.cupy.cuda, emulated.Cupy().cuda)
    machine.cupy.cuda.Event = Event
    machine.cupy.cuda.get_elapsed_time = lambda start, stop: 1.0
    describe(machine)
    patch.setattr(emulated, "Cupy", lambda: machine.cupy)
    patch.setattr(emulated.DeviceArray, "__cuda_array_interface__", property(lambda _: {}), raising=False)
    patch.setitem(sys.modules, "kernels.cuda", emulated.load())
    patch.setattr(device, "_has_driver", lambda: True)
    patch.setattr(spec, "EXACT_BELOW", 100)
    patch.setattr(spec, "MAX_REDUCED", 16)
    patch.setattr(spec, "default_training_rows", lambda lists: 280)
    return machine


def describe(machine: Any) -> None:
    """What is asked of a GPU and of CuPy where a report says what they are."""
    from tests.index import fake_gpu

    runtime = machine.cupy.cuda.runtime
    runtime.deviceSynchronize = lambda: None
    runtime.getDeviceProperties = lambda number: {
        "name": b"pretended", "major": 9, "minor": 0, "totalGlobalMem": GPU_MEMORY,
    }  # fmt: skip
    runtime.driverGetVersion = runtime.runtimeGetVersion = lambda: 13000
    fake_gpu.Device.mem_info = (GPU_MEMORY, GPU_MEMORY)  # type: ignore[attr-defined]
    machine.cupy.__version__ = "none"


def verbs(folder: Path, machine: Any, patch: Any) -> list[str]:
    """Verbs from a collection to its neighbours; which were run."""
    store, gpu = str(folder / "store"), ["--device", "cuda", "--json"]
    calls = [
        ["synth", str(folder / "sample"), "--photos", str(PHOTOS), "--json"],
        ["ingest", str(folder / "sample" / "features"), "--store", store, "--build", "fc8", *gpu],
        ["build", store, "--layer", "fc8", "--name", "again", "--gpu-memory", "256MB", *gpu],
        ["query", store, "--layer", "fc8", "--photo", "5", "-k", "3", *gpu],
        ["query", store, "--layer", "fc8", "--photo", "5", "-k", "3", "--exact", *gpu],
        ["info", store, "--json"],
        ["verify", store, "--json"],
        ["doctor", "--json"],
    ]
    for words in calls:
        run(words)
    assert {name for _, name in machine.uploads} == {"faiss-cuda:0"}, "nothing ran on the GPU"
    return [words[0] for words in calls]


def run(words: list[str]) -> None:
    """One call of the command."""
    from engine.cli.app import app

    try:
        app(words)
    except SystemExit as end:
        if end.code:
            raise AssertionError(f"{' '.join(words)}: exit code {end.code}") from None


def benchmark(folder: Path, machine: Any, patch: Any) -> list[str]:
    """The parts of `benchmarks.gpu` in their form for a GPU, but for the ingest, which is a process of its own."""
    from benchmarks import gpu, gpu_check, gpu_measure, gpu_parts, gpu_peers
    from engine.index.device import settle

    patch.setattr(gpu_parts, "GRID", ((30, 100),))
    patch.setattr(gpu_parts, "SINGLE", 2)
    patch.setattr(gpu_parts, "LAUNCHES", 1)
    patch.setattr(gpu_parts, "REPEATS", 1)
    patch.setattr(gpu_measure, "REPEATS", 1)
    patch.setattr(gpu_measure, "WANTED_RECALL", 0.5)
    patch.setattr(gpu_peers, "PROBES", (4,))
    device = settle("cuda")
    setting = gpu_measure.Setting(work=folder, device=device, photos=PHOTOS, queries=10, layer="fc8", seconds=0.0)
    run(["synth", str(setting.features.parent), "--photos", str(PHOTOS), "--json"])
    run(["ingest", str(setting.features), "--store", str(setting.store_path), "--device", "cuda", "--json"])
    parts = [part for part in gpu.ALL if part not in ("photos", "ingest")]
    for part in parts:
        gpu.Job(part=part, setting=setting, out=folder).run()
        figures = json.loads((folder / f"{part}-cuda.json").read_text())["figures"]
        assert "problem" not in json.dumps(figures), f"{part}: {figures}"
    assert gpu_check.facts(setting.kernels, device)["gpu"] == "pretended"
    return parts


def main(what: str, folder: Path) -> None:
    """Do it, and see that nothing was imported that a GPU host lacks."""
    import pytest

    patch = pytest.MonkeyPatch()
    machine = pretended_gpu(patch)
    done = {"verbs": verbs, "benchmark": benchmark}[what](folder, machine, patch)
    assert not [name for name in sys.modules if name.partition(".")[0] in LACKING]
    sys.stderr.write(json.dumps(done) + "\n")


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    main(sys.argv[1], Path(sys.argv[2]))
