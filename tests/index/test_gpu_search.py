"""Searching shards on GPUs, pretended ones: the same answers wherever they lie, in the order of streams."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kernels
from engine.errors import DeviceError, EngineError
from engine.index import ivfpq, shards
from engine.index.gpu_limits import shard_bytes
from engine.index.gpu_shard import shape_of
from kernels import Codes, Step
from kernels.device import GpuLibrary
from tests.index.gpu_shards import CPU, DIM, FIRST, ROWS, cuda, expected, files, machine_of, rows
from tests.kernels import emulated

LIBRARIES = ("faiss", "cuvs")


def room_for(paths: list[Path], shards_of_it: int, library: GpuLibrary = "faiss") -> int:
    """A --gpu-memory with room for so many of the largest shard, and for FAISS's temporary memory."""
    some = ivfpq.load_all(paths, CPU)
    largest = max(shard_bytes(shape_of(shard), shard.ntotal, library) for shard in some)
    return int(shards_of_it * largest * 8 / 6) + 64


def same(found: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("replicate", [False, True])
@pytest.mark.parametrize(("gpus", "peers"), [(1, True), (2, True), (2, False)])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("fitting", [None, 2, 1])
def test_answers_are_the_same_wherever_shards_lie(
    library, replicate, gpus, peers, count, fitting, tmp_path, monkeypatch
):
    paths, queries = files(tmp_path, count), rows(1)[:37]
    wanted = expected(paths, queries, 50, 5)
    memory = None if fitting is None else room_for(paths, fitting, library)
    with machine_of(monkeypatch, gpus, peers=peers) as machine:
        device = cuda(*range(gpus), memory=memory, library=library, replicate=replicate)
        opened = ivfpq.load_all(paths, device)
        same(ivfpq.search_all(opened, queries, 50, 5), wanted)
        inside = ivfpq.search_all(opened, machine.cupy.asarray(queries), 50, 5)
        assert all(isinstance(part, machine.cupy.ndarray) for part in inside)
        same([machine.cupy.asnumpy(part) for part in inside], wanted)
        one = ivfpq.search(opened[0], queries, 9, 16)
        if memory is not None:
            assert max(machine.peak) <= memory
            assert any(shard.streamed for shard in opened) == (
                fitting < (count if replicate or gpus == 1 else -(-count // 2))
            )
        assert not np.isinf(one[0]).any()
        del opened, inside, one


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_either_metric_and_every_list(library, metric, tmp_path, monkeypatch):
    paths, queries = files(tmp_path, 2, metric), rows(2)[:5]
    wanted = expected(paths, queries, 800, 16)
    with machine_of(monkeypatch):
        opened = ivfpq.load_all(paths, cuda(library=library))
        found = ivfpq.search_all(opened, queries, 800, 1_000)  # more lists than there are: all
        same(found, wanted)
        assert (found[1] >= FIRST).all() and found[1].max() < FIRST + ROWS  # more candidates than a shard has rows
        del opened


@pytest.mark.parametrize("library", LIBRARIES)
def test_absent_rows_are_minus_one(library, tmp_path, monkeypatch):
    paths = files(tmp_path, 3)
    with machine_of(monkeypatch):
        opened = ivfpq.load_all(paths, cuda(library=library))
        closeness, found = ivfpq.search_all(opened, rows()[:4], 1200, 1)
        same((closeness, found), expected(paths, rows()[:4], 1200, 1))
        assert (found[:, -1] == -1).all() and np.isneginf(closeness[:, -1]).all()
        assert ivfpq.search_all(opened, rows()[:0], 10, 2)[1].shape == (0, 10)
        del opened


def test_shards_of_which_one_fits_at_a_time_are_copied_one_after_the_other(tmp_path, monkeypatch):
    paths = files(tmp_path, 3)
    with machine_of(monkeypatch) as machine:
        opened = ivfpq.load_all(paths, cuda(memory=room_for(paths, 1)))
        ivfpq.search_all(opened, rows()[:3], 10, 4)
        assert len(machine.uploads) == 3 and len({thread for _, thread in machine.uploads}) == 1
        del opened


def test_while_a_shard_is_searched_the_next_is_copied_by_another_thread(tmp_path, monkeypatch):
    paths = files(tmp_path, 3)
    with machine_of(monkeypatch) as machine:
        memory = room_for(paths, 2)
        opened = ivfpq.load_all(paths, cuda(memory=memory))
        assert machine.uploads == []  # none stays: both places are for those that come
        ivfpq.search_all(opened, rows()[:3], 10, 4)
        assert len(machine.uploads) == 3
        assert machine.peak[0] <= memory
        second = opened[0].device.gpus[0]
        from engine.index.gpu import gpu_of

        lanes = [gpu_of(second, opened[0].device.gpu).lane(i) for i in range(2)]
        assert lanes[0]._thread is not lanes[1]._thread
        del opened, lanes


def test_filters_of_cuvs_count_rows_of_each_shard(tmp_path, monkeypatch):
    paths, queries = files(tmp_path, 3), rows(3)[:20]
    mask = np.zeros(FIRST + ROWS, np.bool_)
    mask[FIRST:] = np.random.default_rng(1).random(ROWS) < 0.3
    bits = np.packbits(mask, bitorder="little")
    wanted = expected(paths, queries, 30, 6, bits)
    with machine_of(monkeypatch):
        device = cuda(library="cuvs")
        assert ivfpq.filters(device) and not ivfpq.filters(cuda())
        opened = ivfpq.load_all(paths, device)
        found = ivfpq.search_all(opened, queries, 30, 6, bits)
        same(found, wanted)
        assert mask[found[1][found[1] >= 0]].all()
        del opened
        opened = ivfpq.load_all(paths, cuda())
        with pytest.raises(AssertionError, match="would be ignored"):
            ivfpq.search_all(opened, queries, 30, 6, bits)
        del opened


def test_a_lane_waits_for_the_caller_and_the_caller_for_the_lane(tmp_path, monkeypatch):
    paths = files(tmp_path, 1)
    with machine_of(monkeypatch) as machine:
        opened = ivfpq.load_all(paths, cuda())
        queries = machine.cupy.asarray(rows()[:3])
        machine.log.clear()
        ivfpq.search_all(opened, queries, 10, 4)
        assert machine.log == [
            ("caller", "record"), ("lane 0", "wait for caller"), ("lane 0", "record"), ("caller", "wait for lane 0"),
        ]  # fmt: skip
        del opened


@pytest.mark.parametrize(("library", "most"), [("faiss", 2048), ("cuvs", 16384)])
def test_more_than_a_gpu_takes_is_one_line(library, most, tmp_path, monkeypatch):
    paths = files(tmp_path, 1)
    with machine_of(monkeypatch):
        device = cuda(library=library)
        opened = ivfpq.load_all(paths, device)
        assert (ivfpq.most_candidates(device, 1 << 30), ivfpq.most_probes(device, 1 << 30)) == (most, most)
        with pytest.raises(EngineError, match=f"--rerank {most + 1}, .*at most {most} of each"):
            ivfpq.search_all(opened, rows()[:1], most + 1, 4)
        assert ivfpq.search_all(opened, rows()[:1], most, 4)[1].shape == (1, most)
        del opened


def test_a_gpu_out_of_memory_is_one_line_and_the_search_after_it_works(tmp_path, monkeypatch):
    paths = files(tmp_path, 3)
    with machine_of(monkeypatch) as machine:
        opened = ivfpq.load_all(paths, cuda(memory=room_for(paths, 1)))
        before, machine.memory = machine.memory, machine.used[0] + 1000
        with pytest.raises(
            DeviceError,
            match=r"cuda:0: not enough memory to search: asked for [\d,]+ bytes,"
            r" [\d,]+ of [\d,]+ bytes are free\. Lower --gpu-memory, .*--rows-per-shard.*--device cpu",
        ):
            ivfpq.search_all(opened, rows()[:3], 10, 4)
        assert ("pool", "free") in machine.log  # what CuPy keeps was given back, and it was tried again
        machine.memory = before
        same(ivfpq.search_all(opened, rows()[:3], 10, 4), expected(paths, rows()[:3], 10, 4))
        del opened


@pytest.mark.parametrize("inside", [False, True])
def test_more_lists_where_they_hold_too_few(inside, tmp_path, monkeypatch):
    paths, queries = files(tmp_path, 2), rows(4)[:30]
    visit = shards.Visit(count=300, probes=1, most=16)
    wanted = shards.enough_candidates(ivfpq.load_all(paths, CPU), queries, visit, 200)
    assert ((wanted >= 0).sum(axis=1) >= 200).all()
    with machine_of(monkeypatch) as machine:
        opened = ivfpq.load_all(paths, cuda())
        asked = machine.cupy.asarray(queries) if inside else queries
        found = shards.enough_candidates(opened, asked, visit, 200)
        assert isinstance(found, machine.cupy.ndarray) == inside
        np.testing.assert_array_equal(np.sort(machine.cupy.asnumpy(found), axis=1), np.sort(wanted, axis=1))
        fewest = ivfpq.fewest(opened, 3)
        sizes = [np.sort(ivfpq.list_sizes(shard))[:3].sum() for shard in opened]
        assert fewest == sum(sizes) > 0
        del opened, found


@pytest.mark.parametrize("inside", [False, True])
def test_removed_rows_are_left_out(inside, tmp_path, monkeypatch):
    paths, queries = files(tmp_path, 2), rows(5)[:25]
    mask = np.zeros(FIRST + ROWS, np.bool_)
    mask[FIRST::2] = True
    removed = shards.Removed(mask=mask, least=11, most=1500)
    wanted, wanting = shards.present_candidates(ivfpq.load_all(paths, CPU), queries, 40, 4, removed)
    with machine_of(monkeypatch) as machine:
        opened = ivfpq.load_all(paths, cuda())
        asked = machine.cupy.asarray(queries) if inside else queries
        found, unsure = shards.present_candidates(opened, asked, 40, 4, removed)
        assert isinstance(found, machine.cupy.ndarray) == inside
        found, unsure = machine.cupy.asnumpy(found), machine.cupy.asnumpy(unsure)
        np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(wanted, axis=1))
        np.testing.assert_array_equal(unsure, wanting)
        assert not mask[found[found >= 0]].any()
        del opened


def test_a_whole_search_stays_on_the_device(tmp_path, monkeypatch):
    """Queries up, projected, searched and compared exactly, results down: nothing waits in between."""
    paths, queries = files(tmp_path, 2), rows(7)[:20]
    axes = np.linalg.qr(np.random.default_rng(8).standard_normal((DIM, DIM)))[0].astype("f4")
    held = np.zeros((FIRST + ROWS, DIM), np.float32)
    held[FIRST:] = rows()
    step = Step(queries, Codes(held), 10)
    on_cpu = kernels.load("reference")
    visit = shards.Visit(count=50, probes=6, most=6)
    candidates = shards.enough_candidates(
        ivfpq.load_all(paths, CPU), on_cpu.project(queries, axes, unit=False), visit, 11
    )
    wanted = on_cpu.cascade(candidates, [step], "l2")
    with machine_of(monkeypatch) as machine:
        on_gpu = emulated.load()
        opened = ivfpq.load_all(paths, cuda())
        asked = on_gpu.to_device(queries)
        machine.log.clear()
        candidates = shards.enough_candidates(opened, on_gpu.project(asked, axes, unit=False), visit, 11)
        found = on_gpu.cascade(candidates, [Step(asked, on_gpu.resident(Codes(held)), 10)], "l2")
        assert all(isinstance(part, machine.cupy.ndarray) for part in (candidates, *found))
        assert ("lane 0", "synchronize") not in machine.log
        found = [on_gpu.to_host(part) for part in found]
        del opened, asked, candidates
    assert (found[0] == wanted[0]).mean() > 0.95  # the projection rounds otherwise
    np.testing.assert_allclose(found[1][:, 0], wanted[1][:, 0], rtol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES)
def test_threads_that_search_at_once_wait_for_each_other(library, tmp_path, monkeypatch):
    paths, queries = files(tmp_path, 3), rows(9)[:8]
    wanted = expected(paths, queries, 20, 5)
    with machine_of(monkeypatch, 2) as machine:
        memory = room_for(paths, 2, library)
        opened = ivfpq.load_all(paths, cuda(0, 1, memory=memory, library=library, replicate=True))
        assert opened[0].streamed
        with ThreadPoolExecutor(4) as threads:
            futures = [threads.submit(ivfpq.search_all, opened, queries, 20, 5) for _ in range(12)]
        for future in futures:
            same(future.result(), wanted)
        assert max(machine.peak) <= memory
        del opened, futures, future


@pytest.mark.gpu
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("fitting", [None, 2, 1])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_on_a_gpu_that_is_there(library, fitting, metric, tmp_path):
    if not ivfpq.gpu_count()[0] or (library == "cuvs" and not ivfpq.has_cuvs()):
        pytest.skip("this FAISS has no such GPU part")
    from engine.index.gpu import close, cupy

    paths, queries = files(tmp_path, 3, metric), rows(1)[:100]
    mask = np.zeros(FIRST + ROWS, np.bool_)
    mask[FIRST::3] = True
    bits = np.packbits(mask, bitorder="little")
    close()  # the limit of another test is forgotten
    memory = None if fitting is None else room_for(paths, fitting, library)
    opened = ivfpq.load_all(paths, cuda(memory=memory, library=library))
    assert any(shard.streamed for shard in opened) == (fitting is not None)
    for asked in (queries, cupy().asarray(queries)):
        for chosen in (None, bits) if library == "cuvs" else (None,):
            closeness, found = map(cupy().asnumpy, ivfpq.search_all(opened, asked, 30, 8, chosen))
            near, true = expected(paths, queries, 30, 8, chosen)
            shared = [len(set(a) & set(b)) / 30 for a, b in zip(found.tolist(), true.tolist(), strict=True)]
            assert np.mean(shared) > 0.97
            np.testing.assert_allclose(closeness[:, 0], near[:, 0], rtol=1e-2, atol=1e-2)
            assert chosen is None or mask[found[found >= 0]].all()
    del opened
    close()
