"""What FAISS, CuPy and CUDA say of a GPU that fails, as one line."""

import contextlib
import importlib
import re

from engine.errors import DeviceError, EngineError

_FAILURES = (
    ("cudaErrorInsufficientDriver", "NVIDIA's driver is too old for this CUDA. Update it, install 'mirsearch[cuda12]'"),
    ("cudaErrorDevicesUnavailable", "the GPU is busy or in exclusive use. Wait, choose another by --device cuda:N"),
    ("cudaErrorECCUncorrectable", "the GPU's memory is damaged (ECC). Reset it, choose another by --device cuda:N"),
    ("uncorrectable ECC", "the GPU's memory is damaged (ECC). Reset it, choose another by --device cuda:N"),
)
_LOST = ("cudaErrorLaunchFailure", "cudaErrorIllegalAddress", "cudaErrorUnknown", "unspecified launch failure",
         "cudaErrorDeviceUninitialized", "has fallen off the bus", "cudaErrorSystemNotReady")  # fmt: skip
_MEMORY = ("out of memory", "out_of_memory", "alloc fail", "bad_alloc", "cudaerrormemoryallocation")


def is_memory_error(error: BaseException) -> bool:
    """Whether an error of FAISS or CuPy says that the GPU's memory did not suffice."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _MEMORY)


def is_of_gpu(error: BaseException) -> bool:
    """Whether an error says that a GPU failed, and not what was asked of it."""
    text = str(error)
    return is_memory_error(error) or any(sign in text for sign in (*(sign for sign, _ in _FAILURES), *_LOST))


def explained(error: BaseException, gpu: int, doing: str) -> EngineError:
    """One line for an error of FAISS or CuPy: what failed, how much was asked for and is free, what to do."""
    text = " ".join(str(error).split()).rstrip(".")
    if is_memory_error(error):
        asked = re.search(r"(?:size|allocating) ([\d,]+) bytes", text)
        wanted = f" asked for {int(asked[1].replace(',', '')):,} bytes," if asked else ""
        free = ""
        with contextlib.suppress(Exception):
            free = " {:,} of {:,} bytes are free".format(*importlib.import_module("cupy").cuda.runtime.memGetInfo())
        return DeviceError(
            f"cuda:{gpu}: not enough memory to {doing}:{wanted}{free}. Lower --gpu-memory, use smaller "
            "shards (--rows-per-shard), or --device cpu."
        )
    for sign, meaning in _FAILURES:
        if sign in text:
            return DeviceError(f"cuda:{gpu}: {meaning}, or use --device cpu.")
    if any(sign in text for sign in _LOST):
        return DeviceError(f"cuda:{gpu}: the GPU was lost; it was to {doing} ({text}). Start again, or use "
                           "--device cpu; `nvidia-smi` says more.")  # fmt: skip
    return EngineError(f"FAISS could not {doing}: {text}.")
