"""What this machine and this installation can do, and what is wrong with them."""

import importlib
import os
import platform
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.errors import DependencyError
from engine.index import ivfpq
from engine.index.device import settle
from engine.version import VERSION
from kernels.device import cpu_threads, cupy_gpus


@dataclass
class Examination:
    """Facts in order, and problems: each a line that says what to do."""

    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def examine_machine() -> Examination:
    """Look at Python, the CPU, FAISS, CuPy and the GPUs. Never raises, never starts a GPU that is not there."""
    found = Examination()
    found.facts |= {
        "mirsearch": VERSION,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cpu": f"{cpu_model()}, {cpu_threads()} of {os.cpu_count()} cores usable",
        "memory": memory(),
    }
    for name in ("numpy", "numba", "scipy", "pyarrow", "matplotlib", "pillow"):
        found.facts[name] = _version(name)
    _faiss(found)
    _gpus(found)
    return found


def cpu_model() -> str:
    """The CPU's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> str:
    """The machine's memory, in GiB."""
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _faiss(found: Examination) -> None:
    builds = ivfpq.installed_builds()
    try:
        build = ivfpq.describe_build()
        found.facts["faiss"] = f"{build['version']} ({', '.join(builds) or 'not from a wheel'})"
        found.facts["faiss SIMD"] = f"{build['simd']} ({build['options']})"
    except DependencyError as error:
        found.facts["faiss"] = "cannot be imported"
        found.problems.append(str(error))
    if len(builds) > 1:
        found.problems.append(
            f"Several FAISS builds are installed ({', '.join(builds)}): they overwrite each other's files. "
            f"pip uninstall -y {' '.join(builds)}, then install one: pip install 'mirsearch[cpu]' (or [cuda12], "
            "[cuda13])."
        )


def _gpus(found: Examination) -> None:
    count, problem = cupy_gpus()
    found.facts["cupy"] = next(
        (f"{_version(name)} ({name})" for name in _CUPY if _version(name) != "not installed"), "not installed"
    )
    driver = nvidia_driver()
    found.facts["nvidia driver"] = driver or "none"
    found.facts["gpus"] = problem or "; ".join(_gpu(number) for number in range(count))
    if not driver or any("FAISS" in line for line in found.problems):
        pass
    elif problem:
        found.problems.append(f"There is an NVIDIA driver, but no GPU can be used: {problem}. {_install(driver)}")
    elif ivfpq.gpu_count()[1]:
        found.problems.append(f"CuPy sees {count} GPU(s), but {ivfpq.gpu_count()[1]}. {_install(driver)}")
    try:
        device = settle("auto")
        found.facts["--device auto"] = f"{device}: {device.why}"
    except DependencyError:
        found.facts["--device auto"] = "cpu: FAISS cannot be imported"


_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def _install(driver: str) -> str:
    major = driver.split(".", 1)[0]
    extra = "cuda13" if major.isdigit() and int(major) >= 580 else "cuda12"
    return f"pip uninstall -y faiss-cpu; pip install -U pip; pip install 'mirsearch[{extra}]'"


def nvidia_driver() -> str:
    """The version of the NVIDIA driver, or an empty string."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        pass
    try:
        words = Path("/proc/driver/nvidia/version").read_text().split()
        return next((word for word in words if word[0].isdigit() and "." in word), "")
    except OSError:
        return ""


def _gpu(number: int) -> str:
    runtime = importlib.import_module("cupy").cuda.runtime
    properties = runtime.getDeviceProperties(number)
    name = properties["name"].decode()
    memory_gib = properties["totalGlobalMem"] / 2**30
    return f"cuda:{number} {name}, {memory_gib:.0f} GiB, sm_{properties['major']}{properties['minor']}"
