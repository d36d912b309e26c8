"""Shards on GPUs, pretended ones: trained, filled, copied there and back by their own thread, within their memory."""

import gc

import numpy as np
import pytest

from engine.errors import DeviceError, IndexUnusableError
from engine.index import ivfpq
from engine.index.gpu_limits import Shape, shard_bytes
from engine.index.gpu_rows import bits_from
from engine.index.gpu_shard import shape_of
from engine.index.spec import IndexSpec
from tests.index.gpu_shards import CPU, DIM, FIRST, LISTS, ROWS, cuda, files, machine_of, rows, trained

LIBRARIES = ("faiss", "cuvs")
SPEC = IndexSpec(layer="fc7", metric="l2", reduced=DIM, lists=LISTS, pq_m=8, pq_bits=8, seed=4)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("inside", [False, True])
def test_built_on_a_gpu_it_is_what_the_cpu_builds(library, inside, tmp_path, monkeypatch):
    """The pretended GPU learns by the CPU's code: the files are the same to the byte, but for settings of training."""
    wanted = ivfpq.train(rows(), SPEC, CPU)
    ivfpq.add(wanted, rows(), FIRST)
    with machine_of(monkeypatch) as machine:
        given = machine.cupy.asarray(rows()) if inside else rows()
        learned = ivfpq.train(given, SPEC, cuda(library=library))
        shard = ivfpq.empty_copy(learned, cuda(library=library), ROWS)
        ivfpq.add(shard, given[:700], FIRST)
        ivfpq.add(shard, given[700:], FIRST + 700)
        assert shard.ntotal == ROWS and ivfpq.fewest([shard], 3) == 0  # not known after additions
        np.testing.assert_array_equal(ivfpq.list_sizes(shard), ivfpq.list_sizes(wanted))
        found = ivfpq.search(shard, rows(1)[:20], 30, 5)
        ivfpq.save(shard, tmp_path / "shard.faiss")
        ivfpq.save(shard, tmp_path / "again.faiss")
        del shard, given
    assert (tmp_path / "shard.faiss").read_bytes() == (tmp_path / "again.faiss").read_bytes()
    back = ivfpq.load(tmp_path / "shard.faiss", CPU)
    for ours, theirs in zip(found, ivfpq.search(back, rows(1)[:20], 30, 5), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(found[1], ivfpq.search(wanted, rows(1)[:20], 30, 5)[1])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_join_a_shard_that_was_opened(library, streamed, tmp_path, monkeypatch):
    (path,) = files(tmp_path, 1)
    more = rows(6)[:100]
    wanted = ivfpq.load(path, CPU)
    ivfpq.add(wanted, more, FIRST + ROWS)
    with machine_of(monkeypatch, 2) as machine:
        device = cuda(0, 1, library=library, replicate=True)
        shard = ivfpq.load(path, device)
        if streamed:
            shard.host, shard.copies, shard.streamed = ivfpq.load(path, CPU), {}, {0: False, 1: False}
            if library == "cuvs":
                from engine.index.gpu_rows import renumber

                renumber(shard.host, -FIRST)
        ivfpq.add(shard, machine.cupy.asarray(more), FIRST + ROWS)
        found = ivfpq.search(shard, rows(1)[:20], 30, 16)
        ivfpq.save(shard, tmp_path / "more.faiss")
        sizes = ivfpq.list_sizes(shard)
        del shard
    again = ivfpq.load(tmp_path / "more.faiss", CPU)
    for index in (wanted, again):
        np.testing.assert_array_equal(found[1], ivfpq.search(index, rows(1)[:20], 30, 16)[1])
        np.testing.assert_array_equal(sizes, ivfpq.list_sizes(index))


def test_memory_is_spoken_for_as_long_as_a_shard_lives(tmp_path, monkeypatch):
    paths = files(tmp_path, 2)
    with machine_of(monkeypatch) as machine:
        from engine.index.gpu import gpu_of

        device = cuda(memory=8 << 20)
        own = gpu_of(0, device.gpu)
        opened = ivfpq.load_all(paths, device)
        sizes = [shard_bytes(shape_of(index), index.ntotal, "faiss") for index in ivfpq.load_all(paths, CPU)]
        assert own.held == sum(sizes)
        assert machine.used[0] - own.temporary <= own.held
        del opened
        gc.collect()
        own.lane().run("wait", lambda: None)
        assert own.held == 0 and machine.used[0] == own.temporary == 1 << 20


def test_a_shard_larger_than_the_memory_is_one_line(tmp_path, monkeypatch):
    paths = files(tmp_path, 2)
    with machine_of(monkeypatch, 2), pytest.raises(
        DeviceError, match=r"cuda:0,1: a shard of [\d,]+ bytes, room for [\d,]+ for shards is left\. Raise --gpu-memory"
    ):  # fmt: skip
        ivfpq.load_all(paths, cuda(0, 1, memory=20_000))


def test_a_shard_that_grows_past_the_memory_is_one_line(monkeypatch):
    with machine_of(monkeypatch):
        shard = ivfpq.empty_copy(trained(), cuda(memory=200_000))
        with pytest.raises(DeviceError, match=r"cuda:0: a shard of [\d,]+ rows takes .* are left\. Raise --gpu-memory"):
            for start in range(0, 100 * ROWS, ROWS):
                ivfpq.add(shard, rows(), start)
        del shard


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_the_formula_is_never_less_than_what_is_taken(library, metric, tmp_path, monkeypatch):
    for count in (1, 3):
        for path in files(tmp_path, count, metric):
            with machine_of(monkeypatch) as machine:
                shard = ivfpq.load(path, cuda(library=library))
                (copy,) = shard.copies.values()
                taken = copy.lane.run("measure", copy.index.bytes)
                said = shard_bytes(shard.shape, shard.ntotal, library)
                assert taken <= said <= 2 * taken
                assert machine.used[0] <= copy.gpu.memory
                del shard, copy


def test_the_formula_of_a_large_shard_is_near_its_codes():
    shape = Shape(dim=256, lists=4096, m=64, bits=8)
    for library in ("faiss", "cuvs"):
        said = shard_bytes(shape, 1_000_000, library)
        assert 72_000_000 + 4_194_304 <= said <= 1.4 * 72_000_000


def test_codes_that_a_library_does_not_take_are_refused_before_they_are_copied(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    spec = IndexSpec(layer="fc7", metric="l2", reduced=20, lists=4, pq_m=10, pq_bits=8)
    sample = rng.standard_normal((600, 20)).astype("f4")
    shard = ivfpq.train(sample, spec, CPU)
    ivfpq.save(shard, tmp_path / "ten.faiss")
    with machine_of(monkeypatch) as machine:
        with pytest.raises(IndexUnusableError, match=r"ten\.faiss: --pq-m 10: .*The nearest that fits is"):
            ivfpq.load(tmp_path / "ten.faiss", cuda())
        assert machine.uploads == []
        opened = ivfpq.load(tmp_path / "ten.faiss", cuda(library="cuvs"))
        assert (ivfpq.search(opened, sample[:2], 3, 4)[1] == -1).all()  # and it is empty
        del opened


def test_codes_of_four_bits_by_cuvs(monkeypatch, tmp_path):
    spec = IndexSpec(layer="fc7", metric="l2", reduced=DIM, lists=LISTS, pq_m=16, pq_bits=4)
    with machine_of(monkeypatch):
        device = cuda(library="cuvs")
        shard = ivfpq.empty_copy(ivfpq.train(rows(), spec, device), device)
        ivfpq.add(shard, rows(), 0)
        found = ivfpq.search(shard, rows()[:50], 5, LISTS)[1]
        assert (found == np.arange(50)[:, None]).any(axis=1).mean() > 0.9
        ivfpq.save(shard, tmp_path / "four.faiss")
        del shard
    np.testing.assert_array_equal(
        ivfpq.search(ivfpq.load(tmp_path / "four.faiss", CPU), rows()[:50], 5, LISTS)[1], found
    )


@pytest.mark.parametrize("first", [0, 1, 7, 8, 13])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 64, 87])
def test_bits_of_a_part(first, count):
    mask = np.random.default_rng(first).random(100) < 0.5
    part = bits_from(np.packbits(mask, bitorder="little"), first, count)
    assert part.dtype == np.uint8 and len(part) == -(-count // 8)
    np.testing.assert_array_equal(np.unpackbits(part, bitorder="little")[:count], mask[first : first + count])
