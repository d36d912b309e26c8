"""The one file that speaks FAISS: what it builds and finds on the CPU, and what it refuses before a GPU would."""

import hashlib
from functools import cache
from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError, IndexUnusableError
from engine.index import ivfpq
from engine.index.spec import IndexSpec
from kernels import Device, Metric

CPU, CUDA = Device(kind="cpu"), Device(kind="cuda", gpus=(0,))
DIM, ROWS, FIRST = 32, 1500, 7_000_000_000  # row numbers past 32 bits
METRICS: tuple[Metric, ...] = ("cosine", "ip", "l2")


def spec_of(metric: Metric = "cosine", bits: Any = 8, **more: Any) -> IndexSpec:
    chosen: dict[str, Any] = {"reduced": DIM, "lists": 8, "pq_m": 16, "pq_bits": bits, "seed": 3, **more}
    return IndexSpec(layer="fc7", metric=metric, **chosen)


def clustered(metric: Metric, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows (1500, 32) float32 around 40 centres; of unit length for cosine, as the reduction makes them."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((40, DIM))[rng.integers(0, 40, ROWS)] * 3 + rng.standard_normal((ROWS, DIM))
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


@cache
def trained(metric: Metric, bits: int, device: Device = CPU) -> Any:
    return ivfpq.train(clustered(metric), spec_of(metric, bits), device)


def filled(metric: Metric, bits: int, device: Device = CPU) -> Any:
    rows, shard = clustered(metric), ivfpq.empty_copy(trained(metric, bits, device), device)
    ivfpq.add(shard, rows[:600], FIRST)
    ivfpq.add(shard, rows[600:], FIRST + 600)
    return shard


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("metric", METRICS)
def test_finds_near_rows_by_their_global_numbers(metric, bits):
    rows, shard = clustered(metric), filled(metric, bits)
    queries = rows[:100]
    closeness, found = ivfpq.search(shard, queries, 30, probes=8)
    assert closeness.shape == found.shape == (100, 30)
    assert found.dtype == np.int64 and found.min() >= FIRST and found.max() < FIRST + ROWS
    assert all(len(set(line)) == 30 for line in found.tolist())
    assert (np.diff(closeness, axis=1) <= 0).all()  # best first, higher is better, for every metric
    dots = queries.astype(np.float64) @ rows.T.astype(np.float64)
    true = dots if metric == "ip" else 2 * dots - (rows.astype(np.float64) ** 2).sum(axis=1)
    nearest = FIRST + np.argsort(-true, axis=1)[:, :10]
    hits = np.mean([len(set(a) & set(b)) for a, b in zip(nearest.tolist(), found.tolist(), strict=True)]) / 10
    assert hits > 0.9  # of the true ten, among thirty codes
    if metric != "ip":
        expected = true - (queries.astype(np.float64) ** 2).sum(axis=1)[:, None]
        best = np.take_along_axis(expected, found[:, :1] - FIRST, axis=1)
        assert (closeness <= 1e-4).all() and np.abs(closeness[:, :1] - best).mean() < 0.1 * np.abs(expected).mean()


@pytest.mark.parametrize("bits", [4, 8])
def test_absent_rows_are_minus_one(bits):
    rows = clustered("cosine")
    shard = ivfpq.empty_copy(trained("cosine", bits), CPU)
    ivfpq.add(shard, rows[:5], 0)
    _, found = ivfpq.search(shard, rows[:3], 8, probes=100)  # more probes than lists are all of them
    assert all(sorted(line) == [-1, -1, -1, 0, 1, 2, 3, 4] for line in found.tolist())


def test_more_probes_find_more():
    rows, shard = clustered("cosine"), filled("cosine", 8)
    seen = [(ivfpq.search(shard, rows[:50], ROWS, probes=probes)[1] >= 0).sum() for probes in (1, 3, 8)]
    assert seen[0] < seen[1] < seen[2] == 50 * ROWS


def test_copies_share_nothing():
    rows = clustered("cosine")
    template = trained("cosine", 8)
    one, two = ivfpq.empty_copy(template, CPU), ivfpq.empty_copy(template, CPU)
    ivfpq.add(one, rows[:10], 0)
    assert (template.ntotal, one.ntotal, two.ntotal) == (0, 10, 0)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_same_seed_gives_the_same_file(bits, tmp_path):
    def digest(seed: int) -> str:
        rows = clustered("cosine")
        shard = ivfpq.train(rows, spec_of(bits=bits, seed=seed, pq_m=4), CPU)
        ivfpq.add(shard, rows, 0)
        ivfpq.save(shard, tmp_path / "shard.faiss")
        return hashlib.sha256((tmp_path / "shard.faiss").read_bytes()).hexdigest()

    assert digest(5) == digest(5) != digest(6)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_saved_shard_answers_as_before(bits, tmp_path):
    rows, shard = clustered("l2"), filled("l2", bits)
    ivfpq.save(shard, tmp_path / "shard.faiss")
    again = ivfpq.load(tmp_path / "shard.faiss", CPU)
    for before, after in zip(ivfpq.search(shard, rows[:9], 5, 4), ivfpq.search(again, rows[:9], 5, 4), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("length", [0, 3, 100, -1000, -1])
def test_a_file_cut_short_is_refused(length, tmp_path):
    path = tmp_path / "shard.faiss"
    ivfpq.save(filled("cosine", 8), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(IndexUnusableError, match=r"shard\.faiss: FAISS cannot read it .*Build the index again"):
        ivfpq.load(path, CPU)


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "shard.faiss"
    path.write_bytes(b"no index at all" * 100)
    with pytest.raises(IndexUnusableError, match=r"shard\.faiss: FAISS cannot read it"):
        ivfpq.load(path, CPU)
    with pytest.raises(IndexUnusableError, match="nowhere"):
        ivfpq.load(tmp_path / "nowhere.faiss", CPU)


def test_4_bit_codes_are_refused_on_cuda_in_so_many_words(tmp_path):
    ivfpq.save(filled("cosine", 4), tmp_path / "shard.faiss")
    with pytest.raises(IndexUnusableError) as caught:
        ivfpq.load(tmp_path / "shard.faiss", CUDA)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "shard.faiss"))
    assert "4-bit FastScan" in text and "--device cpu" in text and "8-bit" in text


def test_4_bits_are_refused_before_training_on_cuda():
    with pytest.raises(EngineError, match=r"--bits 4: .*8-bit codes only.*--bits 8, or --device cpu"):
        ivfpq.check_gpu_spec(spec_of(bits=4))


@pytest.mark.parametrize(
    ("reduced", "m", "nearest"),
    [(256, 128, 64), (248, 62, 8), (200, 50, 40), (256, 256, 64), (1000, 25, 20), (31, 31, 1)],
)
def test_check_gpu_spec_names_the_nearest_legal_m(reduced, m, nearest):
    with pytest.raises(EngineError, match=rf"--pq-m {m}: .*nearest that fits is {nearest}\."):
        ivfpq.check_gpu_spec(spec_of(reduced=reduced, pq_m=m))


@pytest.mark.parametrize(("reduced", "m"), [(256, 64), (256, 32), (96, 96), (1000, 40), (7, 1)])
def test_check_gpu_spec_takes_what_a_gpu_takes(reduced, m):
    ivfpq.check_gpu_spec(spec_of(reduced=reduced, pq_m=m))


@pytest.mark.parametrize("dim", [8, 100, 1000, 4096, 4095])
@pytest.mark.parametrize("rows", [2_000, 100_000])
def test_what_is_chosen_for_cuda_passes_its_check(rows, dim):
    ivfpq.check_gpu_spec(IndexSpec(layer="fc7").resolved(rows=rows, dim=dim, device="cuda"))


def test_no_gpus_in_a_cpu_build():
    count, problem = ivfpq.gpu_count()
    if hasattr(ivfpq.faiss(), "StandardGpuResources"):
        assert bool(count) != bool(problem)
    else:
        assert (count, problem) == (0, "this FAISS is a CPU build")


def test_a_cpu_build_that_claims_gpus_is_not_believed(monkeypatch):
    """`get_num_gpus` is there in CPU builds too: what counts is whether GPU indices are."""
    if hasattr(ivfpq.faiss(), "StandardGpuResources"):
        pytest.skip("this FAISS is a GPU build")
    monkeypatch.setattr(ivfpq.faiss(), "get_num_gpus", lambda: 4)
    assert ivfpq.gpu_count()[0] == 0


def test_too_few_training_rows_are_one_clear_line():
    with pytest.raises(EngineError, match="FAISS could not train: "):
        ivfpq.train(clustered("l2")[:3], spec_of("l2"), CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("metric", METRICS)
def test_trained_on_the_gpu_it_finds_the_same(metric, tmp_path):
    if not ivfpq.gpu_count()[0]:
        pytest.skip(f"no GPU for FAISS: {ivfpq.gpu_count()[1]}")
    rows, shard = clustered(metric), filled(metric, 8, CUDA)
    ivfpq.save(shard, tmp_path / "shard.faiss")
    on_cpu, on_gpu = (ivfpq.load(tmp_path / "shard.faiss", device) for device in (CPU, CUDA))
    near, theirs = ivfpq.search(on_cpu, rows[:100], 30, 8), ivfpq.search(on_gpu, rows[:100], 30, 8)
    same = np.mean([len(set(a) & set(b)) for a, b in zip(near[1].tolist(), theirs[1].tolist(), strict=True)]) / 30
    assert same > 0.97 and theirs[1].min() >= FIRST
    np.testing.assert_allclose(near[0][:, 0], theirs[0][:, 0], rtol=1e-2, atol=1e-3)
    with pytest.raises(EngineError, match="at most 2048 of each"):
        ivfpq.search(on_gpu, rows[:1], 2049, 8)
