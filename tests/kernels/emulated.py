"""`kernels.cuda` without a GPU: its `.cu` files compiled as C++, and a stand-in for CuPy made of NumPy.

This proves the arithmetic, the indexing and the host code of the CUDA kernels, not what only a GPU can show: the
compiler for it, memory models, real streams, real CuPy. Device arrays are a class of their own, and mixing them with
host arrays fails as it does in CuPy.
"""

import contextlib
import ctypes
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import kernels

HERE = Path(__file__).parent
KERNELS = Path(kernels.__file__).parent
NEEDS = "" if shutil.which("g++") else "g++ is not installed: the CUDA kernels cannot be emulated"


class DeviceArray(np.ndarray[Any, Any]):
    """An array that poses as one on a GPU."""

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, out: Any = (), **options: Any) -> Any:
        refuse_host_arrays((*inputs, *out))
        if out:
            options["out"] = tuple(map(on_host, out))
        with np.errstate(all="ignore"):  # a GPU does not warn
            result = getattr(ufunc, method)(*map(on_host, inputs), **options)
        return out[0] if out else on_device(result)

    def astype(self, dtype: Any, **options: Any) -> Any:  # type: ignore[override]
        with np.errstate(all="ignore"):
            return super().astype(dtype, **options)

    @property
    def data(self) -> Any:
        """Where the array lies, as CuPy says it."""
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def set(self, source: Any, stream: Any = None) -> None:
        assert type(source) is np.ndarray and source.flags.c_contiguous and source.dtype == self.dtype
        self.view(np.ndarray)[...] = source.reshape(self.shape)

    def get(self, stream: Any = None, out: Any = None, blocking: bool = True) -> None:
        assert out is not None and out.shape == self.shape and out.dtype == self.dtype
        out[...] = self.view(np.ndarray)


def refuse_host_arrays(arguments: Any) -> None:
    for x in arguments:
        if isinstance(x, np.ndarray) and not isinstance(x, DeviceArray) and x.ndim:
            raise TypeError("a host array among device arrays")


def on_host(x: Any) -> Any:
    return x.view(np.ndarray) if isinstance(x, DeviceArray) else x


def on_device(array: Any) -> Any:
    if isinstance(array, tuple):
        return tuple(map(on_device, array))
    return np.asarray(array).view(DeviceArray)


@cache
def library(source: str) -> Any:
    """A `.cu` source as a shared library, each kernel behind `emulate_NAME`."""
    names = re.findall(r'extern "C" __global__ void (\w+)', source)
    whole = "\n".join(['#include "emulator.h"', source, *(f"EMULATE({name})" for name in names)])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "kernel.so"
        command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", f"-I{HERE}", "-x", "c++", "-", "-o"]
        # A GPU faults on loads that are not aligned, x86 does not: here they end the process.
        command[1:1] = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
        subprocess.run([*command, str(target)], input=whole, text=True, check=True)
        return ctypes.PyDLL(str(target))  # keeps the GIL: the fibers serve one thread at a time


class RawModule:
    def __init__(self, *, code: str, options: Any) -> None:
        self._library = library(code)

    def get_function(self, name: str) -> Any:
        return lambda grid, block, args: run(self._library[f"emulate_{name}"], grid[0], block[0], args)


def run(function: Any, blocks: int, threads: int, args: Any) -> None:
    """Call a kernel with device arrays and NumPy scalars, as CuPy does."""
    assert blocks > 0 and 0 < threads <= 1024, "a grid or a block that CUDA refuses"
    held: list[Any] = []
    for arg in args:
        if isinstance(arg, DeviceArray):
            assert arg.flags.c_contiguous
            held.append(ctypes.c_void_p(arg.ctypes.data))
        else:
            assert isinstance(arg, np.int32 | np.int64), "a size whose width the kernel would have to guess"
            held.append(ctypes.c_int32(int(arg)) if arg.itemsize == 4 else ctypes.c_int64(int(arg)))
    function(blocks, threads, (ctypes.c_void_p * len(held))(*(ctypes.addressof(x) for x in held)))


class Stream(contextlib.nullcontext[None]):
    def __init__(self, *, non_blocking: bool = False) -> None:
        super().__init__()

    ptr = 0

    def synchronize(self) -> None: ...

    def wait_event(self, event: "Event") -> None:
        assert isinstance(event, Event)

    def record(self, event: "Event") -> None:
        event.record(self)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None: ...

    def record(self, stream: Any = None) -> None:
        assert stream is None or isinstance(stream, Stream)

    def synchronize(self) -> None: ...


class Cublas:
    """The one function of cuBLAS that is called by hand, of row-major products in half precision."""

    CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_POINTER_MODE_HOST, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 0, 1, 0, 68, -1

    @staticmethod
    def getPointerMode(handle: int) -> int:
        return 1

    @staticmethod
    def setPointerMode(handle: int, mode: int) -> None: ...

    @staticmethod
    def gemmEx(handle: int, ta: int, tb: int, n: int, m: int, k: int, *rest: int) -> None:
        """C (m, n) = B (m, k) A (n, k)ᵀ in float32; what cuBLAS calls A is our second operand."""
        one, a, a_type, lda, b, b_type, ldb, zero, c, c_type, ldc, compute, algorithm = rest
        assert (ta, tb, lda, ldb, ldc, compute, algorithm) == (1, 0, k, k, n, 68, -1)
        assert (a_type, b_type, c_type) == (CUDA_R_16F, CUDA_R_16F, CUDA_R_32F)
        assert (memory(one, (1,), np.float32), memory(zero, (1,), np.float32)) == (1, 0)
        left, right = (memory(at, (rows, k), np.float16).astype(np.float32) for at, rows in ((b, m), (a, n)))
        memory(c, (m, n), np.float32)[...] = left @ right.T


CUDA_R_32F, CUDA_R_16F = 0, 2


def memory(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    """The array that lies at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class OutOfMemoryError(MemoryError):
    """As CuPy's."""


def aligned(shape: Any, dtype: Any = float) -> Any:
    """Device memory begins at multiples of 512."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 512, np.uint8)
    start = -raw.ctypes.data % 512
    return on_device(raw[start : start + size].view(dtype).reshape(shape))


def asarray(a: Any, dtype: Any = None) -> Any:
    if isinstance(a, DeviceArray) and dtype in (None, a.dtype):
        return a
    a = np.asarray(a, dtype)
    out = aligned(a.shape, a.dtype)
    out.view(np.ndarray)[...] = a
    return out


class Cupy(types.ModuleType):
    """Everything that is not said here is NumPy's, with results on the pretended device."""

    ndarray = DeviceArray
    RawModule = RawModule
    empty = staticmethod(aligned)
    asarray = staticmethod(asarray)
    free_memory = 1 << 40

    def __init__(self) -> None:
        super().__init__("cupy")
        self.linalg = types.SimpleNamespace(
            eigh=lambda a: on_device(tuple(np.linalg.eigh(a.view(np.ndarray)))),
            qr=lambda a: on_device(tuple(np.linalg.qr(a.view(np.ndarray)))),
            norm=lambda a, axis: on_device(np.linalg.norm(a.view(np.ndarray), axis=axis)),
        )
        self.cuda = types.SimpleNamespace(
            Device=contextlib.nullcontext,
            Stream=Stream,
            Event=Event,
            get_current_stream=Stream,
            cublas=Cublas,
            device=types.SimpleNamespace(get_cublas_handle=lambda: 1),
            alloc_pinned_memory=bytearray,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=types.SimpleNamespace(
                memGetInfo=lambda: (self.free_memory, 1 << 40), CUDA_R_16F=CUDA_R_16F, CUDA_R_32F=CUDA_R_32F
            ),
        )

    limit = 0

    def get_default_memory_pool(self) -> Any:
        return types.SimpleNamespace(get_limit=lambda: self.limit, used_bytes=lambda: 0, set_limit=self._set_limit)

    def _set_limit(self, size: int) -> None:
        self.limit = size

    @staticmethod
    def asnumpy(a: Any) -> Any:
        return np.array(a.view(np.ndarray)) if isinstance(a, DeviceArray) else np.asarray(a)

    @staticmethod
    def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
        return a if a.flags.c_contiguous and dtype in (None, a.dtype) else asarray(a.view(np.ndarray), dtype)

    @staticmethod
    def from_dlpack(a: Any) -> Any:
        assert a.__dlpack_device__()[0] == 2
        return on_device(np.asarray(a.__dlpack__()))

    @staticmethod
    def arange(n: int) -> Any:
        return on_device(np.arange(n))

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(np, name)
        if isinstance(attribute, np.ufunc | type) or not callable(attribute):
            return attribute

        def function(*args: Any, **options: Any) -> Any:
            refuse_host_arrays(args)
            return on_device(attribute(*(on_host(x) for x in args), **options))

        return function


def load() -> Any:
    """The module `kernels.cuda` and its parts, freshly made on the stand-in for CuPy; the real ones stay."""
    names = ["cupy", "kernels.cuda", *(f"kernels.{path.stem}" for path in KERNELS.glob("cuda_*.py"))]
    before = {name: sys.modules.pop(name, None) for name in names}
    parts = [name.removeprefix("kernels.") for name in names[1:]]
    # `from kernels import cuda_exact` takes what the package has under that name, whatever sys.modules says.
    attributes = {part: vars(kernels).pop(part) for part in parts if part in vars(kernels)}
    sys.modules["cupy"] = Cupy()
    try:
        return importlib.import_module("kernels.cuda")
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
        for part in parts:
            vars(kernels).pop(part, None)
        vars(kernels).update(attributes)
