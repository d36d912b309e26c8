"""Settling on a device, once per command."""

from engine.errors import DeviceError, InputError
from engine.index import ivfpq
from kernels import Device, parse_device
from kernels.device import cupy_gpus


def settle(text: str, *, needs_faiss: bool = True) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:0,1` means here, and why.

    `auto` takes CUDA when CuPy (and FAISS, where it is needed) see a GPU. DeviceError for `cuda` without one: the
    CPU is never taken in its place in silence.
    """
    try:
        kind, gpus = parse_device(text)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    if kind == "cpu":
        return Device(kind="cpu", why="asked for")
    count, problem = cupy_gpus()
    if not problem and needs_faiss:
        count, problem = ivfpq.gpu_count()
    if kind == "auto":
        if problem:
            return Device(kind="cpu", why=problem)
        return Device(kind="cuda", gpus=(0,), why=f"{count} GPU(s) found")
    if problem:
        raise DeviceError(f"--device {text}: {problem}. `mirsearch doctor` says more; --device cpu works without.")
    missing = [gpu for gpu in gpus if gpu >= count]
    if missing:
        raise DeviceError(f"--device {text}: GPU {missing[0]} does not exist, there are {count} (counted from 0).")
    return Device(kind="cuda", gpus=gpus or (0,), why="asked for")
