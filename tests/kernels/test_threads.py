"""Blocks and spans on threads."""

import sys
import threading

import numpy as np
import pytest

from kernels import threads


def blas_threads() -> list[int]:
    """Of NumPy's: SciPy has a library of its own, and that of FAISS counts for each thread."""
    return [library.num_threads for library in threads._blas().lib_controllers if library.threading_layer == "pthreads"]


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_threads", lambda: 4)
    threads._pool.cache_clear()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 100])
def test_spans_cover_everything_once_and_are_not_short(n: int) -> None:
    seen, spans = np.zeros(n, int), []

    def work(start: int, stop: int) -> None:
        seen[start:stop] += 1
        spans.append(stop - start)

    threads.in_spans(n, 3, work)
    assert (seen == 1).all()
    assert len(spans) == max(min(4, n // 3), 1) and (n < 3 or min(spans) >= 3)


def test_what_a_span_calls_stays_on_its_thread() -> None:
    inside = []

    def work(start: int, stop: int) -> None:
        mine = threading.get_ident()

        def block(a: int, b: int) -> None:
            inside.append((threading.get_ident() == mine, b - a))

        threads.in_blocks(1000, 10, block)
        threads.in_spans(1000, 10, block)

    threads.in_spans(40, 10, work)
    assert inside == [(True, 1000)] * 8
    here: list[int] = []
    threads.in_blocks(40, 10, lambda a, b: here.append(b - a))
    assert here == [10] * 4  # outside of spans it is cut again


def test_one_thread_for_the_blas_until_the_last_span_ends() -> None:
    before, during = blas_threads(), []
    assert before
    first, second = threading.Event(), threading.Event()

    def one(start: int, stop: int) -> None:
        first.set()
        second.wait(10)

    def other(start: int, stop: int) -> None:
        second.set()
        during.append(blas_threads())

    caller = threading.Thread(target=threads.in_spans, args=(2, 1, one))
    caller.start()
    first.wait(10)
    threads.in_spans(2, 1, other)
    caller.join()
    assert all(set(counts) == {1} for counts in during) and len(during) == 2
    assert blas_threads() == before


def test_an_error_in_a_span_is_raised_and_the_blas_gets_its_threads_back() -> None:
    before = blas_threads()

    def work(start: int, stop: int) -> None:
        raise ValueError(f"from {start}")

    with pytest.raises(ValueError, match="from"):
        threads.in_spans(8, 1, work)
    assert blas_threads() == before
    done: list[int] = []
    threads.in_spans(8, 1, lambda a, b: done.append(b - a))
    assert sum(done) == 8


def test_without_what_limits_the_blas_spans_run_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    threads._blas.cache_clear()
    done: list[int] = []
    threads.in_spans(8, 1, lambda a, b: done.append(b - a))
    threads._blas.cache_clear()
    assert sum(done) == 8 and len(done) == 4
