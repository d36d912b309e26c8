"""`import` and `export` as they are typed: a benchmark set through every verb, and one line for what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from typer.testing import Result

from tests.builders import clustered

Run = Callable[..., Result]
ROWS, TEST = clustered(2000, 32, seed=1), clustered(20, 32, seed=2)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def bench_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as ann-benchmarks makes it, by the textbook."""
    distances = np.sqrt(((TEST.astype("f8")[:, None] - ROWS[None]) ** 2).sum(axis=2))
    order = np.argsort(distances, axis=1)[:, :100]
    path = tmp_path_factory.mktemp("bench") / "set.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        file["train"], file["test"], file["neighbors"] = ROWS, TEST, order.astype("i4")
        file["distances"] = np.take_along_axis(distances, order, axis=1).astype("f4")
    return path


def test_a_public_benchmark_set_goes_through_every_verb(run: Run, tmp_path: Path, bench_file: Path) -> None:
    store = tmp_path / "store"
    taken = document(run("import", bench_file, "--store", store, "--layer", "set", "--json"))
    assert (taken["rows"], taken["dim"], taken["queries"], taken["truth"]) == (2000, 32, 20, "l2")
    assert document(run("verify", store, "--json"))["intact"]
    document(run("build", store, "--layer", "set", "--metric", "l2", "--device", "cpu", "--json"))
    with h5py.File(bench_file) as file:
        np.save(tmp_path / "q.npy", file["test"][:])
        truth = file["neighbors"][:]
    words = ("query", store, "--layer", "set", "-k", 10, "--vectors", tmp_path / "q.npy", "--device", "cpu", "--json")
    for extra in (("--exact",), ("--rerank", 2000, "--probes", 100000)):
        found = document(run(*words, *extra))["queries"]
        answers = [[neighbor["photo_id"] for neighbor in query["neighbors"]] for query in found]
        assert answers == truth[:, :10].tolist()
    document(run("export", store, "--out", tmp_path / "again.hdf5", "--json"))
    with h5py.File(bench_file) as a, h5py.File(tmp_path / "again.hdf5") as b:
        assert all(a[key][:].tobytes() == b[key][:].tobytes() for key in a) and set(a) == set(b)


def test_dat_files_come_out_of_a_store_as_they_went_in(run: Run, tmp_path: Path, collection: Path) -> None:
    report = document(run("export", collection / "store", "--format", "dat", "--out", tmp_path / "dat", "--json"))
    features = collection / "sample" / "features"
    files = sorted(path.relative_to(features) for path in features.rglob("*.dat"))
    assert report["files"] == len(files) == 1200
    assert all((tmp_path / "dat" / file).read_bytes() == (features / file).read_bytes() for file in files)


def test_the_summary_says_what_was_done(run: Run, tmp_path: Path, bench_file: Path) -> None:
    result = run("import", bench_file, "--store", tmp_path / "s", "--layer", "set")
    assert result.exit_code == 0
    assert "2,000 photos" in result.stdout and "20 with their ground truth (l2)" in result.stdout
    assert f"build {tmp_path / 's'} --layer set --metric l2\n" in result.stdout
    assert f"bench {tmp_path / 's'} --layer set\n" in result.stdout
    np.save(tmp_path / "alone.npy", ROWS)
    result = run("import", tmp_path / "alone.npy", "--store", tmp_path / "alone", "--layer", "set")
    assert "--metric" not in result.stdout and "bench" not in result.stdout
    result = run("export", tmp_path / "s", "--out", tmp_path / "v.fvecs", "--query-file", tmp_path / "q.fvecs",
                 "--truth", tmp_path / "t.ivecs", "--queries", 10, "-k", 7, "--metric", "ip", "--seed", 3,
                 "--ids", tmp_path / "i.npy", "--device", "cpu")  # fmt: skip
    assert result.exit_code == 0, result.output
    for said in ("1,990 × 32 of layer set", "10, photos held out, seed 3", "7 neighbours, ip", "t.ivecs", "i.npy"):
        assert said in result.stdout
    result = run("export", tmp_path / "s", "--out", tmp_path / "v.npy", "--layer", "set")
    assert "2,000 × 32" in result.stdout and "queries" not in result.stdout


def test_what_was_left_out_is_said_on_standard_error(run: Run, tmp_path: Path, bench_file: Path) -> None:
    (tmp_path / "bits.hdf5").write_bytes(bench_file.read_bytes())
    with h5py.File(tmp_path / "bits.hdf5", "a") as file:
        file.attrs["distance"] = "hamming"
    result = run("import", tmp_path / "bits.hdf5", "--store", tmp_path / "s", "--layer", "set", "--json")
    assert document(result)["queries"] == 0 and "hamming" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("import", "absent.npy", "--store", "s", "--layer", "v"), "absent.npy: cannot be read (No such file"),
        (("import", "x.csv", "--store", "s", "--layer", "v"), "end in .csv are not known"),
        (("import", "SET", "--store", "s", "--layer", "a b"), "--layer 'a b'"),
        (("import", "SET", "--store", "s", "--layer", "v", "--key", "labels"), "no dataset 'labels'"),
        (("import", "SET", "--store", "s", "--layer", "v", "--append"), "manifest.json: absent"),
        (("export", "STORE", "--out", "x.csv", "--layer", "fc8"), "end in .csv are not known"),
        (("export", "STORE", "--out", "x.npy", "--layer", "fc9"), "fc9"),
        (("export", "STORE", "--out", "x.npy", "--queries", 3), "--queries: x.npy holds vectors alone"),
        (("export", "STORE", "--out", "x", "--format", "csv"), "--format csv: expected dat"),
        (("export", "STORE", "--out", "x", "--format", "dat", "-k", 3), "-k beside --format dat"),
        (("export", "STORE", "--out", "x.hdf5", "--metric", "hamming"), "--metric hamming: expected cosine, ip or l2"),
        (("export", "STORE", "--out", "x.u8bin", "--layer", "fc8"), "uint8 cannot hold it exactly"),
        (("export", "STORE", "--out", "STORE/fc8.npy", "--layer", "fc8"), "lies in the folder of the store itself"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_1(
    run: Run, tmp_path: Path, collection: Path, bench_file: Path, words: tuple[object, ...], says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    named = {"SET": bench_file, "STORE": collection / "store"}
    inside = str(collection / "store") + "/"
    result = run(*(named.get(str(word), str(word).replace("STORE/", inside)) for word in words))
    assert result.exit_code == 1
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
