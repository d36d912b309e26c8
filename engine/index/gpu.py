"""GPUs as FAISS uses them: for each, threads of its own with a stream and resources, and the memory that is spoken for.

FAISS's resources and indices on a GPU may serve one thread. What touches them runs here, on a lane; other threads and
streams are kept in order by events, so that nobody waits for the GPU.
"""

import atexit
import contextlib
import importlib
import queue
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from engine.errors import DeviceError, EngineError
from engine.index import ivfpq
from engine.index.gpu_errors import explained
from kernels import Device
from kernels.device import GpuOptions, array_module

SHARE = 0.5  # of the memory that is free, unless --gpu-memory says how much: codes and the products take the rest
TEMPORARY_PART, MOST_TEMPORARY = 8, 1 << 30  # of the memory, for what FAISS needs during a search; in bytes at most
LANES = 2


def cupy() -> Any:
    """CuPy, which is there wherever a device was settled to be CUDA."""
    return importlib.import_module("cupy")


_Job = tuple["Future[Any]", str, Callable[..., Any], tuple[Any, ...]]


class Lane:
    """A thread on a GPU with its own stream and FAISS's resources, which serve no other thread."""

    def __init__(self, gpu: int, temporary: int) -> None:
        self.gpu = gpu
        self.stream: Any = None
        self.resources: Any = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A daemon: others are joined by the interpreter before `atexit` could have the lane emptied by its own thread.
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"faiss-cuda:{gpu}")
        self._thread.start()
        self.run("set up", self._open, temporary)

    def submit(self, doing: str, work: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Have the lane's thread do something, on its GPU and stream; errors are EngineErrors of one line."""
        future: Future[Any] = Future()
        self._jobs.put((future, doing, work, args))
        return future

    def run(self, doing: str, work: Callable[..., Any], *args: Any) -> Any:
        """The same, and its result."""
        return self.submit(doing, work, *args).result()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, doing, work, args = job
            try:
                with cupy().cuda.Device(self.gpu), self.stream or contextlib.nullcontext():
                    future.set_result(work(*args))
            except BaseException as error:
                future.set_exception(self._clear(error, doing))
            del job, future, work, args  # nothing of the last job outlives it here

    def _clear(self, error: BaseException, doing: str) -> BaseException:
        """What is told of an error. Nothing of FAISS stays in its frames, to be freed by whoever drops it."""
        seen: BaseException | None = error
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__context__
        if isinstance(error, EngineError) or not isinstance(error, RuntimeError | MemoryError):
            return error
        clear = explained(error, self.gpu, doing)
        clear.__cause__ = error
        return clear

    def _open(self, temporary: int) -> None:
        module = ivfpq.faiss()
        self.stream = cupy().cuda.Stream(non_blocking=True)
        self.resources = module.StandardGpuResources()
        self.resources.setPinnedMemory(0)  # serves searches of more than 256 MiB of queries on the host alone
        self.resources.setTempMemory(temporary)
        self.resources.setDefaultStream(self.gpu, module.cast_integer_to_cudastream_t(self.stream.ptr))

    def set_temporary(self, size: int) -> None:
        """How much memory FAISS keeps for searches."""
        self.run("set up", lambda: self.resources.setTempMemory(size))

    def close(self) -> None:
        """Give back what FAISS holds, when all indices of the lane are gone, and end the thread."""
        self.run("close", lambda: setattr(self, "resources", None))
        self._jobs.put(None)


class Gpu:
    """One GPU: its lanes, and how much of its memory shards may take and have taken.

    All indices of a process share it. memory: bytes for shards and for FAISS's temporary memory; room: for shards.
    """

    def __init__(self, number: int, memory: int | None) -> None:
        self.number = number
        self.held = 0
        self._lock = threading.Lock()
        with cupy().cuda.Device(number):
            try:
                free, _ = cupy().cuda.runtime.memGetInfo()
            except (RuntimeError, MemoryError) as error:
                raise explained(error, number, "start") from error
        self.memory = memory or max(int(SHARE * free), 1)
        self._lanes = [Lane(number, self.temporary)]

    @property
    def temporary(self) -> int:
        """Bytes of each lane that FAISS keeps for searches."""
        return min(self.memory // TEMPORARY_PART, MOST_TEMPORARY)

    @property
    def room(self) -> int:
        """Bytes that shards may take in all."""
        return self.memory - LANES * self.temporary

    @property
    def left(self) -> int:
        """Bytes that more shards may take."""
        return max(self.room - self.held, 0)

    def bound(self, memory: int) -> None:
        """Another limit: that of the command that asked last."""
        with self._lock:
            if memory == self.memory:
                return
            self.memory = memory
        for lane in self._lanes:
            lane.set_temporary(self.temporary)

    def lane(self, number: int = 0) -> Lane:
        """The first lane, on which everything happens; a second one for shards that are copied for a search."""
        with self._lock:
            if number == len(self._lanes):
                self._lanes.append(Lane(self.number, self.temporary))
            return self._lanes[number]

    def take(self, size: int, what: str) -> None:
        """Speak for so many bytes; DeviceError where they are more than shards may take."""
        with self._lock:
            left = self.left
            if size > left:
                raise DeviceError(
                    f"cuda:{self.number}: {what} takes {size:,} bytes, of {self.room:,} for shards {left:,} are left. "
                    "Raise --gpu-memory, use smaller shards (--rows-per-shard), or --device cpu."
                )
            self.held += size

    def give(self, size: int) -> None:
        """Bytes that are free again."""
        with self._lock:
            self.held -= size

    def close(self) -> None:
        """Empty all lanes."""
        for lane in self._lanes:
            lane.close()


class Room:
    """Memory of a GPU that is spoken for as long as this lives."""

    def __init__(self, gpu: Gpu, size: int, what: str) -> None:
        gpu.take(size, what)
        self._gpu, self._size = gpu, [size]
        self._end = weakref.finalize(self, _give, gpu, self._size)

    def grow(self, size: int, what: str) -> None:
        """So many bytes in all from now on; DeviceError as `Gpu.take`."""
        if size > self._size[0]:
            self._gpu.take(size - self._size[0], what)
            self._size[0] = size


def _give(gpu: Gpu, size: list[int]) -> None:
    gpu.give(size[0])


class Copy:
    """An index on a GPU: made, used and given back by one lane."""

    def __init__(self, gpu: Gpu, make: Callable[[Lane], Any], size: int, what: str) -> None:
        self.gpu, self.lane = gpu, gpu.lane()
        self.room = Room(gpu, size, what)
        self.box = [self.lane.run("copy the index to the GPU", make, self.lane)]
        # FAISS frees through the resources: the last reference must go on the lane's thread, whoever drops this.
        self.free = weakref.finalize(self, _empty, self.lane, self.box, self.room)
        _copies.add(self)

    @property
    def index(self) -> Any:
        """FAISS's index, for the lane's thread alone."""
        return self.box[0]


def _empty(lane: Lane, box: list[Any], room: Room) -> None:
    lane.submit("free the index", _clear, box, room)


def _clear(box: list[Any], room: Room) -> None:
    """Let go of an index; its memory is spoken for until then."""
    box.clear()
    del room


def in_order(lane: Lane, rows: Any, work: Callable[[Any], Any], doing: str) -> Any:
    """Do something with rows (n, d) on a lane, after and before what the caller's stream does with them."""
    module = array_module(rows)
    if module is np:
        return lane.run(doing, work, np.ascontiguousarray(rows, np.float32))
    with rows.device:
        rows = module.ascontiguousarray(rows.astype(module.float32, copy=False))
        stream = module.cuda.get_current_stream()
        ready = stream.record()

        def after() -> tuple[Any, Any]:
            lane.stream.wait_event(ready)
            return work(here(lane, rows)), lane.stream.record()

        result, done = lane.run(doing, after)
        stream.wait_event(done)
    return result


def here(lane: Lane, rows: Any) -> Any:
    """Rows of any GPU on the lane's own, by its thread."""
    if rows.device.id == lane.gpu:
        return rows
    copied = cupy().empty(rows.shape, rows.dtype)
    copied.data.copy_from_device_async(rows.data, rows.nbytes, lane.stream)
    return copied


_gpus: dict[int, Gpu] = {}
_copies: "weakref.WeakSet[Copy]" = weakref.WeakSet()
_making = threading.Lock()


def gpu_of(number: int, options: GpuOptions) -> Gpu:
    """A GPU of this process; its memory limit is that of the options, if they have one."""
    with _making:
        if number not in _gpus:
            _gpus[number] = Gpu(number, options.memory)
        elif options.memory:
            _gpus[number].bound(options.memory)
        return _gpus[number]


def gpus_of(device: Device) -> list[Gpu]:
    """The GPUs of a device, in its order."""
    return [gpu_of(number, device.gpu) for number in device.gpus]


def in_use(device: Device) -> list[int]:
    """Bytes of each GPU's memory that are in use now, by anybody."""
    used = []
    for number in device.gpus:
        with cupy().cuda.Device(number):
            free, total = cupy().cuda.runtime.memGetInfo()
            used.append(int(total - free))
    return used


@atexit.register
def close() -> None:
    """Give back all GPUs, each by its own threads: FAISS ends the process if CUDA is gone before its resources."""
    with _making:
        for copy in list(_copies):
            copy.free()
        for gpu in _gpus.values():
            gpu.close()
        _gpus.clear()
