"""A store from a file of vectors: its rows, ids, order, queries; and nothing at all when anything is wrong."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DiskFullError, EngineError, InputError, StoreError
from engine.jobs.import_vectors import ImportSpec, import_vectors
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import clustered, files_below, make_store

ROWS = clustered(700, 24)
TEST = clustered(9, 24, seed=1)
NEAR = np.random.default_rng(0).permuted(np.tile(np.arange(700), (9, 1)), axis=1)[:, :20]


def saved(path: Path, rows: Any = ROWS) -> Path:
    np.save(path, rows)
    return path


def bench_file(path: Path, distance: str = "angular") -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = distance
        file["train"], file["test"], file["neighbors"] = ROWS, TEST, NEAR.astype("i4")
        file["distances"] = np.sort(NEAR, axis=1).astype("f4")
    return path


def taken(file: Path, store: Path, **options: Any) -> Any:
    return import_vectors(ImportSpec(file=file, layer=options.pop("layer", "v"), **options), store)


def test_a_store_has_the_rows_in_the_order_of_the_file(tmp_path):
    report = taken(saved(tmp_path / "v.npy"), tmp_path / "s", layer="my-layer_2")
    store = Store.open(tmp_path / "s")
    assert store.layer("my-layer_2").tobytes() == ROWS.tobytes() and list(store.layers) == ["my-layer_2"]
    assert store.photo_ids.tolist() == list(range(700))
    assert store.manifest.block_rows == [256, 256, 188] and store.manifest.sources == [str(tmp_path / "v.npy")]
    assert (report.rows, report.dim, report.photos, report.dtype) == (700, 24, 700, "float32")
    assert not report.warnings and not verify_store(tmp_path / "s").damage
    assert not list((tmp_path / "s").glob("*.part"))


def test_the_same_rows_give_the_same_files_from_every_format(tmp_path):
    saved(tmp_path / "v.npy")
    (tmp_path / "v.fbin").write_bytes(np.array([700, 24], "<u4").tobytes() + ROWS.tobytes())
    lists = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 24)
    pq.write_table(pa.table({"v": lists}), tmp_path / "v.parquet", row_group_size=37)
    stores = []
    for suffix in ("npy", "fbin", "parquet"):
        taken(tmp_path / f"v.{suffix}", tmp_path / suffix)
        found = files_below(tmp_path / suffix)
        del found["manifest.json"]  # names its source
        stores.append(found)
    assert stores[0] == stores[1] == stores[2] and len(stores[0]) >= 3


def test_ids_come_from_a_file_or_a_column(tmp_path):
    ids = np.random.default_rng(1).permutation(10**6)[:700]
    np.save(tmp_path / "ids.npy", ids)
    taken(saved(tmp_path / "v.npy"), tmp_path / "a", ids=tmp_path / "ids.npy")
    pq.write_table(pa.table({"photo": ids, "v": list(ROWS)}), tmp_path / "v.parquet")
    taken(tmp_path / "v.parquet", tmp_path / "b", id_column="photo")
    for name in "ab":
        store = Store.open(tmp_path / name)
        assert (store.photo_ids == ids).all() and store.layer("v").tobytes() == ROWS.tobytes()


def test_queries_and_truth_come_along_as_photo_ids(tmp_path):
    ids = np.arange(700)[::-1] * 3
    np.save(tmp_path / "ids.npy", ids)
    report = taken(bench_file(tmp_path / "v.hdf5"), tmp_path / "s", ids=tmp_path / "ids.npy")
    assert (report.queries, report.truth, report.warnings) == (9, "cosine", [])
    found = Store.open(tmp_path / "s").query_set("v")
    assert found is not None and found.current and found.metric == "cosine"
    assert (found.queries == TEST).all() and (found.neighbors == ids[NEAR]).all()


def test_vectors_of_an_unknown_metric_are_taken_in_without_truth(tmp_path):
    report = taken(bench_file(tmp_path / "v.hdf5", "jaccard"), tmp_path / "s")
    assert report.queries == 0 and "jaccard" in report.warnings[0]
    assert Store.open(tmp_path / "s").query_set("v") is None and len(Store.open(tmp_path / "s")) == 700


def test_rows_are_appended_with_ids_that_go_on(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(700) * 2)
    taken(saved(tmp_path / "v.npy"), tmp_path / "s", ids=tmp_path / "ids.npy")
    report = taken(saved(tmp_path / "more.npy", ROWS[:300] * 2), tmp_path / "s", append=True)
    store = Store.open(tmp_path / "s")
    assert (report.rows, report.photos) == (300, 1000)
    assert store.layer("v").tobytes() == ROWS.tobytes() + (ROWS[:300] * 2).tobytes()
    assert store.photo_ids.tolist() == [*range(0, 1400, 2), *range(1399, 1699)]
    assert not verify_store(tmp_path / "s").damage


def test_an_appended_truth_is_left_out_and_the_old_one_is_no_longer_current(tmp_path):
    file = bench_file(tmp_path / "v.hdf5")
    taken(file, tmp_path / "s")
    assert "left out" in taken(file, tmp_path / "s", append=True).warnings[0]
    found = Store.open(tmp_path / "s").query_set("v")
    assert found is not None and not found.current


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ids": "twice.npy"}, "row 1 is photo 4, and so is row 0"),
        ({"ids": "short.npy"}, "holds 3 photo ids for 700 vectors"),
        ({"ids": "short.npy", "id_column": "x"}, "choose one"),
        ({"id_column": "x"}, "is no Parquet file"),
        ({"layer": "a/b"}, "--layer 'a/b': expected 1 to 64 letters"),
        ({"layer": "../x"}, "--layer '../x': expected 1 to 64 letters"),
        ({"layer": ""}, "--layer '': expected 1 to 64 letters"),
        ({"layer": "v\n"}, r"--layer 'v\n': expected 1 to 64 letters"),
        ({"layer": "é"}, "--layer 'é': expected 1 to 64 letters"),
        ({"layer": "-v"}, "--layer '-v': expected 1 to 64 letters"),
        ({"layer": "v" * 65}, "vvv...': expected 1 to 64 letters"),
        *(
            ({"layer": name}, f"--layer {name}: a store has a file or word of this name. Choose another, such as my-")
            for name in ("photo_ids", "removed", "manifest", "quarantine", "queries-fc7", "Photo_IDs", "all", "CON")
        ),
        ({"key": "x"}, "--key x"),
        ({"column": "x"}, "--column x"),
        ({"append": True}, "manifest.json: absent"),
    ],
)
def test_a_wrong_option_is_an_error_and_leaves_nothing(tmp_path, options, says):
    np.save(tmp_path / "twice.npy", np.full(700, 4))
    np.save(tmp_path / "short.npy", np.arange(3))
    options = options | ({"ids": tmp_path / options["ids"]} if "ids" in options else {})
    with pytest.raises(EngineError) as error:
        taken(saved(tmp_path / "v.npy"), tmp_path / "s", **options)
    assert says in str(error.value) and not (tmp_path / "s").exists()


def test_a_bad_row_at_the_end_leaves_nothing_and_keeps_the_store_that_was_there(tmp_path):
    rows = ROWS.copy()
    rows[699, 23] = np.nan
    with pytest.raises(InputError, match="row 699, value 23 is nan"):
        taken(saved(tmp_path / "bad.npy", rows), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    taken(saved(tmp_path / "v.npy"), tmp_path / "s")
    before = files_below(tmp_path / "s")
    with pytest.raises(InputError, match="row 699, value 23 is nan"):
        taken(tmp_path / "bad.npy", tmp_path / "s", append=True)
    assert files_below(tmp_path / "s") == before


def test_a_damaged_truth_leaves_nothing(tmp_path):
    with h5py.File(bench_file(tmp_path / "v.hdf5"), "a") as file:
        file["neighbors"][3, 4] = 700
    with pytest.raises(InputError, match="row 3 names 700"):
        taken(tmp_path / "v.hdf5", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_store_that_is_there_is_not_overwritten(tmp_path):
    taken(saved(tmp_path / "v.npy"), tmp_path / "s")
    before = files_below(tmp_path / "s")
    with pytest.raises(StoreError, match="already holds a store"):
        taken(tmp_path / "v.npy", tmp_path / "s")
    for options, says in (
        ({"layer": "w"}, "has the layers v"),
        ({"ids": tmp_path / "ids.npy"}, "row 1 is photo 5, which the store has already"),
    ):
        np.save(tmp_path / "ids.npy", np.array([1000, 5, *range(2000, 2698)]))
        with pytest.raises(InputError, match=says):
            taken(tmp_path / "v.npy", tmp_path / "s", append=True, **options)
    with pytest.raises(StoreError, match=r"holds layers v \(24\), expected v \(5\)"):
        taken(saved(tmp_path / "thin.npy", ROWS[:, :5]), tmp_path / "s", append=True)
    assert files_below(tmp_path / "s") == before


def test_float64_is_rounded_only_when_asked(tmp_path):
    rows = ROWS.astype(np.float64) + 1e-12
    with pytest.raises(InputError, match="--lossy"):
        taken(saved(tmp_path / "v.npy", rows), tmp_path / "s")
    report = taken(tmp_path / "v.npy", tmp_path / "s", lossy=True)
    assert report.dtype == "float64"
    assert Store.open(tmp_path / "s").layer("v").tobytes() == rows.astype(np.float32).tobytes()


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    saved(tmp_path / "v.npy")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=70_000))
    says = r"s: 700 vectors of 24 dimensions need 72\.8 KB, 70\.0 KB are free\. Make room .* --store"
    with pytest.raises(DiskFullError, match=says):
        taken(tmp_path / "v.npy", tmp_path / "new" / "s")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("append", [False, True])
def test_a_disk_that_fills_leaves_things_as_they_were(tmp_path, monkeypatch, append):
    saved(tmp_path / "v.npy")
    if append:
        taken(tmp_path / "v.npy", tmp_path / "s")
    before = files_below(tmp_path)
    write, seen = StoreWriter.write, []

    def full(self, place, *rest, **more):
        seen.append(place)
        if len(seen) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, place, *rest, **more)

    monkeypatch.setattr(StoreWriter, "write", full)
    says = r"s: the disk is full \(No space left on device\)\. Make room .* It needs at least .* KB; what was begun"
    with pytest.raises(DiskFullError, match=says):
        taken(tmp_path / "v.npy", tmp_path / "s", append=append)
    assert len(seen) == 3 and files_below(tmp_path) == before


def test_a_layer_that_is_there_may_have_any_name(tmp_path):
    make_store(tmp_path / "s", {"all": ROWS})
    assert taken(saved(tmp_path / "v.npy"), tmp_path / "s", layer="all", append=True).photos == 1400
