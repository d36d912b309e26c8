"""Threads that hand buffers to one another: bounded by the buffers there are, all ended by the first failure.

One lock for all: blocks of megabytes pass some hundred times a second, not more.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Stopped(Exception):
    """What ends the stages of a flow that was stopped, and what its waiting caller gets."""


class Flow:
    """The stages of one job, each some threads, and how long each was at work."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._stopped = False
        self._busy: dict[str, float] = {}
        self._workers: dict[str, int] = {}
        self._started, self._seconds = time.perf_counter(), 0.0

    def start(self, stage: str, work: Callable[[], None], workers: int = 1) -> None:
        """Run `work` on so many threads of their own."""
        self._workers[stage] = workers
        for number in range(workers):
            thread = threading.Thread(target=self._run, args=(work,), name=f"{stage}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:
            with self._changed:
                if not self._stopped:  # the first is the cause; what follows it is not
                    self._failure = error
                self._stop()

    def _stop(self) -> None:
        self._stopped = True
        self._changed.notify_all()

    @contextmanager
    def when(self, ready: Callable[[], object]) -> Iterator[None]:
        """Wait until `ready()`, do the block alone, and let all others look again. Stopped when the flow is."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or ready())
            self.check()
            yield
            self._changed.notify_all()

    def check(self) -> None:
        """Stopped when the flow is: for long work that waits for nobody."""
        if self._stopped:
            raise Stopped

    def end(self) -> None:
        """Stop what still runs, and wait for it. Raises nothing."""
        with self._changed:
            self._stop()
        for thread in self._threads:
            thread.join()
        self._seconds = self._seconds or time.perf_counter() - self._started

    def raise_failure(self) -> None:
        """Raise what stopped the flow, if anything failed. Call after `end`."""
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def at_work(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.count(stage, time.perf_counter() - started)

    def count(self, stage: str, seconds: float) -> None:
        """Count seconds of work for a stage."""
        with self._changed:
            self._busy[stage] = self._busy.get(stage, 0.0) + seconds

    def shares(self) -> dict[str, float]:
        """How busy each stage was, 0 to 1: the time its threads were at work, of the time they had. After `end`."""
        return {
            stage: min(seconds / max(self._seconds * self._workers.get(stage, 1), 1e-9), 1.0)
            for stage, seconds in self._busy.items()
        }


class Pool(Generic[_T]):
    """Buffers that are taken, filled, and given back: who finds none waits."""

    def __init__(self, flow: Flow, buffers: Sequence[_T]) -> None:
        self._flow, self._free = flow, [*buffers]

    def take(self) -> _T:
        """A buffer that nobody uses."""
        with self._flow.when(lambda: self._free):
            return self._free.pop()

    def give(self, buffer: _T) -> None:
        """Let another have a buffer."""
        with self._flow.when(lambda: True):
            self._free.append(buffer)


class InOrder(Generic[_T]):
    """What comes numbered from 0 in any order and is taken in order, by any number of threads."""

    def __init__(self, flow: Flow, total: int) -> None:
        self._flow, self._total, self._next = flow, total, 0
        self._waiting: dict[int, _T] = {}

    def put(self, number: int, item: _T) -> None:
        """Hand over an item."""
        with self._flow.when(lambda: True):
            self._waiting[number] = item

    def take(self) -> tuple[int, _T] | None:
        """The next item with its number, waited for; None after the last."""
        with self._flow.when(lambda: self._next == self._total or self._next in self._waiting):
            if self._next == self._total:
                return None
            number, self._next = self._next, self._next + 1
            return number, self._waiting.pop(number)
