"""Rows of a store, block after block, where the kernels work: the next one is read while one is worked on."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import Kernels
from kernels.device import cpu_threads

MOST_READERS, BUFFERS = 8, 2


def blocks(data: Any, rows: tuple[int, int], size: int, kernels: Kernels) -> Iterator[tuple[int, Any]]:
    """The rows from the first to before the last of data (n, dim) float32: number of the first, and up to `size` rows.

    On the CPU they are read where they are used. For a GPU several threads copy the next block from the map of the
    file to page-locked memory, from which it is uploaded at full speed.
    """
    if kernels.xp is np:
        for at in range(*rows, size):
            yield at, np.ascontiguousarray(data[at : min(at + size, rows[1])])
        return
    with ThreadPoolExecutor(min(cpu_threads(), MOST_READERS), thread_name_prefix="rows") as pool:
        buffers = [_Buffer(kernels, (size, data.shape[1])) for _ in range(BUFFERS)]
        turns = list(range(*rows, size))
        try:
            for turn, at in enumerate(turns):
                if not turn:
                    buffers[0].fill(pool, data, (at, rows[1]))
                if turn + 1 < len(turns):
                    buffers[(turn + 1) % BUFFERS].fill(pool, data, (turns[turn + 1], rows[1]))
                yield at, buffers[turn % BUFFERS].upload(kernels)
        finally:
            for buffer in buffers:
                wait(buffer.coming)


class _Buffer:
    """Page-locked memory for a block of rows, and what is being copied there."""

    def __init__(self, kernels: Kernels, shape: tuple[int, int]) -> None:
        self.rows: npt.NDArray[np.float32] = kernels.host_buffer((shape[0], 4 * shape[1])).view(np.float32)
        self.coming: list[Future[None]] = []
        self.count = 0

    def fill(self, pool: ThreadPoolExecutor, data: Any, rows: tuple[int, int]) -> None:
        """Begin to copy rows, as many as there is room for."""
        start, self.count = rows[0], min(len(self.rows), rows[1] - rows[0])
        edges = np.linspace(0, self.count, MOST_READERS + 1).astype(int).tolist()

        def copy(a: int, b: int) -> None:
            self.rows[a:b] = data[start + a : start + b]

        self.coming = [pool.submit(copy, a, b) for a, b in pairwise(edges) if b > a]

    def upload(self, kernels: Kernels) -> Any:
        """The rows on the device, once they are here; the buffer may be filled again then."""
        for part in self.coming:
            part.result()
        there = kernels.xp.empty((self.count, self.rows.shape[1]), np.float32)
        stream = kernels.xp.cuda.get_current_stream()
        there.set(self.rows[: self.count], stream=stream)
        stream.synchronize()
        return there
