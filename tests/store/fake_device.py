"""A GPU that is none: arrays of a class of their own, and streams that do nothing until somebody waits for them.

So whoever looks at the host's copy too early sees what was there before. Any stage can be slow, or fail at a chosen
call, and what crosses between host and device is counted.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np

from kernels import Device, reference

GPU = Device(kind="cuda", gpus=(0,), why="pretended")
STALE = 0xAB  # what page-locked memory holds before anything was copied to it


class DeviceArray(np.ndarray[Any, Any]):
    """An array on the pretended device: computing with it on the host is an error."""

    def __array_ufunc__(self, ufunc: Any, method: Any, *inputs: Any, **options: Any) -> Any:
        raise TypeError("an array of the device in the host's arithmetic")

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        raise TypeError("an array of the device in a function of NumPy")

    def set(self, source: Any, stream: Any) -> None:
        assert type(source) is np.ndarray and source.flags.c_contiguous
        assert (source.dtype, source.shape) == (self.dtype, self.shape)
        stream.add("upload", lambda: np.copyto(self.view(np.ndarray), source))

    def get(self, stream: Any, out: Any, blocking: bool) -> None:
        assert type(out) is np.ndarray and (out.dtype, out.shape) == (self.dtype, self.shape) and not blocking
        stream.add("download", lambda: np.copyto(out, self.view(np.ndarray)))


def values(array: DeviceArray) -> Any:
    """What an array of the device holds, for tests."""
    return np.array(array.view(np.ndarray))


class Event:
    def __init__(self, device: "FakeDevice") -> None:
        self._device, self.time = device, 0.0

    def record(self, stream: "Stream") -> None:
        self._stream = stream
        stream.work.append(self._pass)

    def _pass(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        self._device.counts["synchronize"] += 1
        self.happen()

    def happen(self) -> None:
        while self._pass in self._stream.work:
            self._stream.work.pop(0)()


class Stream:
    def __init__(self, device: "FakeDevice") -> None:
        self.device = device
        self.work: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        self.device.current.append(self)

    def __exit__(self, *_: object) -> None:
        assert self.device.current.pop() is self

    def add(self, stage: str, work: Callable[[], None]) -> None:
        self.device.reach(stage)
        self.work += [lambda: time.sleep(self.device.slow.get(stage, 0)), work]

    def wait_event(self, event: Event) -> None:
        self.device.counts["wait_event"] += 1
        self.work.append(event.happen)

    def synchronize(self) -> None:
        while self.work:
            self.work.pop(0)()


class FakeDevice:
    """The kernels of a pretended GPU.

    slow: seconds that each call of a stage takes. fail: (stage, number of the call, error): what goes wrong.
    """

    def __init__(self, *, slow: Mapping[str, float] | None = None, fail: tuple[str, int, BaseException] | None = None):
        self.slow, self.fail = slow or {}, fail
        self.counts: Counter[str] = Counter()
        self.page_locked = 0  # bytes
        self.current: list[Stream] = []
        self.xp = SimpleNamespace(
            empty=self._empty,
            float32=np.float32, uint8=np.uint8, uint32=np.uint32,
            cuda=SimpleNamespace(
                Device=nullcontext,
                Stream=lambda non_blocking: Stream(self),
                Event=lambda block=False, disable_timing=False: Event(self),
                get_elapsed_time=lambda start, stop: (stop.time - start.time) * 1000,
            ),
        )  # fmt: skip

    def _empty(self, shape: Any, dtype: Any) -> DeviceArray:
        out: DeviceArray = np.empty(shape, dtype).view(DeviceArray)
        out.view(np.ndarray).view(np.uint8)[...] = STALE
        return out

    def reach(self, stage: str) -> None:
        """Count a call of a stage, and fail there if that was planned."""
        number = self.counts[stage]
        self.counts[stage] += 1
        if self.fail and self.fail[:2] == (stage, number):
            raise self.fail[2]

    def host_buffer(self, shape: tuple[int, ...]) -> Any:
        buffer = np.full(shape, STALE, np.uint8)
        self.page_locked += buffer.nbytes
        return buffer

    def to_device(self, array: Any) -> DeviceArray:
        self.counts["to_device"] += 1
        return np.array(array).view(DeviceArray)

    def decode_resident(self, records: DeviceArray) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
        n = len(records)
        fc7, fc8, flags = self._empty((n, 4096), "u4"), self._empty((n, 1000), "u4"), self._empty((n,), "u1")

        def decode() -> None:
            host = [array.view(np.ndarray) for array in (records, fc7, fc8, flags)]
            host[3][:] = reference.decode(host[0], host[1].view(np.float32), host[2].view(np.float32))

        self.current[-1].add("decode", decode)
        return fc7, fc8, flags
