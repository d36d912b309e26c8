"""How fast this machine is at what mirsearch spends its time on: measurements of a fraction of a second each."""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import DependencyError
from engine.index import ivfpq
from engine.index.spec import IndexSpec
from engine.store.durable import disk_errors
from engine.store.ingest import READERS
from engine.store.rows_file import RowsFile, aligned
from kernels import Device

BYTES, PIECE, FILES, FILE_BYTES = 64 << 20, 4 << 20, 192, 20_400
PQ_ROWS, PQ_LISTS, PQ_M = 4096, 16, 16  # FAISS trains a 4-bit codebook on no more rows


@dataclass(frozen=True, kw_only=True)
class Machine:
    """flops: of matrix products in float32 a second. write, copy: bytes a second to the flushed disk, and in memory.

    file_seconds: to open, read and close a `.dat` file in the page cache. cold_file_seconds: the same of a file that
    comes from the disk, by as many threads as an ingest has. codebook_seconds: to train one of the codebooks of 4-bit
    codes. seconds: that all this took.
    """

    flops: float
    write: float
    copy: float
    file_seconds: float
    cold_file_seconds: float
    codebook_seconds: float
    seconds: float


def calibrate(folder: Path) -> Machine:
    """Measure this machine, and the disk that `folder` (which must exist) is on; nothing is left there."""
    started = time.perf_counter()
    with disk_errors(folder), tempfile.TemporaryDirectory(prefix=".calibrate-", dir=folder) as name:
        write = _write(Path(name))
        file_seconds, cold_file_seconds = _read(Path(name))
    rows = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    product = _best(lambda: rows @ rows)
    data, other = np.ones(BYTES, np.uint8), np.empty(BYTES, np.uint8)
    return Machine(
        flops=2 * 2048**3 / product,
        write=write,
        copy=BYTES / _best(lambda: np.copyto(other, data)),
        file_seconds=file_seconds,
        cold_file_seconds=cold_file_seconds,
        codebook_seconds=_codebooks(),
        seconds=time.perf_counter() - started,
    )


def _best(work: Callable[[], object], times: int = 3) -> float:
    """Seconds of the quickest of some runs, after the first of them warmed up."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)


def _write(folder: Path) -> float:
    block = aligned(PIECE)  # written as an ingest writes
    block[:] = np.random.default_rng(1).integers(0, 256, PIECE, np.uint8)
    file = RowsFile(folder / "data", create=True)
    try:
        started = time.perf_counter()
        for start in range(0, BYTES, PIECE):
            file.write(block.data, start)
        file.sync()
        return BYTES / (time.perf_counter() - started)
    finally:
        file.close()


def _read(folder: Path) -> tuple[float, float]:
    """Seconds a file: by one thread from the page cache, and by an ingest's threads from the disk."""
    paths = [str(folder / str(number)) for number in range(FILES)]
    for path in paths:
        with open(path, "wb") as file:  # noqa: PTH123 - its handle is wanted
            file.write(bytes(FILE_BYTES))
            os.fdatasync(file.fileno())  # what is not on the disk yet stays in the page cache

    def read(some: list[str]) -> None:
        buffer = bytearray(FILE_BYTES)
        for path in some:
            handle = os.open(path, os.O_RDONLY)
            os.preadv(handle, [buffer], 0)
            os.close(handle)

    warm = _best(lambda: read(paths)) / FILES
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    with ThreadPoolExecutor(READERS) as readers:
        started = time.perf_counter()
        list(readers.map(read, [paths[number::READERS] for number in range(READERS)]))
        return warm, (time.perf_counter() - started) / FILES


def _codebooks() -> float:
    rows = np.random.default_rng(2).standard_normal((PQ_ROWS, 2 * PQ_M), np.float32)
    spec = IndexSpec(layer="x", reduced=2 * PQ_M, lists=PQ_LISTS, pq_m=PQ_M, pq_bits=4)
    try:
        return _best(lambda: ivfpq.train(rows, spec, Device(kind="cpu", why="")), 2) / PQ_M
    except DependencyError:  # a machine without FAISS builds no lists either
        return 0.0
