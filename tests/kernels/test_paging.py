"""Rows of a map that are not in memory are asked for together, and nothing else changes."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from kernels import Codes, Step, load

numba = pytest.importorskip("numba")
cpu_rerank, paging = pytest.importorskip("kernels.cpu_rerank"), pytest.importorskip("kernels.paging")

ROWS, DIM = 512, 1024  # of one page each


@pytest.fixture
def rows(tmp_path: Path) -> np.memmap:
    """Mapped rows, none of which is in memory."""
    file = tmp_path / "rows"
    np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32).tofile(file)
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system forgets no files")
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    mapped = np.memmap(file, np.float32, "r", shape=(ROWS, DIM))
    if in_memory(mapped).any():
        pytest.skip("this file system keeps its files in memory")
    return mapped


def in_memory(rows: np.memmap) -> np.ndarray:
    """Whether each page of a map is (`man 2 mincore`)."""
    seen = np.zeros(-(-rows.nbytes // mmap.PAGESIZE), np.uint8)
    where = [ctypes.c_void_p(rows.ctypes.data), ctypes.c_size_t(rows.nbytes), ctypes.c_void_p(seen.ctypes.data)]
    assert ctypes.CDLL(None).mincore(*where) == 0
    return (seen & 1).astype(bool)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="plain Python asks for nothing")
def test_what_is_asked_for_comes_into_memory_and_no_more(rows):
    paging.ask_for(rows, np.array([[3, -1, 400], [77, 3, -1]]))
    for row in (3, 77, 400):
        rows[row].sum()  # waits for what is under way
    here = in_memory(rows)[:: DIM * 4 // mmap.PAGESIZE]
    assert here[[3, 77, 400]].all() and here.sum() == 3


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_codes_of_every_kind_can_be_asked_for(dtype):
    paging.ask_for(np.ones((5, 7), dtype), np.array([[0, 4, -1]]))


def test_reading_from_a_disk_is_noticed(rows):
    paging.disk_was_read()
    assert not paging.disk_was_read()
    rows.sum()
    assert paging.disk_was_read()
    assert not paging.disk_was_read()  # once is enough; what is in memory now may have gone again by the next look


@pytest.mark.parametrize("missing", [True, False])
def test_answers_are_the_same_wherever_the_rows_are(rows, monkeypatch, missing):
    monkeypatch.setattr(cpu_rerank, "disk_was_read", lambda: missing)
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((150, DIM)).astype(np.float32)
    candidates = rng.integers(-1, ROWS, (150, 30))
    kernels, oracle = load("cpu"), load("reference")
    steps = [Step(queries, kernels.quantize(np.asarray(rows), "uint8"), 10), Step(queries, Codes(rows), 5)]
    found, scores = kernels.cascade(candidates, steps, "cosine")
    expected, best = oracle.cascade(candidates, steps, "cosine")
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, best, rtol=1e-5)
