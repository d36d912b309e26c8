"""Exact search and self-join on the GPU: `kernels.tiles` with half-precision products and `above.cu`."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from types import ModuleType
from typing import Any

import cupy
import numpy as np

from kernels import tile_join, tile_nearest
from kernels.contract import ALL_LINES, F32, I64, Blocks, Metric, Nearest
from kernels.cuda_arrays import (
    THREADS,
    chosen_gpu,
    free_memory,
    here,
    is_on_gpu,
    launch,
    on_gpu,
    page_locked,
    returned,
    rows_there,
    there,
)
from kernels.cuda_rerank import best_first
from kernels.tiles import Found, Operand, Tile, scaled

_SIDE = 8192  # of a tile's columns: 512 MiB of products
_CAPACITY = 1 << 22  # places for what is found in a tile, 12 bytes each
_EACH = 8  # as in above.cu
_FREE_SHARE = 0.5  # of the free memory, for the operands that a join keeps
_TILE_SHARE = 0.1  # of it, for a tile; to choose the best of its first columns takes up to five times as much


class GpuTiles:
    """Tiles of CuPy arrays: products of float16 values, summed and given in float32 (cuBLAS GemmEx)."""

    xp: ModuleType = cupy
    narrow = 4096

    def __init__(self, side: int = _SIDE, capacity: int = _CAPACITY) -> None:
        free = free_memory()
        while side > 256 and 4 * 2 * side * side > _TILE_SHARE * free:
            side //= 2
        # Twice as many lines: the queries of a batch in one tile, since what follows each product has to wait for it.
        self.lines, self.columns = 2 * side, side
        self.room = int(_FREE_SHARE * free)
        self.capacity = capacity
        self.places = [cupy.empty(capacity, dtype) for dtype in (cupy.int32, cupy.int32, cupy.float32)]
        self.count = cupy.empty(1, cupy.uint64)

    def spread(self, n: int, least: int, work: Callable[[int, int], object]) -> None:
        """All of n in one go: the GPU is what has the threads."""
        work(0, n)

    def slack(self, dim: int) -> float:
        """See the head of `kernels.tiles`."""
        return 2.0**-10 + 2.0**-19 + float((dim + 16) * 2.0**-23)

    def operand(self, rows: Any) -> Operand:
        """Rows (n, d) float32 over a power of two each, as float16."""
        rows = rows_there(rows)
        ready = scaled(cupy, rows, cupy.maximum(rows.max(axis=1), -rows.min(axis=1)))
        return ready._replace(values=ready.values.astype(cupy.float16))

    def product(self, lines: Any, columns: Any) -> Any:
        """Products (m, n) float32 of float16 lines (m, d) and columns (n, d)."""
        (m, d), n = lines.shape, len(columns)
        out = cupy.empty((m, n), cupy.float32)
        if not (m and n):
            return out
        blas, half, single = cupy.cuda.cublas, cupy.cuda.runtime.CUDA_R_16F, cupy.cuda.runtime.CUDA_R_32F
        one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
        handle = cupy.cuda.device.get_cublas_handle()
        mode = blas.getPointerMode(handle)
        blas.setPointerMode(handle, blas.CUBLAS_POINTER_MODE_HOST)
        try:  # cuBLAS counts by columns: what it sees as (n, m) is our (m, n)
            blas.gemmEx(
                handle, blas.CUBLAS_OP_T, blas.CUBLAS_OP_N, n, m, d,
                one.ctypes.data, columns.data.ptr, half, d, lines.data.ptr, half, d,
                zero.ctypes.data, out.data.ptr, single, n, blas.CUBLAS_COMPUTE_32F, blas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip
        finally:
            blas.setPointerMode(handle, mode)
        return out

    def above(self, tile: Tile, least: Any) -> Found | None:
        """Lines, columns and ceilings of what is not below its line's least; None where there is no room for it."""
        a, b, c, d = tile.box
        self.count.fill(0)
        blocks = (b - a) * -(-(d - c) // (_EACH * THREADS))
        stride = tile.products.shape[1]
        sides = tile.by_line[a:b], tile.by_column[c:d], tile.less[c:d], least[a:b]
        sizes = self.capacity, a * stride + c, stride, tile.past + a - c
        args = (tile.products, *sides, *self.places, self.count, *map(np.int64, sizes), np.int32(d - c))
        if blocks:
            launch("above.cu", "above", blocks, args)
        found = int(self.count[0])
        if found > self.capacity:
            return None
        lines, columns, ceilings = (place[:found].copy() for place in self.places)  # the next tile writes there
        return lines + np.int32(a), columns + np.int32(c), ceilings

    def best(self, rows: Any, ceilings: Any, keep: int) -> tuple[Any, Any]:
        """The `keep` highest ceilings of each line; rows below 0 are absent."""
        return best_first(rows, ceilings, keep)

    def stream(self, blocks: Iterable[tuple[I64, Any]]) -> Iterator[tuple[Any, Any]]:
        """The blocks on the GPU: while one is at work, the next one is read and sent by another thread."""
        iterator = iter(blocks)
        lanes = [_Upload(), _Upload()]
        with ThreadPoolExecutor(1, thread_name_prefix="upload") as pool:
            try:
                turn, coming = 0, pool.submit(lanes[0].send, iterator)
                while (block := coming.result()) is not None:
                    lane, turn = lanes[turn], 1 - turn
                    coming = pool.submit(lanes[turn].send, iterator)
                    yield lane.here(block)
                    lane.used()
            finally:  # also where nobody asks for the rest
                wait([coming])
                for lane in lanes:
                    lane.stream.synchronize()

    def host(self, array: Any) -> Any:
        """The array in host memory."""
        return here(array)


class _Upload:
    """Page-locked memory, a buffer on the GPU and a stream: the way of every second block to the GPU."""

    def __init__(self) -> None:
        self.gpu, self.theirs = chosen_gpu(), cupy.cuda.get_current_stream()
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.sent, self.done, self.free = (cupy.cuda.Event(disable_timing=True) for _ in range(3))
        self.staged: Any = None
        self.there: Any = None

    def send(self, blocks: Iterator[tuple[I64, Any]]) -> tuple[Any, Any] | None:
        """The next block on its way to the GPU; None after the last. Runs beside the thread that computes."""
        with cupy.cuda.Device(self.gpu), self.theirs:
            block = next(blocks, None)
            if block is None or is_on_gpu(block[1]):
                return block
            numbers, rows = block
            n = len(rows)
            self.sent.synchronize()  # the last block has left the page-locked memory
            self._make_room(rows.shape)
            self.staged[:n] = rows
            self.stream.wait_event(self.done)  # and is no longer computed with
            self.there[:n].set(self.staged[:n], stream=self.stream)
            self.sent.record(self.stream)
            return numbers, self.there[:n]

    def _make_room(self, shape: tuple[int, ...]) -> None:
        """Room for so many rows, in memory of the stream that computes: freed, it is not used before that is done."""
        if self.there is None or len(self.there) < shape[0]:
            self.staged, self.there = page_locked(shape, np.float32), cupy.empty(shape, cupy.float32)
            self.free.record(self.theirs)
            self.stream.wait_event(self.free)

    def here(self, block: tuple[Any, Any]) -> tuple[Any, Any]:
        """The block, for what the stream that computes is given from now on."""
        self.theirs.wait_event(self.sent)
        return there(block[0]).astype(cupy.int64, copy=False), block[1]

    def used(self) -> None:
        """What the stream that computes was given so far is all that needs the block."""
        self.done.record(self.theirs)


@on_gpu
def nearest_of(queries: F32, blocks: Blocks, metric: Metric, k: int) -> Nearest:
    """The k rows of all blocks that may be nearest to each query; see `kernels.reference.nearest_of`."""
    found = tile_nearest.nearest_of(GpuTiles(), rows_there(queries), blocks, metric, k)
    return Nearest(*returned(queries, *found))


@on_gpu
def join(
    blocks: Blocks, threshold: float, metric: Metric, most: int = 1 << 28, lines: tuple[int, int] = ALL_LINES
) -> tuple[I64, F32]:
    """All pairs of rows whose score may reach a threshold; see `kernels.reference.join`."""
    return tile_join.join(GpuTiles(), blocks, threshold, metric, most, lines)
