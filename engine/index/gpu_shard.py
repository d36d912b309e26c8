"""Shards of IVF-PQ on GPUs: trained, copied there, filled, searched and copied back, each by the GPU's own thread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DeviceError
from engine.index import ivfpq
from engine.index.gpu import Copy, Gpu, Lane, Room, cupy, gpus_of, in_order
from engine.index.gpu_errors import is_memory_error
from engine.index.gpu_limits import FLOAT32_TABLES_M, Shape, check_spec, shard_bytes
from engine.index.gpu_rows import bits_from, counted_from_0, list_sizes, renumber
from engine.index.placement import place
from engine.index.spec import IndexSpec
from kernels import Device
from kernels.device import GpuLibrary, array_module

ADD_ROWS = 1 << 16  # rows of one addition: cuVS takes a block as a whole
ABSENT = np.iinfo(np.int64).max  # what cuVS says where it has found too few

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """What is asked of every shard: candidates, lists, and of which rows, as `ivfpq.search` has them."""

    count: int
    probes: int
    bits: npt.NDArray[np.uint8] | None = None


class GpuShard:
    """A shard on GPUs, in place of FAISS's index.

    d, nlist, ntotal, metric_type: as FAISS has them. copies: by GPU, those that stay. streamed: GPUs that it is copied
    to for each search, with whether the next shard fits beside it. host: the CPU form, where it is streamed.
    first: the store's row that is row 0 of the index: cuVS filters by rows that are counted from 0; FAISS's own has
    the store's rows. sizes: rows of its lists, ascending, cumulated, as long as nothing was added; else None.
    """

    on_gpu = True

    def __init__(self, host: Any, device: Device) -> None:
        self.device, self.library = device, device.gpu.library
        self.d, self.nlist, self.metric_type, self.ntotal = host.d, host.nlist, host.metric_type, host.ntotal
        self.shape = shape_of(host)
        self.copies: dict[int, Copy] = {}
        self.streamed: dict[int, bool] = {}
        self.rooms: list[Room] = []
        self.host: Any = None
        self.first = counted_from_0(host) if self.library == "cuvs" else 0
        self.sizes: I64 | None = np.cumsum(np.sort(list_sizes(host)))

    def copy_to(self, gpu: Gpu, host: Any, *, reserve: int = 0, growing: bool = False) -> None:
        """Put a copy on a GPU, to stay; reserve: rows that will be added."""
        make = partial(upload, host=host, library=self.library, reserve=reserve)
        self.copies[gpu.number] = Copy(gpu, make, self._bytes(growing=growing), f"a shard of {self.ntotal:,} rows")

    def _bytes(self, *, growing: bool = False) -> int:
        return shard_bytes(self.shape, self.ntotal, self.library, growing=growing)

    def add(self, rows: Any, first_row: int) -> None:
        """Add reduced rows (n, d) float32, on the host or on the device; their ids count from `first_row`."""
        if not self.ntotal and self.library == "cuvs":
            self.first = first_row
        self.sizes = None
        self.ntotal += len(rows)
        for copy in self.copies.values():
            copy.room.grow(self._bytes(growing=True), f"a shard of {self.ntotal:,} rows")
            in_order(copy.lane, rows, partial(_add, copy, first_row - self.first), "add rows")
        if self.host is not None:
            given = array_module(rows).asnumpy(rows) if array_module(rows) is not np else rows
            ids = np.arange(first_row - self.first, first_row - self.first + len(rows), dtype=np.int64)
            self.host.add_with_ids(np.ascontiguousarray(given), ids)

    def to_host(self) -> Any:
        """The CPU form, with the store's row numbers; nobody else has it."""
        module = ivfpq.faiss()
        if self.host is not None:
            copied = module.clone_index(self.host)
        else:
            copy = next(iter(self.copies.values()))
            copied = copy.lane.run("copy the index from the GPU", lambda: module.index_gpu_to_cpu(copy.index))
        if self.first:
            renumber(copied, self.first)
        return copied

    def list_sizes(self) -> I64:
        """Rows of each list, (nlist,) int64."""
        if self.host is not None:
            return list_sizes(self.host)
        copy = next(iter(self.copies.values()))

        sizes: I64 = copy.lane.run("count the lists", lambda: [copy.index.getListLength(i) for i in range(self.nlist)])
        return np.array(sizes, np.int64)

    def find(self, lane: Lane, queries: Any, ask: Ask, out: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Closeness and rows (q, count) on the lane's GPU, absent −1; on its thread. queries: there, C-ordered.

        out: where they are put, if they are there already.
        """
        xp, module = cupy(), ivfpq.faiss()
        copy = self.copies.get(lane.gpu)
        index = copy.index if copy else upload(lane, host=self.host, library=self.library)
        # cuVS writes as many columns as it has rows, whatever was asked for.
        count = min(ask.count, self.ntotal) if self.library == "cuvs" else ask.count
        if out is None or count < ask.count:
            out = xp.empty((len(queries), count), xp.float32), xp.empty((len(queries), count), xp.int64)
        closeness, rows = out
        if count:
            parameters, _bits = self._parameters(ask)
            to_float = module.cast_integer_to_float_ptr
            index.search_c(
                len(queries), to_float(queries.data.ptr), count, to_float(closeness.data.ptr),
                module.cast_integer_to_idx_t_ptr(rows.data.ptr), parameters,
            )  # fmt: skip
        if self.metric_type != module.METRIC_INNER_PRODUCT:
            xp.negative(closeness, out=closeness)
        if self.library == "cuvs":
            rows[...] = xp.where((rows < 0) | (rows == ABSENT), -1, rows + self.first)
            missing = ((0, 0), (0, ask.count - count))
            if missing[1][1]:
                closeness = xp.pad(closeness, missing, constant_values=-xp.inf)
                rows = xp.pad(rows, missing, constant_values=-1)
        if copy is None:
            lane.stream.synchronize()  # the copy goes when this returns, and is in use until then
        return closeness, rows

    def _parameters(self, ask: Ask) -> tuple[Any, Any]:
        """FAISS's settings of a search, and an array that must outlive them."""
        module = ivfpq.faiss()
        if ask.bits is None:
            return module.SearchParametersIVF(nprobe=ask.probes), None
        bits = bits_from(ask.bits, self.first, self.ntotal)
        # The CPU reads `n` as bytes, cuVS as bits and wants exactly its rows.
        chosen = module.IDSelectorBitmap(self.ntotal, module.swig_ptr(bits))
        return module.SearchParametersIVF(nprobe=ask.probes, sel=chosen), bits


def shape_of(index: Any) -> Shape:
    """What the size of an index depends on, but for its rows."""
    return Shape(dim=index.d, lists=index.nlist, m=index.pq.M, bits=index.pq.nbits)


def train(sample: Any, spec: IndexSpec, metric: int, device: Device) -> Any:
    """A trained, empty index in CPU form, from reduced rows (t, reduced) float32 on the host or on the device."""
    module, library = ivfpq.faiss(), device.gpu.library
    check_spec(spec, library)
    gpu = gpus_of(device)[0]
    lane = gpu.lane()

    def learn(rows: Any) -> Any:
        config = module.GpuIndexIVFPQConfig()
        config.device = lane.gpu
        config.use_cuvs = config.interleavedLayout = library == "cuvs"  # explicit: defaults differ between builds
        config.useFloat16LookupTables = (spec.pq_m or 0) > FLOAT32_TABLES_M
        shape = spec.reduced, spec.lists, spec.pq_m, spec.pq_bits
        index = module.GpuIndexIVFPQ(lane.resources, *shape, metric, config)
        index.cp.seed = index.pq.cp.seed = spec.seed + 1
        index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
        index.train_c(len(rows), _floats(rows))
        return module.index_gpu_to_cpu(index)

    return in_order(lane, sample, learn, "train on the GPU")


def empty_copy(trained: Any, device: Device, rows: int = 0) -> GpuShard:
    """A new shard of what was learned, on the device's first GPU; rows: how many will be added, if that is known."""
    shard = GpuShard(trained, device)
    shard.copy_to(gpus_of(device)[0], trained, reserve=rows, growing=True)
    return shard


def open_shards(reads: Sequence[Callable[[], Any]], sizes: Sequence[tuple[Shape, int]], device: Device) -> list[Any]:
    """Shards on the GPUs of a device, read one after the other; DeviceError where one fits on no GPU.

    reads: what gives the CPU form of each. sizes: their shapes and rows.
    """
    options, gpus = device.gpu, gpus_of(device)
    taken = [shard_bytes(shape, rows, options.library) for shape, rows in sizes]
    homes: list[list[tuple[Gpu, bool, bool]]] = [[] for _ in sizes]
    rooms: list[Room] = []
    for group in [[gpu] for gpu in gpus] if options.replicate else [gpus]:
        rooms += _placed(group, taken, homes)
    shards = []
    for read, places in zip(reads, homes, strict=True):
        host = read()
        shard = GpuShard(host, device)
        for gpu, streamed, ahead in places:
            if streamed:
                shard.host, shard.streamed[gpu.number], shard.rooms = host, ahead, rooms
            else:
                shard.copy_to(gpu, host)
        shards.append(shard)
    return shards


def _placed(group: list[Gpu], taken: list[int], homes: list[list[tuple[Gpu, bool, bool]]]) -> list[Room]:
    """Add to the homes of each shard its GPU of this group; the room that streamed shards need there."""
    try:
        placement = place(taken, [gpu.left for gpu in group])
    except ValueError as error:
        named = f"cuda:{','.join(str(gpu.number) for gpu in group)}"
        raise DeviceError(
            f"{named}: {error} for shards is left. Raise --gpu-memory, use smaller shards (--rows-per-shard), or "
            "--device cpu."
        ) from None
    slots: dict[int, int] = {}
    for shard, (home, streamed) in enumerate(zip(placement.homes, placement.streamed, strict=True)):
        homes[shard].append((group[home], streamed, placement.ahead[home]))
        if streamed:
            slots[home] = max(taken) * (2 if placement.ahead[home] else 1)
    return [Room(group[home], size, "room for streamed shards") for home, size in slots.items()]


def upload(lane: Lane, *, host: Any, library: GpuLibrary, reserve: int = 0) -> Any:
    """A copy of a CPU index on the lane's GPU, by its thread. Tried again when CuPy has given back what it keeps."""
    module = ivfpq.faiss()
    options = module.GpuClonerOptions()
    options.use_cuvs = library == "cuvs"
    options.useFloat16 = host.pq.M > FLOAT32_TABLES_M
    if library == "faiss":
        options.reserveVecs = reserve
    try:
        return module.index_cpu_to_gpu(lane.resources, lane.gpu, host, options)
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
    cupy().get_default_memory_pool().free_all_blocks()
    return module.index_cpu_to_gpu(lane.resources, lane.gpu, host, options)


def _floats(rows: Any) -> Any:
    """FAISS's pointer to float32 on the host or on the device."""
    module = ivfpq.faiss()
    if array_module(rows) is np:
        return module.swig_ptr(rows)
    return module.cast_integer_to_float_ptr(rows.data.ptr)


def _add(copy: Copy, first: int, rows: Any) -> None:
    """Add rows in blocks, on the lane's thread; ids from `first`."""
    module, xp = ivfpq.faiss(), array_module(rows)
    for start in range(0, len(rows), ADD_ROWS):
        part = rows[start : start + ADD_ROWS]
        ids = xp.arange(first + start, first + start + len(part), dtype=xp.int64)
        numbers = module.swig_ptr(ids) if xp is np else module.cast_integer_to_idx_t_ptr(ids.data.ptr)
        copy.index.add_with_ids_c(len(part), _floats(part), numbers)
