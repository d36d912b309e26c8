"""Duplicates against a brute-force join in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.dedup import DedupSpec, Duplicates, find_duplicates
from engine.jobs.groups import LARGE_CLASS
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


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("lists", [0, 8])
def test_equals_the_exact_join(tmp_path: Path, photos, lists: int, metric: str):
    rows, ids = photos
    index = index_of(tmp_path, rows, ids, lists=lists, metric=metric)
    assert bool(index.shards) == bool(lists)
    # An index for inner products puts long rows first: it must visit more to find all.
    search = SearchSpec(probes=8, rerank=400) if metric == "ip" else None
    # Few neighbours, so that the candidates are fewer than the rows, and the lists are used.
    found = find_duplicates(index, DedupSpec(threshold=0.9, neighbors=8, search=search))
    expected = joined(rows, ids, 0.9)
    assert len(expected) > 100
    pairs = as_dict(found)
    if lists and metric == "ip":  # the short rows' neighbours are not among those with large inner products
        assert len(pairs) >= 0.95 * len(expected)
        expected = {pair: score for pair, score in expected.items() if pair in pairs}
    assert pairs == pytest.approx(expected, abs=1e-6)
    members = {photo for group in found.groups for photo in group.photo_ids}
    assert members <= {photo for pair in expected for photo in pair}
    assert found.photos == 700 and found.grouped == len(members)
    assert found.metric == metric and found.threshold == 0.9


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


@pytest.mark.parametrize("lists", [0, 8])
def test_many_neighbors_above_the_threshold_are_not_cut(tmp_path: Path, photos, lists: int):
    rng = np.random.default_rng(1)
    rows = photos[0].copy()
    rows[100:190] = rows[100] + rng.random((90, DIM)) * 0.5
    found = find_duplicates(index_of(tmp_path, rows, lists=lists), DedupSpec(threshold=0.97, neighbors=4))
    assert as_dict(found).keys() == joined(rows, list(range(700)), 0.97).keys()
    assert found.searched_again >= 90
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
    rows[11] = -rows[11] * 0.0  # minus zeros are other bytes, and their cosine is 0
    found = as_dict(find_duplicates(index_of(tmp_path, rows, lists=4), DedupSpec(threshold=0.0001)))
    assert {pair: score for pair, score in found.items() if {7, 9, 11} & set(pair)} == {(7, 9): 1.0}


def test_one_photo_and_no_duplicates(tmp_path: Path):
    found = find_duplicates(index_of(tmp_path, np.ones((1, 8))))
    assert found.pairs.shape == (0, 2) and found.pairs.dtype == np.int64
    assert found.scores.shape == (0,) and found.scores.dtype == np.float32
    assert found.groups == () and found.photos == 1


@pytest.mark.parametrize("threshold", [0, -0.5, 1.001, float("nan"), float("inf")])
def test_impossible_thresholds(threshold: float):
    with pytest.raises(InputError, match="--threshold"):
        DedupSpec(threshold=threshold)


def test_defaults():
    spec = DedupSpec()
    assert [spec.threshold_for(layer) for layer in ("fc7", "fc8", "other")] == [0.95, 0.975, 0.95]
    assert DedupSpec(threshold=0.5).threshold_for("fc8") == 0.5
    with pytest.raises(InputError, match="--neighbors 0"):
        DedupSpec(neighbors=0)


def test_progress_names_the_phases(tmp_path: Path, photos):
    calls: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        calls.append((phase, done, total))

    find_duplicates(index_of(tmp_path, photos[0]), None, progress)
    assert ("compare checksums", 700, 700) in calls and any(c[0] == "search" and c[1] == c[2] for c in calls)
