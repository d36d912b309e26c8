"""The kernels in CuPy and CUDA C: host arrays in, host arrays out (CuPy arrays are taken as they are).

Imports nothing but NumPy and CuPy, so that it runs on GPU hosts that have little else. Matrix products and all that
follows a product live in `kernels.dense`, which is tested without a GPU; the two `.cu` files hold the rest.
"""

import importlib.resources
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache, wraps
from typing import Any, TypeVar, cast

import cupy
import numpy as np
import numpy.typing as npt

from kernels import contract, dense
from kernels.contract import F32, F64, I64, U8, CodeKind, Codes, Metric, Step

COMPILE_OPTIONS = ("--std=c++17",)  # and no fast math: exact scores are exact here too
_THREADS = 256
_PAIRS_PER_BLOCK = _THREADS // 32
# Device memory bounds: records of one upload, and what one block of queries may need for its candidates.
_RECORDS_AT_ONCE = 4096
_RERANK_BYTES = 256 << 20
_RESIDENT_SHARE = 0.6
_UPLOAD_BYTES = 64 << 20
_ABSENT = np.iinfo(np.int64).max
_DOTS = {"float32": "dot_float32", "float16": "dot_float16", "uint8": "dot_uint8"}  # 4-bit codes: dot_uint4

_gpu = 0
_F = TypeVar("_F", bound=Callable[..., Any])


def use_gpu(number: int) -> None:
    """The GPU that all kernels of this process run on; the first unless this says otherwise."""
    global _gpu
    _gpu = number


def _on_gpu(function: _F) -> _F:
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


def _launch(file: str, name: str, blocks: int, args: tuple[Any, ...]) -> None:
    """Run a kernel of a `.cu` file on the current stream."""
    _module(file).get_function(name)((blocks,), (_THREADS,), args)


def _rows(rows: Any) -> Any:
    """Rows on the GPU as C-ordered float32."""
    return cupy.ascontiguousarray(cupy.asarray(rows, dtype=cupy.float32))


def _host(array: Any) -> Any:
    """A copy in host memory, once the GPU is done with it."""
    return cupy.asnumpy(array)


@_on_gpu
def host_buffer(shape: tuple[int, ...]) -> U8:
    """Page-locked host memory, uint8, that the GPU copies from directly and without waiting."""
    return _page_locked(shape, np.dtype(np.uint8))


def _page_locked(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    size = math.prod(shape)
    memory = cupy.cuda.alloc_pinned_memory(max(size, 1) * dtype.itemsize)  # lives as long as the array does
    return np.frombuffer(memory, dtype, size).reshape(shape)


class _Lane:
    """One thread's stream, its buffers on the GPU and the page-locked memory its results come back through.

    Every thread that decodes has its own, so that reading files, copies in both directions and kernels overlap.
    """

    def __init__(self, records: int) -> None:
        self.room = records
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.records = cupy.empty((records, contract.RECORD_BYTES), cupy.uint8)
        # The layers as integers: a signalling NaN moved as a float may change its bits.
        words, bytes_ = np.dtype(np.uint32), np.dtype(np.uint8)
        shapes = ((records, contract.FC7_DIM), words), ((records, contract.FC8_DIM), words), ((records,), bytes_)
        self.out = [cupy.empty(shape, dtype) for shape, dtype in shapes]
        self.back = [_page_locked(shape, dtype) for shape, dtype in shapes]

    def decode(self, records: U8, fc7: F32, fc8: F32, flags: U8) -> None:
        """Upload, split, download, and wait once."""
        n = len(records)
        with self.stream:
            self.records[:n].set(records, stream=self.stream)
            _launch("decode.cu", "decode", n, (self.records, *self.out))
            for device, host in zip(self.out, self.back, strict=True):
                device[:n].get(stream=self.stream, out=host[:n], blocking=False)
        self.stream.synchronize()
        targets: tuple[npt.NDArray[Any], ...] = fc7.view(np.uint32), fc8.view(np.uint32), flags
        for target, host in zip(targets, self.back, strict=True):
            target[:] = host[:n]


_threads = threading.local()


def _lane(records: int) -> _Lane:
    """The calling thread's lane on the chosen GPU, with room for so many records."""
    lanes: dict[int, _Lane] = _threads.__dict__.setdefault("lanes", {})
    if _gpu not in lanes or lanes[_gpu].room < records:
        lanes[_gpu] = _Lane(records)
    return lanes[_gpu]


@_on_gpu
def decode(records: U8, fc7: F32, fc8: F32) -> U8:
    """Split raw records into their layers; see `kernels.reference.decode`.

    records: best a `host_buffer`, from which the upload does not hold up the calling thread.
    """
    records = np.ascontiguousarray(cupy.asnumpy(records))
    flags = np.empty(len(records), np.uint8)
    for start in range(0, len(records), _RECORDS_AT_ONCE):
        part = np.s_[start : start + _RECORDS_AT_ONCE]
        _lane(len(records[part])).decode(records[part], fc7[part], fc8[part], flags[part])
    return flags


@_on_gpu
def non_finite(rows: F32) -> npt.NDArray[np.bool_]:
    """Whether each row holds a NaN or an infinity; see `kernels.reference.non_finite`."""
    return cast(npt.NDArray[np.bool_], _host(~cupy.isfinite(_rows(rows)).all(axis=1)))


@_on_gpu
def quantize(rows: F32, kind: CodeKind) -> Codes:
    """Codes of rows, each over its own range; see `kernels.reference.quantize`."""
    return dense.quantize(cupy, _rows(rows), kind).each(_host)


@_on_gpu
def resident(codes: Codes) -> Codes:
    """The codes on the GPU where they take no more than a part of its free memory, else as they are."""
    if sum(getattr(part, "nbytes", 0) for part in codes) > _RESIDENT_SHARE * cupy.cuda.runtime.memGetInfo()[0]:
        return codes
    try:
        return codes.each(_upload)
    except cupy.cuda.memory.OutOfMemoryError:  # free memory may lie in pieces, or somebody else was faster
        return codes


def _upload(rows: Any) -> Any:
    """A copy on the GPU, block by block: a map of a large file never stands in host memory as a whole."""
    if isinstance(rows, cupy.ndarray):
        return rows
    out = cupy.empty(rows.shape, rows.dtype)
    block = max(_UPLOAD_BYTES // max(rows[:1].nbytes, 1), 1)
    for start in range(0, len(rows), block):
        out[start : start + block].set(np.ascontiguousarray(rows[start : start + block]))
    return out


@_on_gpu
def rerank(queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
    """The best `keep` of each query's candidates, best first; see `kernels.reference.rerank`.

    Codes on the GPU are used where they are. Of codes on the host only the candidates' rows are gathered and sent,
    for so many queries at a time that they fit a fixed share of the GPU's memory.
    """
    candidates = np.asarray(cupy.asnumpy(candidates), np.int64)
    count, r = candidates.shape
    rows, scores = np.full((count, keep), -1, np.int64), np.full((count, keep), -np.inf, np.float32)
    if not (count and r and keep and len(codes.values)):
        return rows, scores
    on_host = not isinstance(codes.values, cupy.ndarray)
    # Per candidate: its row, if it is sent, and about ten float64 or int64 intermediates.
    per_query = r * (80 + (codes.values[:1].nbytes if on_host else 0))
    block = max(_RERANK_BYTES // per_query, 1)
    for start in range(0, count, block):
        part = np.s_[start : start + block]
        ordered = np.sort(np.where(candidates[part] < 0, _ABSENT, candidates[part]), axis=1)
        at = np.where(ordered == _ABSENT, -1, ordered)
        ours = codes
        if on_host:
            ours, at = _gather(codes, at)
        found = _rerank(_rows(queries[part]), cupy.asarray(ordered), cupy.asarray(at), ours, metric, keep)
        rows[part], scores[part] = map(_host, found)
    return rows, scores


def _gather(codes: Codes, at: I64) -> tuple[Codes, I64]:
    """The rows that occur in `at` (q, r; −1 = none) sent to the GPU, and their places there (q, r; −1 = none)."""
    present = np.unique(at[at >= 0]) if (at >= 0).any() else np.zeros(1, np.int64)
    sent = codes.each(lambda part: cupy.asarray(_host(part[present])))
    return sent, np.where(at < 0, -1, np.searchsorted(present, at))


def _rerank(queries: Any, ordered: Any, at: Any, codes: Codes, metric: Metric, keep: int) -> tuple[Any, Any]:
    """One block on the GPU. ordered: (q, r) rows ascending, absent last; at: their places in `codes`, −1 = none."""
    if codes.low is None and metric == "l2":
        (distances,) = _pairs("distance_float32", queries, codes.values, at, outputs=1)
        scores = -distances
    elif codes.low is None:
        dots, squares = _pairs("dot_float32", queries, codes.values, at, outputs=2)
        scores = dense.scores_of_rows(cupy, dots, squares, queries, metric)
    else:
        scaled, powers = dense.scaled(cupy, queries)
        name = _DOTS[str(codes.values.dtype)] if codes.packed is None else "dot_uint4"
        (dots,) = _pairs(name, scaled, codes.values, at, outputs=1)
        scores = dense.scores_of_codes(cupy, dots * powers, codes, at, queries, metric)
    return dense.best_first(cupy, ordered, scores, keep)


def _pairs(name: str, queries: Any, values: Any, at: Any, *, outputs: int) -> list[Any]:
    """What a kernel of `rerank.cu` computes for every query and candidate: arrays (q, r) float64."""
    (count, r), d = at.shape, queries.shape[1]
    results = [cupy.empty((count, r), cupy.float64) for _ in range(outputs)]
    values = cupy.ascontiguousarray(values)
    sizes = np.int64(count * r), np.int32(r), np.int32(d)
    _launch("rerank.cu", name, -(-count * r // _PAIRS_PER_BLOCK), (queries, values, at, *results, *sizes))
    return results


def cascade(candidates: I64, steps: Sequence[Step], metric: Metric) -> tuple[I64, F32]:
    """Candidates compared step by step; see `kernels.reference.cascade`."""
    for step in steps[:-1]:
        candidates, _ = rerank(step.queries, candidates, step.codes, metric, step.keep)
    return rerank(steps[-1].queries, candidates, steps[-1].codes, metric, steps[-1].keep)


@_on_gpu
def normalize(rows: F32) -> F32:
    """Rows of unit length; see `kernels.reference.normalize`."""
    return cast(F32, _host(dense.normalize(cupy, _rows(rows))))


@_on_gpu
def project(rows: F32, axes: F32, *, unit: bool) -> F32:
    """Rows onto axes; see `kernels.dense.project`."""
    return cast(F32, _host(dense.project(cupy, _rows(rows), _rows(axes), unit=unit)))


@_on_gpu
def principal_axes(blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
    """The leading principal axes of rows in blocks, each uploaded once; see `kernels.reference.principal_axes`."""
    axes, variances, trace = dense.principal_axes(cupy, map(_rows, blocks), count, unit=unit)
    return _host(axes), _host(variances), trace


@_on_gpu
def top_axes(covariance: F64, count: int) -> tuple[F32, F32]:
    """The leading eigenvectors and eigenvalues; see `kernels.reference.top_axes`."""
    axes, values = dense.top_axes(cupy, cupy.asarray(covariance, dtype=cupy.float64), count)
    return _host(axes), _host(values)


@_on_gpu
def nearest(queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
    """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""
    best, scores = dense.nearest(cupy, _rows(queries), _rows(rows), metric, k)
    return _host(best), _host(scores)
