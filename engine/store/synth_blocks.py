"""Write the files of the sample collection block by block, in this process or in several."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Final

import numpy as np

from engine.progress import Progress
from engine.store import dat
from engine.store.synth_copies import Pair
from engine.store.synth_model import BLOCK, make_block

BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One block to write: photos block * 1000 up to, not including, `end`."""

    directory: Path
    seed: int
    block: int
    end: int
    images: bool
    annotations: bool = False


def write_blocks(jobs: list[Job], workers: int, progress: Progress) -> tuple[int, list[Pair]]:
    """Write all files; returns their bytes and the planted pairs."""
    photos, done, size, pairs = jobs[-1].end, 0, 0, list[Pair]()
    progress("synth", done, photos, unit="photos")
    # One block needs no second process, and starting one takes longer than writing it.
    alone = workers == 1 or len(jobs) == 1
    for job, (written, found) in _write_here(jobs) if alone else _write_apart(jobs, workers):
        done += job.end - job.block * BLOCK
        size += written
        pairs += found
        progress("synth", done, photos, unit="photos")
    return size, pairs


def _write_here(jobs: list[Job]) -> Iterator[tuple[Job, tuple[int, list[Pair]]]]:
    for job in jobs:
        yield job, write_block(job)


def _write_apart(jobs: list[Job], workers: int) -> Iterator[tuple[Job, tuple[int, list[Pair]]]]:
    """Write blocks in processes, in any order; an interrupt waits only for the blocks being written."""
    waiting = iter(jobs)
    running: dict[Future[tuple[int, list[Pair]]], Job] = {}
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), _leave_interrupts_to_parent
    )
    try:
        while True:
            with _quiet_start():
                for job in islice(waiting, workers + 1 - len(running)):
                    running[pool.submit(write_block, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _leave_interrupts_to_parent() -> None:
    """In a new process: an interrupt is the parent's to handle, and a killed parent takes its children along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # killed before we asked
            os._exit(1)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Give processes started meanwhile one BLAS thread each, and keep an interrupt away from them and from us.

    NumPy reads the thread count when it is imported there. A blocked signal is blocked in the child too,
    which could otherwise be interrupted, with a traceback, before it can ask not to be.
    """
    before = {name: os.environ.get(name) for name in BLAS_THREADS}
    resource_tracker.ensure_running()  # started by the first child otherwise, and it unblocks the signal
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with _interrupts_later():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold an interrupt back until the end: a child that is told only half of what it is to do prints a traceback.

    Blocking the signal is not enough, as it may be taken by any thread, those of the BLAS too, for the main one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if waiting:
        signal.raise_signal(signal.SIGINT)


def write_block(job: Job) -> tuple[int, list[Pair]]:
    """Write the files of one block; returns their bytes and the planted pairs among them."""
    block = make_block(job.seed, job.block)
    count = job.end - block.start
    records = dat.records(block.fc7[:count], block.fc8[:count])
    rows = records.view(np.uint8).reshape(count, dat.RECORD_BYTES)
    written = _write_files(job.directory / "features", block.start, ".dat", [row.data for row in rows])
    if job.images:
        from engine.store.synth_pictures import draw_block  # Pillow only where pictures are asked for

        written += _write_files(job.directory / "images", block.start, ".jpg", draw_block(block, job.seed, count))
    if job.annotations:
        from engine.store.synth_annotations import documents  # orjson only where annotations are asked for

        texts = documents(job.seed, job.block, count)
        written += _write_files(job.directory / "annotations", block.start, ".json", texts)
    return written, [pair for pair in block.pairs if pair.photo_id < job.end]


def _write_files(root: Path, start: int, suffix: str, contents: Sequence[bytes | memoryview]) -> int:
    """Write contents[i] as photo start + i, all in one folder; returns the bytes."""
    folder = os.open((root / dat.relative_path(start)).parent, os.O_RDONLY)
    try:
        size = 0
        for photo_id, content in enumerate(contents, start):
            size += _write_file(f"{photo_id}{suffix}", content, folder)
        return size
    finally:
        os.close(folder)


def _write_file(name: str, content: bytes | memoryview, folder: int) -> int:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=folder)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)
    return len(content)
