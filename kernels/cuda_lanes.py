"""Raw records decoded on the GPU, each thread on a stream of its own, to the host or to stay there."""

import threading
from typing import Any

import cupy
import numpy as np
import numpy.typing as npt

from kernels import contract
from kernels.contract import F32, U8, Decoded
from kernels.cuda_arrays import chosen_gpu, here, is_on_gpu, launch, on_gpu, page_locked, there

RECORDS_AT_ONCE = 4096  # records of one upload


class _Lane:
    """One thread's stream, its buffers on the GPU and the page-locked memory its results come back through.

    Every thread that decodes has its own, so that reading files, copies in both directions and kernels overlap.
    """

    def __init__(self, records: int) -> None:
        self.room = records
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.records = cupy.empty((records, contract.RECORD_BYTES), cupy.uint8)
        self.out: list[Any] = []
        self.back: list[npt.NDArray[Any]] = []

    def _buffers(self) -> None:
        """What `decode` needs and `decode_resident` does not."""
        if self.out:
            return
        # The layers as integers: a signalling NaN moved as a float may change its bits.
        words, bytes_ = np.dtype(np.uint32), np.dtype(np.uint8)
        n = self.room
        shapes = ((n, contract.FC7_DIM), words), ((n, contract.FC8_DIM), words), ((n,), bytes_)
        self.back = [page_locked(shape, dtype) for shape, dtype in shapes]
        self.out = [cupy.empty(shape, dtype) for shape, dtype in shapes]

    def decode(self, records: U8, fc7: F32, fc8: F32, flags: U8) -> None:
        """Upload, split, download, and wait once."""
        self._buffers()
        n = len(records)
        with self.stream:
            self.records[:n].set(records, stream=self.stream)
            launch("decode.cu", "decode", n, (self.records, *self.out))
            for device, host in zip(self.out, self.back, strict=True):
                device[:n].get(stream=self.stream, out=host[:n], blocking=False)
        self.stream.synchronize()
        targets: tuple[npt.NDArray[Any], ...] = fc7.view(np.uint32), fc8.view(np.uint32), flags
        for target, host in zip(targets, self.back, strict=True):
            target[:] = host[:n]

    def leave(self, records: U8, out: tuple[Any, ...]) -> Any:
        """Upload and split into arrays of the caller's stream, which goes on once that is done; the event of it.

        The upload runs beside what the caller's stream has still to do; only the kernel waits for that, since
        the memory it writes to may be in use by it.
        """
        theirs = cupy.cuda.get_current_stream()
        free = cupy.cuda.Event(disable_timing=True)
        free.record(theirs)
        self.records[: len(records)].set(records, stream=self.stream)
        self.stream.wait_event(free)
        with self.stream:
            launch("decode.cu", "decode_norms", len(records), (self.records, *out))
        ready = cupy.cuda.Event(disable_timing=True)
        ready.record(self.stream)
        theirs.wait_event(ready)
        return ready


_threads = threading.local()


def _lane(records: int) -> _Lane:
    """The calling thread's lane on the chosen GPU, with room for so many records."""
    lanes: dict[int, _Lane] = _threads.__dict__.setdefault("lanes", {})
    gpu = chosen_gpu()
    if gpu not in lanes or lanes[gpu].room < records:
        lanes[gpu] = _Lane(records)
    return lanes[gpu]


@on_gpu
def decode(records: U8, fc7: F32, fc8: F32) -> U8:
    """Split raw records into their layers; see `kernels.reference.decode`.

    records: best a `host_buffer`, from which the upload does not hold up the calling thread.
    """
    records = np.ascontiguousarray(here(records))
    flags = np.empty(len(records), np.uint8)
    for start in range(0, len(records), RECORDS_AT_ONCE):
        part = np.s_[start : start + RECORDS_AT_ONCE]
        _lane(len(records[part])).decode(records[part], fc7[part], fc8[part], flags[part])
    return flags


@on_gpu
def decode_resident(records: U8) -> Decoded:
    """Split raw records into their layers, which stay on the GPU; see `kernels.reference.decode_resident`.

    Nothing waits. Records on the host, best in a `host_buffer`, go up on the calling thread's own stream, and what
    the thread's current CuPy stream is given afterwards runs after it; they may be written to again once
    `ready.synchronize()` has returned. Records on the GPU are split on the current stream.
    """
    n = len(records)
    shapes = ((n, contract.FC7_DIM), cupy.float32), ((n, contract.FC8_DIM), cupy.float32), ((n,), cupy.uint8)
    out = *(cupy.empty(*shape) for shape in shapes), cupy.empty(n, cupy.float32), cupy.empty(n, cupy.float32)
    if not n:
        ready: Any = contract.Done()
    elif is_on_gpu(records):
        launch("decode.cu", "decode_norms", n, (there(records), *out))
        ready = cupy.cuda.Event(disable_timing=True)
        ready.record(cupy.cuda.get_current_stream())
    else:
        ready = _lane(n).leave(np.ascontiguousarray(records), out)
    return Decoded(*[*out, ready])
