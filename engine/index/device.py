"""Settling on a device, once per command."""

from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import DeviceError, InputError
from engine.index import ivfpq
from engine.index.gpu_errors import explained, is_of_gpu
from kernels import Device, parse_device
from kernels.device import GpuOptions, cupy_gpus


def settle(text: str, *, needs_faiss: bool = True, gpu: GpuOptions | None = None) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:0,1` means here, and why. gpu: how GPUs are used, if they are.

    `auto` takes CUDA when CuPy (and FAISS, where it is needed) see a GPU. DeviceError for `cuda` without one, or for
    a library that this FAISS does not have: the CPU is never taken in its place in silence.
    """
    try:
        kind, gpus = parse_device(text)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    options = gpu or GpuOptions()
    if kind == "cpu":
        return Device(kind="cpu", why="asked for")
    count, problem = cupy_gpus()
    if not problem and needs_faiss:
        count, problem = ivfpq.gpu_count()
    if kind == "auto" and problem:
        return Device(kind="cpu", why=problem)
    if problem:
        raise DeviceError(f"--device {text}: {problem}. `mirsearch doctor` says more; --device cpu works without.")
    missing = [gpu for gpu in gpus if gpu >= count]
    if missing:
        raise DeviceError(f"--device {text}: GPU {missing[0]} does not exist, there are {count} (counted from 0).")
    if options.library == "cuvs" and needs_faiss and not ivfpq.has_cuvs():
        raise DeviceError(
            "--gpu-library cuvs: this FAISS was built without cuVS. Install the build that has it, pip install "
            "'mirsearch[cuda13]', or use --gpu-library faiss."
        )
    why = f"{count} GPU(s) found" if kind == "auto" else "asked for"
    return Device(
        kind="cuda", gpus=gpus or (0,), why="; ".join([why, *_uses(options, needs_faiss=needs_faiss)]), gpu=options
    )


def _uses(options: GpuOptions, *, needs_faiss: bool) -> list[str]:
    """What a report says of the options."""
    said = [f"IVF-PQ of {'cuVS' if options.library == 'cuvs' else 'FAISS'}"] if needs_faiss else []
    if options.memory is not None:
        said.append(f"at most {options.memory:,} bytes of each GPU for shards")
    return said + ["every shard on each GPU"] * options.replicate


@contextmanager
def failing_clearly(device: Device, doing: str) -> Iterator[None]:
    """One DeviceError line for what CuPy says of a GPU that fails or is full; FAISS's errors have theirs already.

    doing: what the GPU is for here, a verb: "search". Other errors go on as they are.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if device.kind == "cpu":
            raise
        if not is_of_gpu(error):
            raise
        raise explained(error, device.gpus[0], doing) from error
