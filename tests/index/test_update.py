"""Indices that grow with their store: the same answers as a full build, old bytes kept, and nothing in silence."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import IndexUnusableError, InputError
from engine.index import build as build_module
from engine.index.build import build_index
from engine.index.drift import Drift, crowding, quotient
from engine.index.manifest import grown, read_index_manifest, write_index_manifest
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.index.update import update_index
from engine.index.verify import verify_index
from engine.store.compact import compact_store
from engine.store.manifest import row_state, write_document
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, Array, clustered, files_below, flip_bit, make_store, oracle_scores, recall
from tests.index.removal import mark_removed
from tests.index.test_tuned import TUNED

DATA = {"fc7": clustered(3000, 32, seed=5), "fc8": clustered(3000, 16, seed=6)}
IDS = np.random.default_rng(3).permutation(3000) + 50  # not ascending: rows stay where they were added
SPEC = IndexSpec(layer="fc7", rows_per_shard=1100)


def append(store: Store, data: dict[str, Array], ids: Any) -> Store:
    """Rows at the end of a store, as an ingest adds them."""
    with StoreWriter(store.path, {name: rows.shape[1] for name, rows in data.items()}, append=True) as writer:
        writer.write(writer.reserve(len(ids)), ids.astype(np.int64), data)
        writer.finish(["more"])
    return Store.open(store.path)


def first(rows: slice) -> dict[str, Array]:
    return {name: data[rows] for name, data in DATA.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 2,000 rows with an index of fc7 in two shards; tests copy it before they touch it."""
    store = make_store(tmp_path_factory.mktemp("made") / "store", first(np.s_[:2000]), IDS[:2000])
    build_index(store, SPEC, device=CPU)
    return store.path


@pytest.fixture
def store(made, tmp_path):
    shutil.copytree(made, tmp_path / "store")
    return Store.open(tmp_path / "store")


@pytest.fixture
def longer(store):
    return append(store, first(np.s_[2000:]), IDS[2000:])


def searched(path: Path, queries: Array, **settings: int) -> SearchResult:
    return Index.open(path, device=CPU).search(queries, SearchSpec.model_validate({"k": 10, **settings}))


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("refine", ["uint8", "uint4", "float16", "none"])
def test_recall_after_growing_by_half_is_that_of_a_full_build(tmp_path, metric, refine):
    store = make_store(tmp_path / "store", first(np.s_[:2000]), IDS[:2000])
    spec = IndexSpec(layer="fc7", metric=metric, refine=refine, rows_per_shard=1100)
    build_index(store, spec, device=CPU)
    store = append(store, first(np.s_[2000:]), IDS[2000:])
    grew = update_index(store, "fc7", device=CPU)
    full = build_index(store, spec, device=CPU, name="full")
    assert (grew.added, grew.manifest.rows, grew.reused) == (1000, 3000, False)
    queries = clustered(3000, 32, seed=5)[::30] + np.float32(0.01)
    truth = np.array([np.sort(oracle_scores(query, DATA["fc7"], metric))[::-1][:10] for query in queries])
    found = {path: recall(searched(path, queries).scores, truth) for path in (grew.path, full.path)}
    assert found[grew.path] > 0.9
    assert found[grew.path] >= found[full.path] - 0.01
    assert not verify_index(grew.path).damage
    assert verify_index(grew.path).stale is None


def test_shards_with_room_are_filled_and_what_was_learned_and_coded_stays(longer):
    path = longer.path / "indices" / "fc7"
    before, old = files_below(path), read_index_manifest(path)
    codes = {name: np.load(path / f"{name}.npy") for name in ("sketch", "refine", "sketch_scale", "refine_scale")}
    assert [(shard.start, shard.stop) for shard in old.shards] == [(0, 1000), (1000, 2000)]
    manifest = update_index(longer, "fc7", device=CPU).manifest
    assert [(shard.start, shard.stop) for shard in manifest.shards] == [(0, 1000), (1000, 2100), (2100, 3000)]
    after = files_below(path)
    assert set(after) == {*manifest.parts, "index.json"}
    assert all(after[name] == before[name] for name in ("axes.npy", "shard-0000.faiss"))
    for name, codes_before in codes.items():
        rows = np.load(path / f"{name}.npy")
        if name.endswith("scale"):
            rows, codes_before = rows.T, codes_before.T
        assert len(rows) == 3000
        np.testing.assert_array_equal(rows[:2000], codes_before)
    assert manifest.spec == old.spec
    assert manifest.training["built_rows"] == 2000


def test_grown_in_steps_every_row_is_found(store):
    """Steps as small as one row: the last shard is filled, and no step makes a shard while it has room."""
    for rows in (np.s_[2000:2001], np.s_[2001:2400], np.s_[2400:3000]):
        store = append(store, first(rows), IDS[rows])
        report = update_index(store, "fc7", device=CPU)
    assert [(shard.start, shard.stop) for shard in report.manifest.shards] == [(0, 1000), (1000, 2100), (2100, 3000)]
    found = searched(report.path, DATA["fc7"], probes=10_000, rerank=200)
    np.testing.assert_array_equal(found.photo_ids[:, 0], IDS)
    assert report.manifest.training["built_rows"] == 2000


def test_what_was_tuned_is_kept_while_the_new_rows_are_few_and_alike(store, monkeypatch):
    path = store.path / "indices" / "fc7"
    write_index_manifest(path, read_index_manifest(path).model_copy(update={"tuned": TUNED}))
    store = append(store, first(np.s_[2000:2600]), IDS[2000:2600])
    report = update_index(store, "fc7", device=CPU)
    assert not report.untuned and report.manifest.tuned == TUNED.model_copy(update={"rows": 2000})
    index = Index.open(path, device=CPU, store=store)
    assert index.settings(SearchSpec()) == (TUNED.default.probes, TUNED.default.rerank)
    # Unlike those before: a full build is recommended, and what was measured tells nothing about it.
    store = append(store, first(np.s_[2600:]), IDS[2600:])
    monkeypatch.setattr(Drift, "advice", lambda drift: "made up")
    unlike = update_index(store, "fc7", device=CPU)
    assert unlike.untuned and unlike.manifest.tuned is None
    assert not verify_index(path).damage


def test_what_was_tuned_is_dropped_where_more_joined_than_there_was(store):
    path = store.path / "indices" / "fc7"
    measured = TUNED.model_copy(update={"rows": 1100})
    write_index_manifest(path, read_index_manifest(path).model_copy(update={"tuned": measured}))
    store = append(store, first(np.s_[2000:2200]), IDS[2000:2200])
    assert not update_index(store, "fc7", device=CPU).untuned
    store = append(store, first(np.s_[2200:2201]), IDS[2200:2201])
    report = update_index(store, "fc7", device=CPU)
    assert report.untuned and report.manifest.tuned is None
    assert report.drift and not report.drift.advice()
    with pytest.raises(InputError, match="nobody knows yet what this index needs"):
        Index.open(path, device=CPU).settings(SearchSpec(recall=0.9))


def test_nothing_new_changes_nothing(store):
    path = store.path / "indices" / "fc7"
    before = files_below(store.path)
    report = update_index(mark_removed(store, [1, 5]), "fc7", device=CPU)
    assert (report.added, report.reused, report.drift) == (0, True, None)
    assert files_below(path) == {
        name.removeprefix("indices/fc7/"): digest for name, digest in before.items() if name.startswith("indices/fc7/")
    }


def test_removed_photos_stay_out(longer):
    gone = np.arange(0, 3000, 3)
    store = mark_removed(longer, gone)
    path = update_index(store, "fc7", device=CPU).path
    found = searched(path, DATA["fc7"][gone[::5]])
    assert not np.isin(found.photo_ids, IDS[gone]).any()
    assert (found.photo_ids >= 0).all()


def test_an_exact_index_grows(tmp_path):
    store = make_store(tmp_path / "store", {"fc7": DATA["fc7"][:100]}, IDS[:100])
    path = build_index(store, IndexSpec(layer="fc7"), device=CPU).path
    store = append(store, {"fc7": DATA["fc7"][100:150]}, IDS[100:150])
    report = update_index(store, "fc7", device=CPU)
    assert (report.added, report.drift) == (50, None)
    np.testing.assert_array_equal(searched(path, DATA["fc7"][100:150]).photo_ids[:, 0], IDS[100:150])


# What is not proved to be the same rows ---------------------------------------------------------------------------


def compacted(store: Store) -> None:
    mark_removed(store, [3])
    compact_store(store.path)


def other_row(store: Store) -> None:
    """As `ingest --replace` leaves a store: a block has another checksum, and the state follows."""
    manifest = store.manifest
    layer = manifest.layers["fc7"]
    layers = {**manifest.layers, "fc7": layer.model_copy(update={"xxh3": ["0" * 16, *layer.xxh3[1:]]})}
    state = row_state(manifest.photo_ids_xxh3, manifest.block_rows, layers)
    changed = manifest.model_copy(update={"layers": layers, "state": state})
    write_document(store.path / "manifest.json", changed.model_dump(mode="json"))


@pytest.mark.parametrize("change", [compacted, other_row])
def test_rows_that_were_rewritten_want_a_full_build(store, change):
    change(store)
    store = append(Store.open(store.path), first(np.s_[2000:]), IDS[2000:])
    path = store.path / "indices" / "fc7"
    before = files_below(path)
    assert not grown(read_index_manifest(path), store.manifest, store.photo_ids)
    with pytest.raises(IndexUnusableError, match=r"cannot be updated: .*Build it anew: mirsearch build .* --layer fc7"):
        update_index(store, "fc7", device=CPU)
    assert files_below(path) == before


def test_fewer_rows_are_no_growth(store, longer):
    build_index(longer, SPEC, device=CPU)
    manifest = read_index_manifest(longer.path / "indices" / "fc7")
    assert not grown(manifest, store.manifest, store.photo_ids)
    assert not grown(manifest, longer.manifest, longer.photo_ids)


def test_an_index_that_is_not_there(store):
    with pytest.raises(IndexUnusableError, match="no such index"):
        update_index(store, "fc8", device=CPU)
    assert not list((store.path / "indices").glob(".fc8*"))


@pytest.mark.parametrize("name", ["axes.npy", "shard-0000.faiss", "shard-0001.faiss", "sketch.npy", "sketch_scale.npy",
                                  "refine.npy", "refine_scale.npy"])  # fmt: skip
def test_damage_of_the_old_files_is_not_carried_on(longer, name):
    path = longer.path / "indices" / "fc7"
    flip_bit(path / name, (path / name).stat().st_size * 8 - 3)
    before = files_below(path)
    with pytest.raises(IndexUnusableError, match=rf"{name}: does not match its checksum"):
        update_index(longer, "fc7", device=CPU)
    assert files_below(path) == before
    assert [entry.name for entry in path.parent.iterdir() if entry.is_dir()] == ["fc7"]


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("phase", ["check rows", "add rows"])
def test_interrupted_it_leaves_the_old_index_and_the_next_one_is_whole(longer, monkeypatch, phase, exchange):
    path = longer.path / "indices" / "fc7"
    if not exchange:
        monkeypatch.setattr(build_module, "exchange", lambda *_: False)
    before = files_below(path)

    def listener(name, done, total, *, unit="rows", detail=""):
        if name == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        update_index(longer, "fc7", device=CPU, progress=listener)
    assert files_below(path) == before
    assert update_index(longer, "fc7", device=CPU).added == 1000
    assert not verify_index(path).damage


# Drift ------------------------------------------------------------------------------------------------------------


def test_rows_like_those_before_them_do_not_drift(longer):
    drift = update_index(longer, "fc7", device=CPU).drift
    assert drift is not None
    assert drift.rows == 1000
    assert drift.growth == 1.5
    assert drift.advice() is None
    assert 0.8 < drift.lists < 1.2


def test_rows_of_another_kind_do(tmp_path):
    spread = np.zeros((2000, 32), np.float32)
    spread[:, :8] = clustered(2000, 8, seed=5)
    store = make_store(tmp_path / "store", {"fc7": spread})
    build_index(store, IndexSpec(layer="fc7", reduced=8), device=CPU)
    other = np.random.default_rng(0).standard_normal((600, 32)).astype(np.float32)
    drift = update_index(append(store, {"fc7": other}, np.arange(600) + 10**6), "fc7", device=CPU).drift
    assert drift is not None
    assert drift.reduction > 100  # three quarters of their length lie where the axes are not
    assert drift.lists > 1.2
    assert "axes lose" in (drift.advice() or "")
    assert drift.crowding < 2


def test_rows_in_few_lists_crowd(longer, store):
    same = np.repeat(DATA["fc7"][:1], 400, axis=0)
    more = {"fc7": same, "fc8": DATA["fc8"][:400]}
    drift = update_index(append(longer, more, np.arange(400) + 10**6), "fc7", device=CPU).drift
    assert drift is not None
    # 1,000 rows as ever and 400 in one list of 50: the chance to share a list is at least (400 / 1,400)².
    assert drift.crowding > 2
    assert "crowd" in (drift.advice() or "")


def test_advice_has_bounds_and_none_of_few_rows():
    fine: dict[str, Any] = {"reduction": 1.0, "lists": 1.0, "crowding": 1.0, "growth": 1.0, "rows": 1000}
    assert Drift(**fine).advice() is None
    for changed, word in (("reduction", "axes"), ("lists", "far"), ("crowding", "crowd")):
        assert word in (Drift(**{**fine, changed: 2.1}).advice() or "")
        assert Drift(**{**fine, changed: 2.1, "rows": 100}).advice() is None
    assert "times the rows" in (Drift(**{**fine, "growth": 4.1, "rows": 3}).advice() or "")


def test_crowding_is_one_when_rows_lie_evenly_and_the_lists_when_all_lie_in_one():
    sizes = np.bincount(np.random.default_rng(0).integers(0, 64, 500), minlength=64)
    assert abs(crowding(sizes) - 1) < 0.15
    assert crowding(np.eye(64, dtype=np.int64)[3] * 500) == 64
    assert crowding(np.zeros(64, np.int64)) == 1
    assert quotient(0.0, 0.0) == 1
