"""Blocks of rows on all cores: threads around Numba functions that hold no lock.

Instead of Numba's own parallel loops: those depend on which threading layer happens to be installed, may not be
entered from two threads at once, and take far longer to compile.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from kernels.device import cpu_threads


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="kernels")


# A forked child has the pool's object but none of its threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def in_blocks(n: int, block: int, work: Callable[[int, int], object]) -> None:
    """Run `work(start, stop)` over blocks of n on all cores; one block runs here."""
    if n <= block or cpu_threads() == 1:
        work(0, n)
        return
    for done in [_pool().submit(work, start, min(start + block, n)) for start in range(0, n, block)]:
        done.result()
