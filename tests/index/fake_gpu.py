"""GPUs for FAISS without one: its GPU classes over the CPU build, and CuPy's streams and devices over NumPy.

Holds to what FAISS 1.15.1 and cuVS 26.06 do, as far as `engine.index` calls it: their limits are errors where theirs
are, `Abort` where they would end the process or answer nonsense; an index or resources touched by another thread than
the one that made them is an `Abort`, too, and so is one that is freed by another. Memory is counted as they take it.
"""

import contextlib
import ctypes
import threading
import types
from typing import Any

import numpy as np

from tests.kernels import emulated

KIB, MIB = 1 << 10, 1 << 20
CLASSIC_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
ABSENT = np.iinfo(np.int64).max


class Abort(BaseException):
    """What would have ended the process on a GPU."""


class Machine:
    """GPUs: their number, how much memory each has, is used and was used at most; what went wrong where nobody sees."""

    def __init__(self, gpus: int, memory: int, *, peers: bool, cuvs: bool) -> None:
        self.gpus, self.memory, self.peers, self.cuvs = gpus, memory, peers, cuvs
        self.used, self.peak = [0] * gpus, [0] * gpus
        self.wrong: list[str] = []
        self.uploads: list[tuple[int, str]] = []
        self.log: list[tuple[str, str]] = []  # (thread, what) of streams
        self.lock = threading.Lock()
        self.here = threading.local()
        self.cupy = FakeCupy(self)
        self.faiss = FakeFaiss(self)

    def current(self) -> int:
        return int(getattr(self.here, "gpu", 0))

    def take(self, gpu: int, size: int, kind: str) -> None:
        with self.lock:
            if self.used[gpu] + size > self.memory:
                raise RuntimeError(
                    "Error in virtual void* faiss::gpu::StandardGpuResourcesImpl::allocMemory(): StandardGpuResources: "
                    f"alloc fail type {kind} dev {gpu} space Device stream 0x0 size {size} bytes "
                    "(cudaMalloc error out of memory [2])\n"
                )
            self.used[gpu] += size
            self.peak[gpu] = max(self.peak[gpu], self.used[gpu])

    def give(self, gpu: int, size: int) -> None:
        with self.lock:
            self.used[gpu] -= size


class Stream:
    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self.name, self.ptr = machine, name, id(self)

    def __enter__(self) -> "Stream":
        self._before = getattr(self._machine.here, "stream", None)
        self._machine.here.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.here.stream = self._before

    def record(self) -> "Event":
        event = Event(self.name)
        self._machine.log.append((self.name, "record"))
        return event

    def wait_event(self, event: "Event") -> None:
        self._machine.log.append((self.name, f"wait for {event.of}"))

    def synchronize(self) -> None:
        self._machine.log.append((self.name, "synchronize"))


class Event:
    def __init__(self, of: str) -> None:
        self.of = of


class Device:
    def __init__(self, machine: Machine, number: int) -> None:
        if not 0 <= number < machine.gpus:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._machine, self.id = machine, number

    def __enter__(self) -> "Device":
        self._before = self._machine.current()
        self._machine.here.gpu = self.id
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.here.gpu = self._before


class Pointer:
    """Device memory, as CuPy's `ndarray.data`."""

    def __init__(self, array: Any) -> None:
        self._array, self.ptr = array, array.ctypes.data

    def copy_from_device_async(self, source: "Pointer", size: int, stream: Any = None) -> None:
        assert isinstance(source, Pointer) and self._array.flags.c_contiguous and source._array.flags.c_contiguous
        assert size == self._array.nbytes == source._array.nbytes
        ctypes.memmove(self.ptr, source.ptr, size)


def gpu_of(array: Any) -> int:
    """The GPU that an array was made on; results of functions lie on the first."""
    while array is not None:
        if "gpu" in getattr(array, "__dict__", {}):
            return int(array.gpu)
        array = getattr(array, "base", None)
    return 0


class FakeCupy(emulated.Cupy):
    """CuPy of `tests.kernels.emulated`, with devices, streams and pointers that are told apart."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.machine = machine
        default = Stream(machine, "caller")
        self.cuda = types.SimpleNamespace(
            Device=lambda number: Device(machine, number),
            Stream=lambda non_blocking: Stream(machine, f"lane {machine.current()}"),
            get_current_stream=lambda: getattr(machine.here, "stream", None) or default,
            is_available=lambda: True,
            runtime=types.SimpleNamespace(
                getDeviceCount=lambda: machine.gpus,
                memGetInfo=lambda: (machine.memory - machine.used[machine.current()], machine.memory),
                deviceCanAccessPeer=lambda gpu, peer: int(machine.peers),
            ),
        )

    def _made(self, array: Any) -> Any:
        array.gpu = self.machine.current()
        return array

    def empty(self, shape: Any, dtype: Any = float) -> Any:
        array = self._made(emulated.aligned(shape, dtype))
        array.view(np.ndarray).view(np.uint8).fill(0xAB)
        return array

    def asarray(self, a: Any, dtype: Any = None) -> Any:
        made = emulated.asarray(a, dtype)
        return made if made is a else self._made(made)

    def arange(self, *args: Any, **options: Any) -> Any:  # type: ignore[override]
        return self.asarray(np.arange(*args, **options))

    def get_default_memory_pool(self) -> Any:
        def free() -> None:
            self.machine.log.append(("pool", "free"))

        return types.SimpleNamespace(
            free_all_blocks=free, get_limit=lambda: 0, used_bytes=lambda: 0, set_limit=lambda size: None
        )


def pretend(monkeypatch: Any, machine: Machine) -> None:
    """Have `engine.index` see these GPUs, and device arrays that say where they lie."""
    monkeypatch.setitem(__import__("sys").modules, "cupy", machine.cupy)
    monkeypatch.setattr("engine.index.ivfpq.faiss", lambda: machine.faiss)
    monkeypatch.setattr(emulated.DeviceArray, "data", property(Pointer), raising=False)
    where = property(lambda array: Device(machine, gpu_of(array)))
    monkeypatch.setattr(emulated.DeviceArray, "device", where, raising=False)


class FakeFaiss:
    """The faiss module of the CPU build, with a GPU part."""

    def __init__(self, machine: Machine) -> None:
        import faiss

        self._faiss, self._machine = faiss, machine
        self._selectors: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._faiss, name)

    def get_num_gpus(self) -> int:
        return self._machine.gpus

    def get_compile_options(self) -> str:
        return "OPTIMIZE DD AVX2 GPU" + " NVIDIA_CUVS" * self._machine.cuvs

    def cast_integer_to_cudastream_t(self, number: int) -> Any:
        return ("stream", number)

    def StandardGpuResources(self) -> "Resources":
        return Resources(self._machine)

    def GpuIndexIVFPQConfig(self) -> Any:
        names = "device", "use_cuvs", "interleavedLayout", "useFloat16LookupTables"
        return types.SimpleNamespace(**dict.fromkeys(names))

    def GpuClonerOptions(self) -> Any:
        return types.SimpleNamespace(use_cuvs=None, useFloat16=False, reserveVecs=0)

    def IDSelectorBitmap(self, *args: Any) -> Any:
        selector = self._faiss.IDSelectorBitmap(*args)
        self._selectors.append(selector)
        return selector

    def GpuIndexIVFPQ(self, resources: "Resources", dim: int, lists: int, m: int, bits: int, metric: int,
                      config: Any) -> "Index":  # fmt: skip
        quantizer = self._faiss.IndexFlat(dim, metric)
        host = self._faiss.IndexIVFPQ(quantizer, dim, lists, m, bits, metric)
        assert config.interleavedLayout == config.use_cuvs
        return Index(self._machine, resources, config.device, host, (config.use_cuvs, config.useFloat16LookupTables))

    def index_cpu_to_gpu(self, resources: "Resources", gpu: int, host: Any, options: Any) -> "Index":
        resources.used_here(gpu)
        self._machine.uploads.append((gpu, threading.current_thread().name))
        if not isinstance(host, self._faiss.IndexIVFPQ) or not host.by_residual:
            raise RuntimeError("This index type is not implemented on GPU.")
        if options.use_cuvs and options.reserveVecs:
            raise Abort("reserveMemory prints a warning")
        return Index(self._machine, resources, gpu, self._faiss.clone_index(host),
                     (options.use_cuvs, options.useFloat16), options.reserveVecs)  # fmt: skip

    def index_gpu_to_cpu(self, index: "Index") -> Any:
        index.used_here()
        return self._faiss.clone_index(index.host)


class Resources:
    """StandardGpuResources: of one thread, with temporary memory from its first use on."""

    def __init__(self, machine: Machine) -> None:
        self._machine, self._thread = machine, threading.get_ident()
        self.temporary, self.stream, self._on = 1536 * MIB, None, None

    def setPinnedMemory(self, size: int) -> None:
        assert self._on is None

    def setTempMemory(self, size: int) -> None:
        self.check()
        if self._on is not None:
            self._machine.give(self._on, self.temporary)
            self._machine.take(self._on, size, "TemporaryMemoryBuffer")
        self.temporary = size

    def setDefaultStream(self, gpu: int, stream: Any) -> None:
        self.check()
        self.stream = stream

    def check(self) -> None:
        if threading.get_ident() != self._thread:
            raise Abort("resources of another thread")

    def used_here(self, gpu: int) -> None:
        self.check()
        assert self.stream is not None and self._machine.current() == gpu, "not on its stream and GPU"
        if self._on is None:
            self._machine.take(gpu, self.temporary, "TemporaryMemoryBuffer")
            self._on = gpu

    def __del__(self) -> None:
        if threading.get_ident() != self._thread:
            self._machine.wrong.append("resources freed by another thread")
        if self._on is not None:
            self._machine.give(self._on, self.temporary)


def rounded(size: int) -> int:
    return -(-size // 256) * 256


class Index:
    """GpuIndexIVFPQ: the answers of the CPU form within the limits of the GPU's."""

    def __init__(self, machine: Machine, resources: Resources, gpu: int, host: Any, kind: tuple[Any, Any],
                 reserve: int = 0) -> None:  # fmt: skip
        assert isinstance(kind[0], bool), "use_cuvs was left to the default, which differs between builds"
        self._machine, self._resources, self._gpu, self.host = machine, resources, gpu, host
        self._cuvs, self._half, self._reserve, self._taken = kind[0], kind[1], reserve, 0
        resources.used_here(gpu)
        pq = host.pq
        if self._cuvs and not machine.cuvs:
            raise RuntimeError("cuVS has not been compiled into the current version so it cannot be used.")
        if self._cuvs and (not 4 <= pq.nbits <= 8 or pq.nbits * pq.M % 8):
            raise RuntimeError("cuVS: bits")
        if not self._cuvs and (pq.nbits != 8 or pq.M not in CLASSIC_M or pq.M * 256 * (2 if self._half else 4) > 49152):
            raise RuntimeError("Bitsize of PQ codes or number of sub-quantizers is not supported")
        self._account()

    cp = property(lambda self: self.host.cp)
    pq = property(lambda self: self.host.pq)

    def used_here(self) -> None:
        self._resources.used_here(self._gpu)

    def bytes(self) -> int:
        """What the index takes now."""
        host, code = self.host, self.host.code_size
        sizes = [host.invlists.list_size(i) for i in range(host.nlist)]
        fixed = rounded(4 * host.d * host.nlist) + 2 * rounded(4 * host.d << host.pq.nbits)
        if self._cuvs:
            row = -(-code // 16) * 16
            lists = sum(rounded(-(-size // 32) * 32 * row) + rounded(-(-size // 32) * 32 * 8) for size in sizes)
            return lists + fixed + 2 * rounded(4 * host.d * host.nlist)
        least = self._reserve // host.nlist
        lists = sum(rounded(max(size, least) * code) + rounded(max(size, least) * 8) for size in sizes)
        return lists + fixed + rounded(4 * host.nlist) + 4 * rounded(8 * host.nlist)

    def _account(self) -> None:
        now = self.bytes()
        self._machine.take(self._gpu, now - self._taken, "IVFLists")
        self._taken = now

    def __del__(self) -> None:
        if getattr(self, "_taken", 0):
            self._machine.give(self._gpu, self._taken)
            with contextlib.suppress(Abort):
                self._resources.check()
                return
            self._machine.wrong.append("an index freed by another thread")

    def getListLength(self, number: int) -> int:
        self.used_here()
        return int(self.host.invlists.list_size(number))

    def train_c(self, n: int, rows: Any) -> None:
        self.used_here()
        self.host.train_c(n, rows)

    ntotal = property(lambda self: self.host.ntotal)

    def add_c(self, n: int, rows: Any) -> None:
        self.used_here()
        self.host.add_c(n, rows)
        self._account()

    def add_with_ids_c(self, n: int, rows: Any, ids: Any) -> None:
        self.used_here()
        if self._cuvs and n * self.host.d * 4 > 256 * MIB:
            raise Abort("cuVS takes a block as a whole")
        self.host.add_with_ids_c(n, rows, ids)
        self._account()

    def search_c(self, n: int, queries: Any, k: int, distances: Any, labels: Any, params: Any) -> None:
        self.used_here()
        most, probes, module = 16384 if self._cuvs else 2048, params.nprobe, self._machine.faiss
        if not 0 < k <= most or not 0 < probes <= most:
            raise RuntimeError(f"GPU index only supports min/max-K selection up to {most} (requested {k}), {probes}")
        if self._cuvs and probes > self.host.nlist:
            raise RuntimeError("Error: 'nprobe > 0 && nprobe <= numLists_' failed")
        if self._cuvs and k > self.host.ntotal:
            raise Abort("rows of another width than the arrays")
        chosen = module._selectors[-1] if params.sel is not None else None
        if self._cuvs and chosen is not None:
            if chosen.n != self.host.ntotal:
                raise RuntimeError("RAFT failure: IDSelectorBitmap is out of range for the given bitset")
            lists = self.host.invlists
            ids = [module.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(self.host.nlist)
                   if lists.list_size(i)]  # fmt: skip
            if max(part.max() for part in ids) >= self.host.ntotal:
                raise Abort("a row past the bits")
        own = module.SearchParametersIVF(nprobe=probes) if chosen is None or not self._cuvs else (
            module.SearchParametersIVF(nprobe=probes, sel=chosen))  # fmt: skip
        self.host.search_c(n, queries, k, distances, labels, own)
        if self._cuvs:
            found = module.rev_swig_ptr(labels, n * k)
            found[found < 0] = ABSENT
