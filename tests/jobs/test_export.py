"""What is written for others: rows, ids, queries and truth, checked with their own libraries and by brute force."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest

from engine.errors import DiskFullError, EngineError, InputError
from engine.jobs.export import ExportSpec, export
from engine.jobs.import_vectors import ImportSpec, import_vectors
from engine.store.manifest import Removed
from engine.store.store import Store
from tests.builders import CPU, clustered, files_below, flip_bit, make_store
from tests.store.formats.samples import WHOLE, decoded

ROWS = clustered(400, 16)
IDS = np.arange(400)[::-1] * 5 + 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"layer": ROWS, "other": ROWS[:, :4]}, IDS)


def without(store: Store, rows: Any) -> Store:
    """The store with these rows marked as gone."""
    mask = np.zeros(len(store), np.bool_)
    mask[rows] = True
    removed = Removed(count=int(mask.sum()), xxh3="0" * 16)
    manifest = store.manifest.model_copy(update={"removed": removed})
    return replace(store, manifest=manifest, removed=mask)


def write(store: Store, out: Path, **options: Any) -> Any:
    return export(store, ExportSpec(layer="layer", out=out, **options), device=CPU)


def ivecs(path: Path) -> Any:
    data = np.fromfile(path, "<i4")
    return data.reshape(-1, data[0] + 1)[:, 1:]


def nearest(queries: Any, rows: Any, k: int, metric: str) -> Any:
    """Positions (q, k) and scores of the nearest rows, by brute force in float64."""
    q, r = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        scores = -((q[:, None] - r[None]) ** 2).sum(axis=2)
    else:
        scores = q @ r.T
        if metric == "cosine":
            scores /= np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(r, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".fvecs", ".fbin", ".parquet"])
def test_a_layer_is_written_as_it_is(tmp_path, store, suffix):
    report = write(store, tmp_path / f"v{suffix}")
    assert decoded(tmp_path / f"v{suffix}").tobytes() == ROWS.tobytes()
    assert (report.rows, report.dim, report.queries) == (400, 16, 0)
    assert report.bytes == (tmp_path / f"v{suffix}").stat().st_size


@pytest.mark.parametrize("suffix", WHOLE)
def test_whole_numbers_become_integers(tmp_path, suffix):
    rows = np.arange(400 * 3, dtype=np.float32).reshape(400, 3) % 100
    write(make_store(tmp_path / "s", {"layer": rows}), tmp_path / f"v{suffix}")
    assert (decoded(tmp_path / f"v{suffix}") == rows).all()


def test_removed_photos_are_left_out_and_ids_lie_beside(tmp_path, store):
    gone = without(store, [0, 17, 18, 399])
    left = np.setdiff1d(np.arange(400), [0, 17, 18, 399])
    for suffix in (".npy", ".txt", ".ivecs"):
        report = write(gone, tmp_path / "v.fbin", ids=tmp_path / f"ids{suffix}")
        assert report.rows == 396 and decoded(tmp_path / "v.fbin").tobytes() == ROWS[left].tobytes()
    assert np.load(tmp_path / "ids.npy").tolist() == IDS[left].tolist()
    assert [int(line) for line in (tmp_path / "ids.txt").read_text().split()] == IDS[left].tolist()
    assert ivecs(tmp_path / "ids.ivecs").reshape(-1).tolist() == IDS[left].tolist()


@pytest.mark.parametrize(
    ("metric", "name"), [("cosine", "angular"), ("l2", "euclidean"), ("ip", "ip"), (None, "angular")]
)
@pytest.mark.parametrize("removed", [[], [3, 200]])
def test_an_hdf5_holds_queries_that_train_does_not_and_their_true_neighbours(tmp_path, store, metric, name, removed):
    asked = without(store, removed) if removed else store
    report = write(asked, tmp_path / "v.hdf5", queries=25, k=12, metric=metric, ids=tmp_path / "ids.npy")
    with h5py.File(tmp_path / "v.hdf5") as file:
        train, test, near, far = (file[key][:] for key in ("train", "test", "neighbors", "distances"))
        assert file.attrs["distance"] == name and file.attrs["dimension"] == 16
    present = np.setdiff1d(np.arange(400), removed)
    assert len(train) == len(present) - 25 == report.rows and test.shape == (25, 16)
    both = np.concatenate([train, test])
    assert sorted(map(bytes, both)) == sorted(map(bytes, ROWS[present]))
    order, scores = nearest(test, train, 12, metric or "cosine")
    assert near.shape == far.shape == (25, 12)
    expected = {"angular": 1 - scores, "euclidean": np.sqrt(np.maximum(-scores, 0)), "ip": -scores}[name]
    assert np.allclose(far, expected, rtol=1e-4, atol=1e-5)
    assert (near == order).mean() > 0.98  # all but ties
    rows = [int(np.flatnonzero(photo == IDS)[0]) for photo in np.load(tmp_path / "ids.npy")]
    assert ROWS[rows].tobytes() == train.tobytes()


def test_queries_and_truth_lie_beside_vectors_too(tmp_path, store):
    write(store, tmp_path / "v.fvecs", queries=10, k=5, metric="l2", query_file=tmp_path / "q.fvecs",
          truth=tmp_path / "t.ivecs")  # fmt: skip
    train, test = decoded(tmp_path / "v.fvecs"), decoded(tmp_path / "q.fvecs")
    assert train.shape == (390, 16) and test.shape == (10, 16)
    assert (ivecs(tmp_path / "t.ivecs") == nearest(test, train, 5, "l2")[0]).all()


def test_the_seed_chooses_the_queries(tmp_path, store):
    names = {seed: tmp_path / f"{number}.hdf5" for number, seed in enumerate((0, 1))}
    for seed, name in names.items():
        write(store, name, queries=10, seed=seed)
    write(store, tmp_path / "again.hdf5", queries=10, seed=1)
    test = {name.stem: h5py.File(name)["test"][:] for name in tmp_path.glob("*.hdf5")}
    assert (test["again"] == test["1"]).all() and not (test["0"] == test["1"]).all()


def test_by_default_a_tenth_is_held_out_of_a_small_store_and_k_is_what_is_left(tmp_path, store):
    report = write(store, tmp_path / "v.hdf5")
    assert (report.queries, report.rows, report.k) == (40, 360, 100)
    report = write(without(store, range(20, 400)), tmp_path / "v.hdf5", queries=3)
    assert (report.queries, report.rows, report.k) == (3, 17, 17)


def imported(folder: Path, distance: str = "angular") -> tuple[Path, Store]:
    """An ann-benchmarks file whose truth is no truth, so that it can be told apart, and its store."""
    near = np.random.default_rng(0).permuted(np.tile(np.arange(400), (6, 1)), axis=1)[:, :20].astype("i4")
    with h5py.File(folder / "in.hdf5", "w") as file:
        file.attrs["distance"] = distance
        file["train"], file["test"], file["neighbors"] = ROWS, clustered(6, 16, seed=3), near
        file["distances"] = np.linspace(0, 1, 120, dtype="f4").reshape(6, 20)
    np.save(folder / "ids.npy", IDS)
    import_vectors(ImportSpec(file=folder / "in.hdf5", layer="layer", ids=folder / "ids.npy"), folder / "imported")
    return folder / "in.hdf5", Store.open(folder / "imported")


@pytest.mark.parametrize("distance", ["angular", "euclidean", "ip"])
def test_what_was_imported_comes_out_again_bit_for_bit(tmp_path, distance):
    file, store = imported(tmp_path, distance)
    assert "imported, with their truth" in write(store, tmp_path / "out.hdf5").source
    with h5py.File(file) as a, h5py.File(tmp_path / "out.hdf5") as b:
        assert a.attrs["distance"] == b.attrs["distance"]
        for key in ("train", "test", "neighbors", "distances"):
            assert a[key].dtype == b[key].dtype and a[key][:].tobytes() == b[key][:].tobytes()


def test_fewer_neighbours_of_an_imported_truth_are_its_first(tmp_path):
    file, store = imported(tmp_path)
    write(store, tmp_path / "v.fbin", k=7, truth=tmp_path / "t.ivecs", query_file=tmp_path / "q.fbin")
    with h5py.File(file) as given:
        assert (ivecs(tmp_path / "t.ivecs") == given["neighbors"][:, :7]).all()
        assert decoded(tmp_path / "q.fbin").tobytes() == given["test"][:].tobytes()


@pytest.mark.parametrize("change", ["removed", "metric", "k"])
def test_an_imported_truth_that_no_longer_holds_is_computed_anew(tmp_path, change):
    _, store = imported(tmp_path)
    every: dict[str, dict[str, Any]] = {"metric": {"metric": "l2"}, "k": {"k": 30}, "removed": {}}
    options = every[change]
    asked = without(store, [2, 9]) if change == "removed" else store
    report = write(asked, tmp_path / "out.hdf5", **options)
    assert "computed anew" in report.source
    with h5py.File(tmp_path / "out.hdf5") as file:
        k, metric = options.get("k", 20), options.get("metric", "cosine")
        assert (file["neighbors"][:] == nearest(file["test"][:], file["train"][:], k, metric)[0]).mean() > 0.98


@pytest.mark.parametrize(
    ("out", "options", "says"),
    [
        ("v.csv", {}, "end in .csv are not known"),
        ("v.npy", {"ids": "ids.csv"}, "--ids"),
        ("v.npy", {"truth": "t.npy"}, "--truth"),
        ("v.npy", {"query_file": "q.hdf5"}, "--query-file"),
        ("v.npy", {"query_file": "v.npy"}, "named for two things"),
        ("v.npy", {"queries": 5}, "--queries: "),
        ("v.npy", {"k": 5}, "-k: "),
        ("v.npy", {"metric": "l2"}, "--metric: "),
        (
            "v.hdf5",
            {"queries": 400},
            "--queries 400: the store has 400 photos, .* Hold out fewer",
        ),
        ("v.u8bin", {}, "row 0, value 0 is .* uint8 cannot hold it"),
    ],
)
def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path, store, out, options, says):
    folder = tmp_path / "out"
    options = {
        key: folder / value if isinstance(value, str) and "." in value else value for key, value in options.items()
    }
    with pytest.raises(InputError, match=says):
        write(store, folder / out, **options)
    assert not folder.exists() or not list(folder.iterdir())


def test_no_photos_and_no_such_layer_are_errors(tmp_path, store):
    with pytest.raises(InputError, match="nothing to export"):
        write(without(store, range(400)), tmp_path / "v.npy")
    with pytest.raises(InputError, match="has layer, other"):
        export(store, ExportSpec(layer="x", out=tmp_path / "v.npy"), device=CPU)
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(store, tmp_path / "d.npy")


def test_damaged_rows_are_not_exported(tmp_path, store):
    flip_bit(store.path / "layer.npy", (4096 + 300 * 64) * 8)
    with pytest.raises(EngineError, match=r"layer\.npy"):
        write(store, tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists()


def test_too_little_room_is_said_before_the_truth_is_computed(tmp_path, store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    monkeypatch.setattr("engine.jobs.export.choose_questions", None)
    with pytest.raises(DiskFullError, match=r"v\.hdf5: takes at least 23\.0 KB, 10\.0 KB are free"):
        write(store, tmp_path / "v.hdf5")
    with pytest.raises(DiskFullError, match=r"v\.bvecs: takes at least"):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7_979))
        write(store, tmp_path / "v.bvecs", queries=1, truth=tmp_path / "t.ivecs")  # 399 rows of 20 bytes


def test_a_file_that_is_there_is_replaced_by_a_whole_one_or_not_at_all(tmp_path, store):
    (tmp_path / "v.npy").write_bytes(b"before")
    flip_bit(store.path / "layer.npy", (4096 + 300 * 64) * 8)
    with pytest.raises(EngineError, match=r"layer\.npy"):
        write(store, tmp_path / "v.npy")
    assert (tmp_path / "v.npy").read_bytes() == b"before"
    flip_bit(store.path / "layer.npy", (4096 + 300 * 64) * 8)
    write(store, tmp_path / "v.npy")
    assert np.load(tmp_path / "v.npy").tobytes() == ROWS.tobytes()


def test_the_files_of_the_store_itself_are_never_written_over(tmp_path, store):
    before = files_below(store.path)
    for name in ("layer.npy", "new.npy", "../store/indices/x.npy"):
        with pytest.raises(InputError, match="lies in the folder of the store itself"):
            write(store, store.path / name)
    (tmp_path / "link").symlink_to(store.path)
    with pytest.raises(InputError, match="lies in the folder of the store itself"):
        write(store, tmp_path / "v.npy", ids=tmp_path / "link" / "photo_ids.npy")
    assert files_below(store.path) == before
