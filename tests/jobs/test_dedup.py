"""Duplicates against a brute-force join in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError, StoreError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.dedup import DedupSpec, Duplicates, Method, find_duplicates
from engine.jobs.identical import LARGE_CLASS
from engine.store.store import Store
from engine.store.synth import features
from engine.store.synth_model import make_block
from engine.store.writer import StoreWriter
from kernels import Device

CPU = Device(kind="cpu")
DIM = 32


def index_of(path: Path, rows: Any, ids: Any = None, **spec: Any) -> Index:
    """An index over rows (n, d), whose photo ids are 0 to n − 1 unless given."""
    rows = np.ascontiguousarray(rows, np.float32)
    layer = spec.setdefault("layer", "fc7")
    with StoreWriter(path, {layer: rows.shape[1]}) as writer:
        given = np.arange(len(rows)) if ids is None else np.asarray(ids, np.int64)
        writer.write(writer.reserve(len(rows)), given, {layer: rows})
        writer.finish([])
    return Index.open(build_index(Store.open(path), IndexSpec(**spec), device=CPU).path, device=CPU)


def joined(rows: Any, ids: Any, threshold: float) -> dict[tuple[int, int], float]:
    """Every pair of photo ids with a cosine of at least the threshold, or with equal bytes."""
    wide = np.asarray(rows, np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1))
    unit = wide / np.where(lengths > 0, lengths, 1)[:, None]
    scores = np.clip(unit @ unit.T, -1, 1)
    scores[(rows[:, None] == rows[None]).all(axis=2)] = 1
    found = zip(*np.nonzero(np.triu(scores >= threshold, 1)), strict=True)
    return {(min(ids[a], ids[b]), max(ids[a], ids[b])): scores[a, b] for a, b in found}


def as_dict(duplicates: Duplicates) -> dict[tuple[int, int], float]:
    found = {(a, b): score for (a, b), score in zip(duplicates.pairs.tolist(), duplicates.scores.tolist(), strict=True)}
    assert len(found) == len(duplicates.pairs) and all(a < b for a, b in found)
    return found


@pytest.fixture(scope="module")
def photos():
    """700 rows, a third of them altered copies of others with cosines from 0.9 to 1, and ids in no order."""
    rng = np.random.default_rng(5)
    rows = np.abs(rng.standard_normal((700, DIM))).astype(np.float32)
    rows = np.where(rng.random(rows.shape) < 0.6, 0, rows * 40)
    noise = rng.standard_normal((230, DIM)) * np.linspace(0, 20, 230)[:, None]
    rows[470:] = np.maximum(rows[rng.integers(0, 470, 230)] + noise, 0) * rng.uniform(0.8, 1.3, (230, 1))
    rows[690:] = rows[:10]
    order = rng.permutation(700)
    return rows[order].astype(np.float32), rng.permutation(9_000)[:700]


METHODS: tuple[Method, ...] = ("index", "exhaustive")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("lists", [0, 8])
def test_equals_the_exact_join(tmp_path: Path, photos, lists: int, metric: str, method: Any):
    rows, ids = photos
    index = index_of(tmp_path, rows, ids, lists=lists, metric=metric, reduced=8)
    assert bool(index.shards) == bool(lists)
    found = find_duplicates(index, DedupSpec(threshold=0.9, method=method))
    expected = joined(rows, ids, 0.9)
    assert len(expected) > 100
    assert as_dict(found) == pytest.approx(expected, abs=1e-6)
    members = {photo for group in found.groups for photo in group.photo_ids}
    assert members == {photo for pair in expected for photo in pair}
    assert found.photos == 700 and found.grouped == len(members)
    assert found.metric == metric and found.threshold == 0.9 and found.method == method


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_index_equals_exhaustive_equals_brute_force(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """Rows of any sizes, near each other or not, at any threshold: nothing is missed and nothing is made up."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 20)))
    n, dim = data.draw(st.integers(16, 120)), data.draw(st.integers(8, 40))
    rows = rng.standard_normal((n, dim)) * 10.0 ** rng.integers(-12, 12, (n, 1))
    for _ in range(data.draw(st.integers(0, 60))):
        a, b = rng.integers(0, n, 2)
        rows[a] = rows[b] * rng.uniform(0.1, 9) + rng.standard_normal(dim) * np.abs(rows[b]).max() * rng.choice(
            [0, 0.05, 0.3]
        )
    rows[rng.random(n) < 0.05] = 0
    rows = rows.astype(np.float32)
    threshold = data.draw(st.sampled_from([0.2, 0.6, 0.9, 0.98, 1.0]))
    path = tmp_path_factory.mktemp("rows")
    index = index_of(
        path / "store", rows, lists=data.draw(st.sampled_from([1, 3])), reduced=data.draw(st.sampled_from([4, 8]))
    )
    expected = joined(rows, range(n), threshold)
    wide = joined(rows, range(n), threshold - 1e-6)
    for method in METHODS:
        found = as_dict(find_duplicates(index, DedupSpec(threshold=threshold, method=method)))
        # Of a score just at the threshold either answer is right.
        assert found.keys() <= wide.keys()
        assert {pair for pair, score in expected.items() if score > threshold + 1e-6 or score == 1} <= found.keys() | {
            pair for pair in expected if threshold == 1 and not (rows[pair[0]] == rows[pair[1]]).all()
        }
        assert all(found[pair] == pytest.approx(wide[pair], abs=1e-6) for pair in found)


def test_planted_duplicates_of_the_sample_collection_are_all_found(tmp_path: Path):
    """Against the exact join of 2,000 photos; 20,000 photos gave a pair recall of 1 too, in both layers."""
    rows = features(0, 2000, seed=3)[1]
    planted = [pair for number in (0, 1) for pair in make_block(3, number).pairs]
    found = find_duplicates(index_of(tmp_path, rows, layer="fc8", lists=32))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = np.triu(unit @ unit.T, 1)
    pairs = as_dict(found)
    assert {(a, b) for a, b in np.argwhere(scores >= found.threshold + 1e-6).tolist()} <= set(pairs)
    assert all(scores[a, b] >= found.threshold - 1e-6 for a, b in pairs)
    sure = [(pair.of, pair.photo_id) for pair in planted if pair.kind in ("exact", "near-strong")]
    assert len(sure) >= 60 and set(sure) <= set(pairs)
    bursts = {(pair.of, pair.photo_id) for pair in planted if pair.kind == "burst"}
    assert bursts and not bursts & set(pairs)


@pytest.mark.parametrize("method", METHODS)
def test_many_photos_that_are_all_alike_lose_none(tmp_path: Path, photos, method: Any):
    rng = np.random.default_rng(1)
    rows = photos[0].copy()
    rows[100:190] = rows[100] + rng.random((90, DIM)) * 0.5
    found = find_duplicates(index_of(tmp_path, rows, lists=8), DedupSpec(threshold=0.97, method=method))
    assert as_dict(found).keys() == joined(rows, list(range(700)), 0.97).keys()
    assert set(range(100, 190)) <= set(found.groups[0].photo_ids)


@pytest.mark.parametrize("lists", [0, 8])
def test_a_large_class_of_equal_rows_is_one_group_and_few_pairs(tmp_path: Path, photos, lists: int):
    rows = photos[0].copy()
    rows[300:500] = rows[300]
    rows[600] = rows[300] * 1.01 + 0.05
    found = find_duplicates(index_of(tmp_path, rows, lists=lists), DedupSpec(threshold=0.99))
    largest = found.groups[0]
    assert largest.representative == 300
    assert set(range(300, 500)) | {600} <= set(largest.photo_ids)
    pairs = as_dict(found)
    assert {(300, other) for other in range(301, 500)} <= {pair for pair, score in pairs.items() if score == 1}
    assert (301, 302) not in pairs and (300, 600) in pairs and (301, 600) in pairs
    assert len(pairs) < 500


def test_a_small_class_of_equal_rows_has_every_pair(tmp_path: Path, photos):
    rows = photos[0][:100].copy()
    rows[:LARGE_CLASS] = rows[0]
    found = find_duplicates(index_of(tmp_path, rows), DedupSpec(threshold=1.0))
    assert as_dict(found).keys() == joined(rows, list(range(100)), 1 - 1e-9).keys()
    assert found.copies.tolist()[:2] == [[1, 0], [2, 0]]


def test_zero_rows_are_duplicates_of_each_other_alone(tmp_path: Path, photos):
    rows = photos[0][:300].copy()
    rows[[7, 9]] = 0
    rows[11] = -rows[11] * 0.0  # minus zeros are the same numbers
    index = index_of(tmp_path, rows, lists=4)
    for method in METHODS:
        found = as_dict(find_duplicates(index, DedupSpec(threshold=0.0001, method=method)))
        zeros = {pair: score for pair, score in found.items() if {7, 9, 11} & set(pair)}
        assert zeros == {(7, 9): 1.0, (7, 11): 1.0, (9, 11): 1.0}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_that_is_not_finite_is_named_and_nothing_is_answered(tmp_path: Path, photos, method, bad):
    index = index_of(tmp_path, photos[0][:300], np.arange(300) * 2, lists=4)
    rows = np.lib.format.open_memmap(tmp_path / "fc7.npy", "r+")
    rows[211, 5] = bad  # damaged since the index was built
    rows.flush()
    with pytest.raises(StoreError, match=r"photo 422 \(row 211 of fc7\) holds NaN or infinity"):
        find_duplicates(index, DedupSpec(threshold=0.9, method=method))


def test_one_photo_and_no_duplicates(tmp_path: Path):
    found = find_duplicates(index_of(tmp_path, np.ones((1, 8))))
    assert found.pairs.shape == (0, 2) and found.pairs.dtype == np.int64
    assert found.scores.shape == (0,) and found.scores.dtype == np.float32
    assert found.groups == () and found.photos == 1


@pytest.mark.parametrize("threshold", [0, -0.5, 1.001, float("nan"), float("inf")])
def test_impossible_thresholds(threshold: float):
    with pytest.raises(InputError, match="--threshold"):
        DedupSpec(threshold=threshold)


@pytest.mark.parametrize("wrong", [{"false_pairs": 0}, {"false_pairs": 1}, {"threshold": 0.9, "false_pairs": 0.1}])
def test_impossible_rates(wrong: dict[str, float]):
    with pytest.raises(InputError, match="--false-pairs"):
        DedupSpec(**wrong)  # type: ignore[arg-type]


def test_groups_of_no_such_kind():
    with pytest.raises(InputError, match="--groups chains: expected one of medoid, complete, components"):
        DedupSpec(groups="chains")  # type: ignore[arg-type]


def test_progress_names_the_phases(tmp_path: Path, photos):
    calls: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        calls.append((phase, done, total))

    find_duplicates(index_of(tmp_path, photos[0]), None, progress)
    assert ("read the rows", 700, 700) in calls and any(c[0] == "compare" and c[1] == c[2] for c in calls)
