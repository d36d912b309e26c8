"""Blocks of rows on all cores: threads around Numba functions that hold no lock.

Instead of Numba's own parallel loops: those depend on which threading layer happens to be installed, may not be
entered from two threads at once, and take far longer to compile.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any

from kernels.device import cpu_threads

Work = Callable[[int, int], object]
_here = threading.local()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="kernels")


def in_blocks(n: int, block: int, work: Work) -> None:
    """Run `work(start, stop)` over blocks of n on all cores; one block runs here, and all of them inside `in_spans`."""
    if n <= block or cpu_threads() == 1 or getattr(_here, "busy", False):
        work(0, n)
        return
    for done in [_pool().submit(work, start, min(start + block, n)) for start in range(0, n, block)]:
        done.result()


def in_spans(n: int, least: int, work: Work) -> None:
    """Run `work(start, stop)` over as many spans of n as there are cores, at least `least` long, each on one thread.

    For work of several phases: cut here, no thread waits for another one between two of them. What `work` calls
    stays on its thread: `in_blocks` cuts nothing there, and the BLAS has one thread meanwhile, in the whole process;
    its threads spin for milliseconds after every product, on cores that others could use.
    """
    spans = min(cpu_threads(), n // least)
    if spans <= 1 or getattr(_here, "busy", False):
        work(0, n)
        return
    edges = [n * i // spans for i in range(spans + 1)]
    with _one_blas_thread():
        for done in [_pool().submit(_alone, work, *edge) for edge in pairwise(edges)]:
            done.result()


def _alone(work: Work, start: int, stop: int) -> None:
    _here.busy = True
    try:
        work(start, stop)
    finally:
        _here.busy = False


_lock, _users = threading.Lock(), 0
_limit: Any = None


@cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # takes 30 ms, and single queries do without

    return ThreadpoolController().select(user_api="blas")


def _limited_blas() -> Any:
    """The BLAS with one thread, until it is left; as it was on a GPU host that lacks what sets it."""
    try:
        limit = _blas().limit(limits=1)
    except ImportError:
        limit = nullcontext()
    limit.__enter__()
    return limit


@cache
def _holder() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="blas")


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """One thread for the BLAS of NumPy until the last of those who asked for it at the same time is done.

    Set and given back by one and the same thread: threadpoolctl lets no other undo it.
    """
    global _users, _limit
    with _lock:
        if not _users:
            _limit = _holder().submit(_limited_blas).result()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _holder().submit(_limit.__exit__, None, None, None).result()
                _limit = None


def _forked() -> None:
    """A forked child has the objects of its parent's pools but none of their threads."""
    global _lock, _users
    _pool.cache_clear()
    _holder.cache_clear()
    _lock, _users = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
