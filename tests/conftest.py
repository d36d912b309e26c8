"""Fixtures for all tests: the devices, Hypothesis, and Numba's cache kept honest."""

import hashlib
import importlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import kernels
from kernels.device import cupy_gpus

settings.register_profile("mirsearch", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("mirsearch")

ROOT = Path(kernels.__file__).parents[1]
ON_GPU = pytest.param("cuda", marks=pytest.mark.gpu)


def pytest_configure(config: Any) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in a shell's background: processes would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # with xdist: the controller, before the workers load anything
        forget_stale_machine_code(config)


def forget_stale_machine_code(config: pytest.Config) -> None:
    """Delete Numba's cached code when a file it was compiled from has changed since the last session.

    Numba looks at the file of a function alone, not at those of the functions inlined in it: without this, tests of
    `engine.store.direct` would run against what `kernels.cpu` was yesterday.
    """
    sources = [*sorted((ROOT / "kernels").glob("*.py")), ROOT / "engine" / "store" / "direct.py"]
    seen = hashlib.sha256()
    for path in sources:
        seen.update(f"{path.name} {path.stat().st_mtime_ns} ".encode() + path.read_bytes())
    cache = getattr(config, "cache", None)
    if cache is not None and cache.get("mirsearch/kernel_sources", "") == seen.hexdigest():
        return
    folders = [ROOT / "kernels" / "__pycache__", ROOT / "engine" / "store" / "__pycache__"]
    if "NUMBA_CACHE_DIR" in os.environ:
        folders.append(Path(os.environ["NUMBA_CACHE_DIR"]))
    for path in (path for folder in folders for path in folder.rglob("*.nb[ic]")):
        path.unlink(missing_ok=True)
    if cache is not None:
        cache.set("mirsearch/kernel_sources", seen.hexdigest())


def pytest_collection_modifyitems(items):
    gpus, problem = cupy_gpus()
    if not gpus:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no GPU: {problem}"))


def load_kernels(name: Any) -> Any:
    if name == "cpu":
        pytest.importorskip("numba")
    return kernels.load(name)


@pytest.fixture(scope="session", params=["cpu", ON_GPU], name="kernels")
def all_kernels(request):
    """The kernels of every device that is here."""
    return load_kernels(request.param)


@pytest.fixture(scope="session", params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The array modules that `kernels.dense` runs on."""
    return importlib.import_module(request.param)
