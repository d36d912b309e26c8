"""Arrays on the GPU: which GPU, the way there and back, page-locked memory, kernels of `.cu` files."""

import importlib.resources
import math
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import cupy
import numpy as np
import numpy.typing as npt

from kernels.contract import U8, Codes

COMPILE_OPTIONS = ("--std=c++17",)  # and no fast math: exact scores are exact here too
THREADS = 256
UPLOAD_BYTES = 64 << 20
RESIDENT_SHARE = 0.6
# Results up to this size come back through page-locked memory, all with one wait; larger ones would hoard it.
_TOGETHER_BYTES = 32 << 20
_DLPACK_CUDA = 2  # kDLCUDA of dlpack.h
_gpu = 0
_F = TypeVar("_F", bound=Callable[..., Any])


def use_gpu(number: int, memory: int | None = None) -> None:
    """The GPU that all kernels of this process run on, the first unless this says otherwise.

    memory: bytes that their arrays may take there; None: what there is.
    """
    global _gpu
    _gpu = number
    if memory is not None:
        with cupy.cuda.Device(number):
            cupy.get_default_memory_pool().set_limit(size=memory)


def chosen_gpu() -> int:
    """The number of the GPU that all kernels run on."""
    return _gpu


def on_gpu(function: _F) -> _F:
    """Run a function on the chosen GPU: CUDA's own choice is one for each thread, and new threads start at 0."""

    @wraps(function)
    def run(*args: Any, **options: Any) -> Any:
        with cupy.cuda.Device(_gpu):
            return function(*args, **options)

    return cast(_F, run)


@cache
def _module(file: str) -> Any:
    source = importlib.resources.files("kernels").joinpath(file).read_text("utf-8")
    return cupy.RawModule(code=source, options=COMPILE_OPTIONS)


def launch(file: str, name: str, blocks: int, args: tuple[Any, ...], threads: int = THREADS) -> None:
    """Run a kernel of a `.cu` file on the current stream."""
    _module(file).get_function(name)((blocks,), (threads,), args)


def is_on_gpu(array: Any) -> bool:
    """Whether an array lies on a GPU: CuPy's, or one that says so by CUDA's array interface or DLPack."""
    if isinstance(array, cupy.ndarray) or hasattr(array, "__cuda_array_interface__"):
        return True
    if isinstance(array, np.ndarray | list) or not hasattr(array, "__dlpack_device__"):
        return False
    return bool(array.__dlpack_device__()[0] == _DLPACK_CUDA)


@on_gpu
def to_device(array: Any) -> Any:
    """A C-ordered CuPy array on the chosen GPU, of the same shape and dtype; as it is if it is one already.

    Takes host arrays, CuPy arrays, anything with `__cuda_array_interface__` or `__dlpack__` (arrays of PyTorch too).
    """
    return there(array)


@on_gpu
def to_host(array: Any) -> npt.NDArray[Any]:
    """A NumPy array: a copy in host memory once the GPU is done with it, or the host array as it is."""
    return here(array)


def there(array: Any) -> Any:
    """As `to_device`, on the GPU that the thread is on."""
    if isinstance(array, cupy.ndarray) or hasattr(array, "__cuda_array_interface__"):
        return cupy.ascontiguousarray(cupy.asarray(array))
    if is_on_gpu(array):
        return cupy.ascontiguousarray(cupy.from_dlpack(array))
    return upload(np.asarray(array))


def here(array: Any) -> npt.NDArray[Any]:
    """As `to_host`, on the GPU that the thread is on."""
    return np.asarray(cupy.asnumpy(there(array)) if is_on_gpu(array) else array)


def rows_there(rows: Any) -> Any:
    """Rows on the GPU as C-ordered float32."""
    return there(rows).astype(cupy.float32, copy=False)


def returned(like: Any, *arrays: Any) -> Any:
    """Results where `like` lies: as they are on the GPU, else in host memory after one wait for all of them.

    One array, or a tuple of so many as were given.
    """
    if is_on_gpu(like):
        return arrays if len(arrays) > 1 else arrays[0]
    if len(arrays) == 1 or sum(array.nbytes for array in arrays) > _TOGETHER_BYTES:
        found = tuple(cupy.asnumpy(array) for array in arrays)
        return found if len(arrays) > 1 else found[0]
    stream = cupy.cuda.get_current_stream()
    arrays = tuple(cupy.ascontiguousarray(array) for array in arrays)
    back = tuple(page_locked(array.shape, array.dtype) for array in arrays)
    for array, host in zip(arrays, back, strict=True):
        array.get(stream=stream, out=host, blocking=False)
    stream.synchronize()
    return back


@on_gpu
def host_buffer(shape: tuple[int, ...]) -> U8:
    """Page-locked host memory, uint8, that the GPU copies from directly and without waiting."""
    return page_locked(shape, np.dtype(np.uint8))


def page_locked(shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    """A host array of page-locked memory."""
    dtype, size = np.dtype(dtype), math.prod(shape)
    memory = cupy.cuda.alloc_pinned_memory(max(size, 1) * dtype.itemsize)  # lives as long as the array does
    return np.frombuffer(memory, dtype, size).reshape(shape)


@on_gpu
def resident(codes: Codes) -> Codes:
    """The codes on the GPU where they take no more than a part of its free memory, else as they are."""
    if sum(getattr(part, "nbytes", 0) for part in codes) > RESIDENT_SHARE * free_memory():
        return codes
    try:
        return codes.each(upload)
    except cupy.cuda.memory.OutOfMemoryError:  # free memory may lie in pieces, or somebody else was faster
        return codes


def free_memory() -> int:
    """Bytes that arrays may still take: of the GPU, and of the limit that was set."""
    pool, free = cupy.get_default_memory_pool(), int(cupy.cuda.runtime.memGetInfo()[0])
    limit = int(pool.get_limit())
    return min(free, limit - int(pool.used_bytes())) if limit else free


def upload(rows: Any) -> Any:
    """A copy on the GPU, block by block: a map of a large file never stands in host memory as a whole."""
    if isinstance(rows, cupy.ndarray):
        return rows
    if rows.nbytes <= UPLOAD_BYTES:
        return cupy.asarray(np.ascontiguousarray(rows))
    out = cupy.empty(rows.shape, rows.dtype)
    block = max(UPLOAD_BYTES // max(rows[:1].nbytes, 1), 1)
    for start in range(0, len(rows), block):
        out[start : start + block].set(np.ascontiguousarray(rows[start : start + block]))
    return out
