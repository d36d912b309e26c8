"""A way through the GPU for a block of records: up, decoded, down, on a stream of its own, and timed there.

All of it goes through `kernels.xp` (CuPy), so that a stand-in for it is a stand-in for the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DeviceError
from engine.store.dat import FC7_DIM, FC8_DIM, LAYERS, RECORD_BYTES
from engine.store.reader import Block
from kernels import Device, Kernels

STAGES = ("upload", "decode", "download")


class PageLocked(Block):
    """A block in memory that the device writes to directly; flags: (n,) uint8, what `decode` says of each record."""

    def __init__(self, kernels: Kernels, files: int) -> None:
        self.fc7 = kernels.host_buffer((files, FC7_DIM * 4)).view(np.float32)
        self.fc8 = kernels.host_buffer((files, FC8_DIM * 4)).view(np.float32)
        self.flags = kernels.host_buffer((files,))
        self.good = np.zeros(files, np.bool_)


class Lane:
    """Room on the device for one block of up to `files` records. For one thread, inside `on_gpu`.

    layers: after `send`, the block's rows on the device, by name; on `stream` they are valid at once, elsewhere and
    in the block on the host after `wait`, and until the next `send` (see `leave_until`).
    """

    def __init__(self, kernels: Kernels, files: int) -> None:
        self._kernels, xp = kernels, kernels.xp
        self._xp = xp
        self.stream = xp.cuda.Stream(non_blocking=True)
        self._records = xp.empty((files, RECORD_BYTES), xp.uint8)
        self._marks = [xp.cuda.Event(block=True) for _ in range(len(STAGES) + 1)]
        self.layers: dict[str, Any] = {}

    def send(self, records: npt.NDArray[np.uint8], block: PageLocked) -> None:
        """Start a block on its way; records: (n, 20400), page-locked, and left alone until `wait`."""
        n, marks = len(records), iter(self._marks)
        with self.stream:
            next(marks).record(self.stream)
            self._records[:n].set(records, stream=self.stream)
            next(marks).record(self.stream)
            fc7, fc8, flags = self._kernels.decode_resident(self._records[:n])[:3]
            # The same bits by another name: they are moved as integers, and counted with as floats.
            self.layers = {"fc7": fc7.view(self._xp.float32), "fc8": fc8.view(self._xp.float32)}
            next(marks).record(self.stream)
            for device, host in [*((self.layers[name], getattr(block, name)) for name in LAYERS), (flags, block.flags)]:
                device.get(stream=self.stream, out=host[:n], blocking=False)
            next(marks).record(self.stream)

    def leave_until(self, stream: Any) -> None:
        """Let what `stream` was given so far be done before the layers' memory is written to again."""
        read = self._xp.cuda.Event(disable_timing=True)
        read.record(stream)
        self.stream.wait_event(read)

    def wait(self) -> dict[str, float]:
        """Return when the block is back on the host; seconds that each stage took on the device."""
        self._marks[-1].synchronize()
        elapsed = self._xp.cuda.get_elapsed_time
        return {stage: elapsed(*self._marks[i : i + 2]) / 1000 for i, stage in enumerate(STAGES)}


@contextmanager
def on_gpu(kernels: Kernels, device: Device) -> Iterator[None]:
    """The calling thread on the device's first GPU. What fails there is one line: DeviceError."""
    try:
        with kernels.xp.cuda.Device(device.gpus[0]):
            yield
    except Exception as error:
        if not type(error).__module__.startswith("cupy"):
            raise
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise DeviceError(
            f"{device}: {text[0]}. What was written stays: run it again, or with --device cpu, and it continues."
        ) from error
