"""New photos that are in an old store: against brute force, by both methods, and what is written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import InputError
from engine.index.build import build_index
from engine.index.fused import FusedIndex
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs import dedup_join
from engine.jobs.dedup import DedupSpec
from engine.jobs.dedup_between import find_known, summary_of, write_known
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store
from tests.index.removal import mark_removed

SPEC = DedupSpec(threshold=0.9)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Store, Store]:
    """1,200 old photos and 400 new ones: 1–50 identical to old ones, 51–100 near, 101–110 alike among themselves."""
    rng = np.random.default_rng(4)
    rows = clustered(1600, 24, seed=4)
    old, new = rows[:1200].copy(), rows[1200:].copy()
    old[7] = old[3]  # identical within the old store
    new[1:51] = old[1:51]
    new[51:101] = old[51:101] + rng.standard_normal((50, 24)) * 0.05
    new[101:111] = new[101]
    new[60] = new[59]  # near old 59, twice
    old[1100], new[399] = 0, 0
    first = make_store(tmp_path / "old", {"x": old.astype(np.float32)}, np.arange(1200) * 3)
    second = make_store(tmp_path / "new", {"x": new.astype(np.float32)}, np.arange(400) * 5 + 1)
    build_index(first, IndexSpec(layer="x", lists=8, reduced=8), device=CPU)
    return first, second


def expected(old: Store, new: Store) -> dict[tuple[int, int], float]:
    a, b = (np.asarray(store.x, np.float64) for store in (new, old))
    unit = [rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-30)[:, None] for rows in (a, b)]
    scores = unit[0] @ unit[1].T
    scores[(a[:, None] == b[None]).all(axis=2)] = 1
    found = np.argwhere(scores >= 0.9)
    return {(int(new.photo_ids[i]), int(old.photo_ids[j])): scores[i, j] for i, j in found}


@pytest.mark.parametrize("method", ["index", "exhaustive"])
def test_finds_what_brute_force_finds(stores: tuple[Store, Store], method: Any) -> None:
    old, new = stores
    index = Index.open(old.path / "indices" / "x", device=CPU)
    known = find_known(index, new, DedupSpec(threshold=0.9, method=method))
    every = expected(old, new)
    found = {(a, b): score for (a, b), score in zip(known.pairs.tolist(), known.scores.tolist(), strict=True)}
    assert len(found) == len(known.pairs) >= 100
    assert found.keys() == every.keys()  # identical photos of either store among them
    assert known.unlisted == 0
    assert all(score == pytest.approx(every[pair], abs=1e-6) for pair, score in found.items())
    ids = {new_id for new_id, _ in every}
    assert set(known.known.tolist()) == ids
    assert set(known.unknown.tolist()) == set(new.photo_ids.tolist()) - ids
    exact = {tuple(pair) for pair in known.pairs[known.exact].tolist()}
    assert {(int(new.photo_ids[i]), int(old.photo_ids[i])) for i in range(1, 51) if i != 7} <= exact
    assert {(16, 9), (16, 21), (36, 9), (36, 21)} <= exact  # new 3 and 7 are old 3, as old 7 is
    assert (399 * 5 + 1, 3300) in exact
    assert 296 in known.known and 301 in known.known


@pytest.mark.parametrize("many", [(40, 3), (3, 40), (40, 40)])
def test_many_identical_photos_are_each_with_the_lowest_of_the_other_store(
    tmp_path: Path, many: tuple[int, int]
) -> None:
    """The same numbers are photos of both stores."""
    rows = clustered(300, 24, seed=4).astype(np.float32)
    old, new = rows.copy(), rows[200:260].copy()
    old[: many[0]], new[: many[1]] = rows[0], rows[0]
    old[100], new[50] = rows[0] * np.float32(1.01) + np.float32(0.01), rows[150]
    stores = [
        make_store(tmp_path / name, {"x": part}, np.arange(len(part))) for name, part in (("old", old), ("new", new))
    ]
    build_index(stores[0], IndexSpec(layer="x", lists=4), device=CPU)
    known = find_known(Index.open(stores[0].path / "indices" / "x", device=CPU), stores[1], DedupSpec(threshold=0.999))
    pairs = {tuple(pair) for pair in known.pairs.tolist()}
    expected = {(a, 0) for a in range(many[1])} | {(0, b) for b in range(many[0])}  # the classes
    expected |= {(a, 100) for a in range(many[1])} | {(50, 150)}
    assert {(a, b) for a, b in pairs if a < many[1] or a == 50} >= expected
    assert len(pairs & {(a, b) for a in range(many[1]) for b in range(many[0])}) == sum(many) - 1
    assert known.unlisted == many[0] * many[1] - sum(many) + 1 == summary_of(known)["pairs_not_listed"]
    assert set(range(many[1])) <= set(known.known.tolist())
    assert {tuple(pair) for pair in known.pairs[known.exact].tolist()} >= {
        (0, many[0] - 1),
        (many[1] - 1, 0),
        (50, 150),
    }


def test_neither_store_is_joined_with_itself(stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = stores
    seen: list[np.ndarray] = []
    settled = dedup_join._settled  # what is compared at all

    def watch(task: Any, pairs: Any) -> Any:
        seen.append(pairs)
        return settled(task, pairs)

    monkeypatch.setattr(dedup_join, "_settled", watch)
    find_known(Index.open(old.path / "indices" / "x", device=CPU), new, SPEC)
    pairs = np.concatenate(seen)
    assert len(pairs) > 100 and (pairs[:, 0] < 400).all() and (pairs[:, 1] >= 400).all()


def test_removed_photos_are_neither_known_nor_new(stores: tuple[Store, Store]) -> None:
    old, new = stores
    left_old, left_new = mark_removed(old, [1]), mark_removed(new, [2])
    known = find_known(Index.open(old.path / "indices" / "x", device=CPU, store=left_old), left_new, SPEC)
    told = set(known.known.tolist()) | set(known.unknown.tolist())
    assert new.photo_ids[2] not in told and len(told) == 399
    assert len(known.pairs) and not (known.pairs[:, 1] == old.photo_ids[1]).any()


def test_several_layers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = {name: rng.standard_normal((1100, dim)).astype(np.float32) for name, dim in (("x", 16), ("y", 12))}
    old = make_store(tmp_path / "old", layers, np.arange(1100))
    fresh = {name: rows[:20].copy() for name, rows in layers.items()}
    fresh["y"][10:20] = rng.standard_normal((10, 12))  # alike in one layer alone
    new = make_store(tmp_path / "new", fresh, np.arange(20))
    for layer in layers:
        build_index(old, IndexSpec(layer=layer, lists=4), device=CPU)
    known = find_known(FusedIndex.open(old, ["x", "y"], device=CPU), new, SPEC)
    assert known.pairs.tolist() == [[i, i] for i in range(10)] and known.exact.all()


def test_what_is_written(stores: tuple[Store, Store], tmp_path: Path) -> None:
    old, new = stores
    known = find_known(Index.open(old.path / "indices" / "x", device=CPU), new, SPEC, unfinished=tmp_path / "part")
    (tmp_path / "out").mkdir()
    files = write_known(known, tmp_path / "out")
    table = pq.read_table(files["pairs.parquet"])
    assert table.column_names == ["query_photo_id", "photo_id", "score", "exact"]
    assert table["photo_id"].to_pylist() == known.pairs[:, 1].tolist()
    assert table.schema.metadata == {b"query_store": str(new.path).encode(), b"store": str(old.path).encode()}
    lines = [files[name].read_text().split() for name in ("known.txt", "new.txt")]
    assert [list(map(int, part)) for part in lines] == [known.known.tolist(), known.unknown.tolist()]
    assert json.loads(files["summary.json"].read_text()) == summary_of(known)
    assert summary_of(known)["query_photos"] == 400


def test_stores_that_cannot_be_compared(stores: tuple[Store, Store], tmp_path: Path) -> None:
    old, _ = stores
    index = Index.open(old.path / "indices" / "x", device=CPU)
    with pytest.raises(InputError, match="is the store that is searched"):
        find_known(index, Store.open(old.path))
    with pytest.raises(InputError, match="its x has 5 dimensions, expected 24"):
        find_known(index, make_store(tmp_path / "other", {"x": np.ones((3, 5), np.float32)}))
    with pytest.raises(InputError, match="third: has no layer x, but y"):
        find_known(index, make_store(tmp_path / "third", {"y": np.ones((3, 5), np.float32)}))
