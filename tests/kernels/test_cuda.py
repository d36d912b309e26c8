"""What is CUDA's own: blocks of bounded memory, uploads, the choice of a GPU; emulated and, with a GPU, real."""

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels import Codes, Kernels, Step, reference
from tests.kernels import emulated
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
    monkeypatch.setattr(cuda.cuda_lanes, "RECORDS_AT_ONCE", 3)
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
    monkeypatch.setattr(cuda.cuda_rerank, "RERANK_BYTES", 3000)
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
    monkeypatch.setattr(cuda.cuda_arrays, "UPLOAD_BYTES", 7)  # several pieces
    there = cuda.resident(codes)
    for part, expected in zip(there[:4], codes[:4], strict=True):
        assert isinstance(part, cuda.cupy.ndarray)
        np.testing.assert_array_equal(cuda.cupy.asnumpy(part), expected)
    assert cuda.resident(there).values is there.values
    assert cuda.resident(Codes(codes.values)).low is None
    monkeypatch.setattr(cuda.cuda_arrays, "RESIDENT_SHARE", 0)
    assert cuda.resident(codes) is codes


def test_resident_stays_on_the_host_when_the_memory_turns_out_too_small(cuda, monkeypatch):
    def full(rows):
        raise cuda.cupy.cuda.memory.OutOfMemoryError(1, 2, 3)

    monkeypatch.setattr(cuda.cuda_arrays, "upload", full)
    codes = codes_of(np.ones((10, 4), np.float32), "uint8")
    assert cuda.resident(codes) is codes


def test_what_stays_on_the_gpu_keeps_to_the_limit_of_its_memory(cuda):
    codes = codes_of(np.ones((10, 1000), np.float32), "uint8")
    size = sum(part.nbytes for part in codes if part is not None and not isinstance(part, int))
    for limit, stays in ((size, False), (2 * size, True)):
        cuda.use_gpu(0, limit)
        try:
            assert isinstance(cuda.resident(codes).values, cuda.cupy.ndarray) == stays
        finally:
            cuda.use_gpu(0, 0)


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


def test_results_lie_where_the_first_array_lay(cuda):
    queries, rows, at = whole_numbers(3, 4, 10, 8, 5)
    there, codes = cuda.to_device, cuda.quantize(rows, "uint8")
    of_rows: dict[str, Any] = {
        "normalize": cuda.normalize,
        "project": lambda x: cuda.project(x, queries.T, unit=True),
        "project onto axes there": lambda x: cuda.project(x, there(queries.T), unit=False),
        "quantize": lambda x: cuda.quantize(x, "uint4"),
        "non_finite": cuda.non_finite,
        "nearest": lambda x: cuda.nearest(x, there(rows), "l2", 3),
        "rerank": lambda x: cuda.rerank(x[:4], at, codes, "l2", 3),
        "rerank of none": lambda x: cuda.rerank(x[:4], at[:, :0], codes, "l2", 3),
        "rerank of candidates there": lambda x: cuda.rerank(x[:4], there(at), cuda.resident(codes), "l2", 3),
        "nearest_of": lambda x: cuda.nearest_of(x, lambda: iter([(np.arange(10), rows)]), "cosine", 3),
    }
    for name, work in of_rows.items():
        for ours, theirs in zip(flat(work(there(rows))), flat(work(rows)), strict=True):
            assert isinstance(ours, cuda.cupy.ndarray) and type(theirs) is np.ndarray, name
            np.testing.assert_array_equal(cuda.to_host(ours), theirs, err_msg=name)


def flat(results: Any) -> list[Any]:
    """The arrays of a result: one, or several and what is no array."""
    return [part for part in results if hasattr(part, "shape")] if isinstance(results, tuple) else [results]


def test_a_cascade_lies_where_its_candidates_lay_and_touches_the_host_once(cuda, monkeypatch):
    queries, rows, at = whole_numbers(3, 4, 10, 8, 6)
    steps = [
        Step(queries, cuda.resident(cuda.quantize(rows, "uint8")), 4),
        Step(queries, cuda.resident(Codes(rows)), 2),
    ]
    expected = reference.cascade(at, [Step(queries, Codes(rows), 4), Step(queries, Codes(rows), 2)], "ip")
    waits: list[Any] = []
    real = cuda.cuda_arrays.page_locked

    def page_locked(*args: Any) -> Any:
        waits.append(args)
        return real(*args)

    monkeypatch.setattr(cuda.cuda_arrays, "page_locked", page_locked)
    monkeypatch.setattr(cuda.cupy, "asnumpy", lambda array: pytest.fail("another way to the host"))
    for part, theirs in zip(cuda.cascade(at, steps, "ip"), expected, strict=True):
        assert type(part) is np.ndarray
        np.testing.assert_array_equal(part, theirs)
    assert len(waits) == 2  # both results, waited for at once
    found = cuda.cascade(cuda.to_device(at), steps, "ip")
    assert len(waits) == 2
    monkeypatch.undo()
    for part, theirs in zip(found, expected, strict=True):
        assert isinstance(part, cuda.cupy.ndarray)
        np.testing.assert_array_equal(cuda.to_host(part), theirs)


def test_what_other_libraries_hold_on_the_gpu_is_taken(cuda):
    rows = cuda.to_device(np.arange(12, dtype=np.float32).reshape(3, 4))

    class Foreign:
        """An array of a library that offers DLPack alone, on device type 2 (CUDA)."""

        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, **options):
            return rows if isinstance(cuda.cupy, emulated.Cupy) else rows.__dlpack__(**options)

    found = cuda.to_device(Foreign())
    assert isinstance(found, cuda.cupy.ndarray)
    np.testing.assert_array_equal(cuda.to_host(Foreign()), cuda.to_host(rows))
    assert cuda.to_device(rows) is rows
    turned = cuda.to_device(np.arange(12, dtype=np.float32).reshape(3, 4).T)
    assert turned.flags.c_contiguous and turned.shape == (4, 3)


def test_records_decoded_to_stay(kernels):
    for n in (0, 1, 5):
        raw = records(n)
        ours, theirs = kernels.decode_resident(raw), reference.decode_resident(raw)
        ours.ready.synchronize()
        for part, expected in zip(ours[:5], theirs[:5], strict=True):
            assert isinstance(part, kernels.xp.ndarray) and part.dtype == expected.dtype
            np.testing.assert_allclose(kernels.to_host(part), expected, rtol=2e-7)


def test_decoded_bits_flags_and_norms_at_the_ends_of_float32(kernels):
    raw = records(4)
    words = raw.view("<u4")
    words[0, 5099], words[1, 2], words[2, 0] = 0x7F800001, 0xFF800000, 999
    raw.view("<f4")[3, 1004:], raw.view("<f4")[3, 2:1002] = 1e19, 1e-30
    found = kernels.decode_resident(kernels.to_device(raw))
    fc7, fc8, flags, norms7, norms8 = (kernels.to_host(part) for part in found[:5])
    for ours, theirs in zip((flags, fc7.view("<u4"), fc8.view("<u4")), decoded(reference, raw), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose([norms7[3], norms8[3]], [6.4e20, 1000**0.5 * 1e-30], rtol=1e-6)
    assert np.isnan(norms7[0]) and np.isposinf(norms8[1])


@given(
    scores=arrays(np.float32, (2, 7), elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1e-45, 2.0, np.inf])),
    rows=arrays(
        np.int64, (2, 7), elements=st.sampled_from([-1, 0, 5, (1 << 40) + 1, (1 << 40) + 2, 1 << 62]), fill=st.nothing()
    ),
    keep=st.integers(0, 9),
)
def test_best_first_of_any_line(cuda, scores, rows, keep):
    found, best = cuda.best_first(cuda.to_device(rows), cuda.to_device(scores), keep)
    found, best = cuda.to_host(found), cuda.to_host(best)
    for i in range(2):
        there = np.flatnonzero(rows[i] >= 0)
        order = there[np.lexsort((rows[i][there], -scores[i][there]))][:keep]
        assert found[i].tolist() == [*rows[i][order].tolist(), *[-1] * (keep - len(order))]
        assert best[i].tolist() == [*scores[i][order].tolist(), *[-np.inf] * (keep - len(order))]


@pytest.mark.parametrize("r", [1, 2, 31, 257, 1024, 1025, 3000, 4097])
def test_best_first_of_lines_of_any_length(cuda, r):
    rng = np.random.default_rng(r)
    scores = rng.integers(0, max(r // 3, 2), (2, r)).astype(np.float32)  # many ties
    rows = np.array([rng.permutation(r), rng.permutation(r) + (1 << 33)])
    rows[0, ::5], scores[1, 0] = -1, np.nan
    found, best = (cuda.to_host(x) for x in cuda.best_first(cuda.to_device(rows), cuda.to_device(scores), r))
    scores[1, 0] = -np.inf
    for i in range(2):
        there = np.flatnonzero(rows[i] >= 0)
        order = there[np.lexsort((rows[i][there], -scores[i][there]))]
        assert found[i][: len(order)].tolist() == rows[i][order].tolist() and (found[i][len(order) :] == -1).all()
        assert best[i][: len(order)].tolist() == scores[i][order].tolist()
