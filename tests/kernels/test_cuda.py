"""What is CUDA's own: blocks of bounded memory, uploads, the choice of a GPU; emulated and, with a GPU, real."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

from kernels import Codes, Kernels, reference
from tests.kernels.arrays import KINDS, assert_same_ranking, codes_of, decoded, records, whole_numbers

FUNCTIONS = [name for name in vars(Kernels) if not name.startswith("_")]


def test_every_kernel_is_there_with_the_signature_of_the_reference(kernels):
    for name in FUNCTIONS:
        assert inspect.signature(getattr(kernels, name)) == inspect.signature(getattr(reference, name)), name


def test_the_real_module_imports_without_a_gpu_and_covers_the_contract():
    pytest.importorskip("cupy", reason="CuPy is not installed")
    program = f"import kernels.cuda as c; assert all(callable(getattr(c, f)) for f in {FUNCTIONS}); print('there')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "there", done.stderr


def test_decode_in_several_uploads(cuda, monkeypatch):
    monkeypatch.setattr(cuda, "_RECORDS_AT_ONCE", 3)
    raw = records(8)
    raw.view("<u4")[7, 5099] = 0x7F800001
    for ours, theirs in zip(decoded(cuda, raw), decoded(reference, raw), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_decode_reuses_a_thread_s_buffers_and_grows_them(cuda):
    for n in (2, 5, 1, 0, 4):
        raw = records(n, seed=n)
        for ours, theirs in zip(decoded(cuda, raw), decoded(reference, raw), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resident", [True, False])
def test_rerank_in_blocks_of_queries(cuda, kind, resident, monkeypatch):
    monkeypatch.setattr(cuda, "_RERANK_BYTES", 3000)
    queries, rows, at = whole_numbers(1, 12, 20, 8, 6)
    at[3:9] = -1  # whole blocks without a candidate
    codes = codes_of(rows, kind)
    found = cuda.rerank(queries, at, cuda.resident(codes) if resident else codes, "l2", 4)
    assert_same_ranking(found, queries, at, codes, "l2", 4, 1e-6)
    assert (found[0][3:9] == -1).all()


def test_rerank_among_no_rows_or_no_candidates(cuda):
    queries = np.ones((3, 4), np.float32)
    for rows, r in ((0, 2), (5, 0)):
        found, scores = cuda.rerank(queries, np.full((3, r), -1), Codes(np.ones((rows, 4), np.float32)), "ip", 2)
        assert (found == -1).all() and np.isneginf(scores).all() and found.shape == (3, 2)


def test_rerank_of_rows_that_begin_anywhere(cuda):
    """A part of a larger array: its rows are not aligned for loads of four values at a time."""
    queries, rows, at = whole_numbers(2, 5, 20, 16, 8)
    for kind in KINDS:
        codes = codes_of(rows, kind)
        values = np.ascontiguousarray(codes.values)
        shifted = np.empty(values.size + 1, values.dtype)
        shifted[1:] = values.reshape(-1)
        device = cuda.resident(Codes(shifted)).values[1:].reshape(values.shape)
        found = cuda.rerank(queries, at, codes._replace(values=device), "ip", 5)
        assert_same_ranking(found, queries, at, codes, "ip", 5, 1e-6)


def test_resident_only_where_there_is_room(cuda, monkeypatch):
    codes = codes_of(np.ones((10, 4), np.float32), "uint8")
    monkeypatch.setattr(cuda, "_UPLOAD_BYTES", 7)  # several pieces
    there = cuda.resident(codes)
    for part, expected in zip(there[:4], codes[:4], strict=True):
        assert isinstance(part, cuda.cupy.ndarray)
        np.testing.assert_array_equal(cuda.cupy.asnumpy(part), expected)
    assert cuda.resident(there).values is there.values
    assert cuda.resident(Codes(codes.values)).low is None
    monkeypatch.setattr(cuda, "_RESIDENT_SHARE", 0)
    assert cuda.resident(codes) is codes


def test_resident_stays_on_the_host_when_the_memory_turns_out_too_small(cuda, monkeypatch):
    def full(rows):
        raise cuda.cupy.cuda.memory.OutOfMemoryError(1, 2, 3)

    monkeypatch.setattr(cuda, "_upload", full)
    codes = codes_of(np.ones((10, 4), np.float32), "uint8")
    assert cuda.resident(codes) is codes


def test_all_functions_run_on_the_gpu_that_was_chosen(cuda, monkeypatch):
    entered = []
    real = cuda.cupy.cuda.Device

    def device(number):
        entered.append(number)
        return real(0)

    monkeypatch.setattr(cuda.cupy.cuda, "Device", device)
    rows = np.ones((2, 4), np.float32)
    cuda.use_gpu(1)
    try:
        cuda.non_finite(rows)
        cuda.project(rows, rows.T, unit=True)
    finally:
        cuda.use_gpu(0)
    cuda.non_finite(rows)
    assert entered == [1, 1, 0]


def test_arrays_on_the_gpu_are_taken_as_they_are(cuda):
    queries, rows, at = whole_numbers(3, 4, 10, 8, 5)
    there = cuda.cupy.asarray
    found = cuda.project(there(rows), there(queries.T), unit=False)
    assert type(found) is np.ndarray
    np.testing.assert_allclose(found, reference.project(rows, queries.T, unit=False), rtol=1e-6)
    found = cuda.rerank(there(queries), there(at), Codes(there(rows)), "ip", 3)
    expected = reference.rerank(queries, at, Codes(rows), "ip", 3)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
