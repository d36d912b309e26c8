"""Work in processes: everything is done once, jobs are asked for as they are needed, errors come home."""

import os
from collections.abc import Iterator

import pytest

from engine.errors import InputError
from engine.store.processes import BLAS_THREADS, apart


def work(number: int) -> tuple[int, int, str]:
    if number < 0:
        raise InputError(f"{number}: expected 0 or more")
    return number * number, os.getpid(), os.environ[BLAS_THREADS[0]]


def test_every_job_is_done_once_elsewhere_and_few_are_asked_for_ahead():
    asked: list[int] = []
    ahead: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(12):
            asked.append(number)
            yield number

    found = {}
    for job, (square, process, threads) in apart(work, jobs(), 2):
        found[job] = square
        ahead.append(len(asked) - len(found))
        assert process != os.getpid() and threads == "1"
    assert found == {number: number * number for number in range(12)}
    assert max(ahead) <= 3


def test_what_a_job_raises_is_raised_here():
    with pytest.raises(InputError, match="-1: expected 0 or more"):
        list(apart(work, [1, -1], 1))
