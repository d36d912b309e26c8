"""The door to the kernels: which device was asked for, and the functions that run on it."""

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np

from kernels import compiled_cache
from kernels.contract import Kernels


class DeviceUnavailableError(RuntimeError):
    """CUDA was asked for and cannot be used; the text says why."""


GpuLibrary = Literal["faiss", "cuvs"]
"""Whose IVF-PQ runs on GPUs: FAISS's own, or NVIDIA's cuVS through FAISS."""


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """How GPUs are used; ValueError for what cannot be.

    memory: bytes that the lists of shards and FAISS's temporary memory may take on each GPU, and again as many for
    codes, queries and products on the first (None: a part of what is free). library: whose IVF-PQ it is. replicate:
    every shard on every GPU, so that each answers a part of the queries, instead of every GPU a part of the shards.
    """

    memory: int | None = None
    library: GpuLibrary = "faiss"
    replicate: bool = False

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"gpu-memory {self.memory}: expected a number of bytes, at least 1")
        if self.library not in ("faiss", "cuvs"):
            raise ValueError(f"gpu-library {self.library!r}: expected faiss or cuvs")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device settled for a whole command: its kind, the GPUs, why it was chosen, and how GPUs are used."""

    kind: Literal["cpu", "cuda"]
    gpus: tuple[int, ...] = ()
    why: str = ""
    gpu: GpuOptions = GpuOptions()

    def __str__(self) -> str:
        """`cpu`, `cuda:0` or `cuda:0,1`."""
        return self.kind if self.kind == "cpu" else f"cuda:{','.join(map(str, self.gpus))}"


def parse_device(text: str) -> tuple[Literal["auto", "cpu", "cuda"], tuple[int, ...]]:
    """The kind and the GPU numbers in `auto`, `cpu`, `cuda`, `cuda:0` or `cuda:0,1`; ValueError otherwise."""
    if text in ("auto", "cpu"):
        return cast(Literal["auto", "cpu"], text), ()
    match = re.fullmatch(r"cuda(?::(\d+(?:,\d+)*))?", text)
    if match is None:
        raise ValueError(f"device {text!r}: expected auto, cpu, cuda, cuda:0 or cuda:0,1")
    gpus = tuple(int(part) for part in match[1].split(",")) if match[1] else ()
    if len(set(gpus)) != len(gpus):
        raise ValueError(f"device {text!r}: a GPU is named twice")
    return "cuda", gpus


def cpu_threads() -> int:
    """How many threads work is spread over: the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_driver() -> bool:
    """Whether NVIDIA's driver is here at all; soon said, where importing CuPy takes longer than many a command."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def cupy_gpus() -> tuple[int, str]:
    """How many GPUs CuPy can use, and why there are none if there are none."""
    if not _has_driver():
        there = importlib.util.find_spec("cupy")
        return 0, "CuPy sees no GPU (no driver, or no device)" if there else "CuPy is not installed"
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return 0, "CuPy is not installed"
    except Exception as error:  # a broken CUDA installation may fail in any way at import
        return 0, f"CuPy cannot be imported: {error}"
    try:  # `is_available` would keep the reason to itself
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return 0, _reason(str(error))
    return count, "" if count else "CuPy sees no GPU (no driver, or no device)"


def _reason(error: str) -> str:
    """Why CUDA cannot be used, of an error of its runtime."""
    if "cudaErrorInsufficientDriver" in error:
        return f"NVIDIA's driver is too old for this CuPy ({error}): update it, or install 'mirsearch[cuda12]'"
    return "CuPy sees no GPU (no driver, or no device)" if "cudaErrorNoDevice" in error else f"CUDA fails: {error}"


def array_module(array: Any) -> ModuleType:
    """The module that an array belongs to, cupy or numpy; CuPy is not imported for it."""
    cupy = sys.modules.get("cupy")
    kind = getattr(cupy, "ndarray", None)
    return cast(ModuleType, cupy) if kind is not None and isinstance(array, kind) else np


@cache
def load(device: Device | Literal["cpu", "cuda", "reference"]) -> Kernels:
    """The kernels of a device. Raises DeviceUnavailableError for CUDA that cannot be used."""
    kind = device.kind if isinstance(device, Device) else device
    if kind == "cuda":
        gpus, problem = cupy_gpus()
        if not gpus:
            raise DeviceUnavailableError(problem)
    if kind == "cpu":
        compiled_cache.settle()
    module = importlib.import_module(f"kernels.{kind}")
    if isinstance(device, Device) and device.gpus:
        module.use_gpu(device.gpus[0], device.gpu.memory)
    return cast(Kernels, module)
