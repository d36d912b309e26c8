"""Work spread over processes that an interrupt leaves to their parent, and that end with it."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from typing import Final, TypeVar

BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
Job = TypeVar("Job")
Result = TypeVar("Result")


def apart(function: Callable[[Job], Result], jobs: Iterable[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Do jobs in processes; each job with what came of it, in any order.

    Jobs are asked for as they are needed, one more than there are workers; an interrupt waits only for those that are
    being done. Raises what a job raises; BrokenProcessPool when a process was killed.
    """
    waiting = iter(jobs)
    running: dict[Future[Result], Job] = {}
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), leave_interrupts_to_parent)
    try:
        while True:
            for job in islice(waiting, workers + 1 - len(running)):
                with quiet_start():
                    running[pool.submit(function, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def leave_interrupts_to_parent() -> None:
    """In a new process: an interrupt is the parent's to handle, and a killed parent takes its children along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # killed before we asked
            os._exit(1)


@contextmanager
def quiet_start() -> Iterator[None]:
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
