"""The writer: one at a time, whole or absent, the same bytes whoever writes when."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, StoreError
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import files_below, make_store

DIMS = {"fc7": 5, "fc8": 3}


def fill(writer: StoreWriter, rows: int, first_id: int = 0) -> None:
    ids = np.arange(first_id, first_id + rows, dtype=np.int64)
    layers = {name: np.full((rows, dim), first_id, np.float32) for name, dim in DIMS.items()}
    writer.write(writer.reserve(rows), ids, layers)


def test_what_is_written_can_be_read_with_numpy_alone(tmp_path):
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        fill(writer, 3, 10)
        fill(writer, 2, 20)
        writer.finish(["here"])
    ids = np.load(tmp_path / "store" / "photo_ids.npy", allow_pickle=False)
    fc7 = np.load(tmp_path / "store" / "fc7.npy", allow_pickle=False)
    assert (ids.dtype, ids.tolist()) == (np.dtype("<i8"), [10, 11, 12, 20, 21])
    assert (fc7.dtype, fc7.shape, fc7.flags["C_CONTIGUOUS"]) == (np.dtype("<f4"), (5, 5), True)
    assert fc7[:, 0].tolist() == [10, 10, 10, 20, 20]
    assert np.load(tmp_path / "store" / "fc8.npy").shape == (5, 3)


def test_blocks_may_be_written_in_any_order(tmp_path):
    random = np.random.default_rng(0)
    blocks = [(np.arange(i * 10, i * 10 + size), {name: random.random((size, dim), np.float32)
              for name, dim in DIMS.items()}) for i, size in enumerate([3, 1, 7, 2])]  # fmt: skip
    for name, order in (("forward", [0, 1, 2, 3]), ("mixed", [2, 0, 3, 1])):
        with StoreWriter(tmp_path / name, DIMS) as writer:
            places = [writer.reserve(len(ids)) for ids, _ in blocks]
            for i in order:
                writer.write(places[i], *blocks[i])
            writer.finish([])
    assert files_below(tmp_path / "forward") == files_below(tmp_path / "mixed")
    store = Store.open(tmp_path / "mixed")
    for name in DIMS:
        assert store.layers[name].tobytes() == b"".join(layers[name].tobytes() for _, layers in blocks)


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        fill(writer, 2)
        before = files_below(tmp_path / "store")
        with (
            pytest.raises(StoreError, match="another mirsearch is writing here"),
            StoreWriter(tmp_path / "store", DIMS),
        ):
            pass
        assert files_below(tmp_path / "store") == before
        code = (
            "import sys; from pathlib import Path; from engine.errors import StoreError\n"
            "from engine.store.writer import StoreWriter\n"
            "try:\n    StoreWriter(Path(sys.argv[1]), {'fc7': 5}).__enter__()\nexcept StoreError as e: print(e)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "store"],
            cwd=Path(__file__).parent.parent.parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "another mirsearch is writing here" in done.stdout
        writer.finish([])
    assert len(Store.open(tmp_path / "store")) == 2


def test_only_one_of_many_that_start_together_gets_the_folder(tmp_path):
    """And every one that is refused leaves the winner's files alone."""
    for turn in range(20):
        path, results = tmp_path / str(turn), list[str]()
        start = threading.Barrier(4)

        def work(path=path, results=results, start=start):
            start.wait()
            try:
                with StoreWriter(path, DIMS) as writer:
                    fill(writer, 2)
                    writer.finish([])
                results.append("finished")
            except StoreError as error:
                results.append(
                    "already" if "already holds" in str(error) else "busy" if "another" in str(error) else "?"
                )

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count("finished") == 1, results
        assert "?" not in results
        assert len(Store.open(path)) == 2


def test_writers_that_give_up_do_not_trip_over_each_other(tmp_path):
    """Four at a time begin and abort in one folder: each is refused or gets it, none meets an error of the system."""
    path, results, start = tmp_path / "store", list[str](), threading.Barrier(4)

    def work():
        for _ in range(25):
            start.wait()
            try:
                with StoreWriter(path, DIMS) as writer:
                    fill(writer, 1)
                results.append("given up")
            except StoreError as error:
                results.append("busy" if "another" in str(error) else str(error))
            except BaseException as error:
                results.append(repr(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(results) <= {"given up", "busy"}
    assert "given up" in results
    assert set(files_below(path)) <= {".lock"}  # whoever comes while another leaves may keep the folder alive


def test_the_lock_is_let_go_at_the_end_and_after_a_refusal(tmp_path):
    with pytest.raises(RuntimeError), StoreWriter(tmp_path / "store", DIMS):
        raise RuntimeError
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        fill(writer, 1)
        writer.finish([])
    handles = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0  # noqa: PTH208
    for _ in range(5):
        with pytest.raises(StoreError, match="already holds a store"), StoreWriter(tmp_path / "store", DIMS):
            pass
    assert handles == 0 or len(os.listdir("/proc/self/fd")) == handles  # noqa: PTH208


@pytest.mark.parametrize("new_folder", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_leaving_without_an_end_leaves_nothing(tmp_path, new_folder, error):
    path = tmp_path / "store"
    if not new_folder:
        path.mkdir()
        (path / "notes.txt").write_text("mine")
    try:
        with StoreWriter(path, DIMS) as writer:
            fill(writer, 2)
            assert (path / "fc7.npy.part").exists()
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    if new_folder:
        assert not path.exists()
    else:
        assert list(files_below(path)) == ["notes.txt"]


@pytest.mark.parametrize("file", ["fc7.npy", "fc8.npy", "photo_ids.npy", "quarantine.jsonl", "manifest.json"])
def test_what_fails_after_the_decision_is_done_by_the_next_that_opens_the_store(tmp_path, monkeypatch, file):
    """The rename of each file in turn fails, after those before it already have their names."""
    replace = Path.replace

    def failing(self, target):
        if Path(target).name == file:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(EngineError, match="the disk is full"), StoreWriter(tmp_path / "store", DIMS) as writer:
        fill(writer, 2)
        writer.finish([])
    with pytest.raises(StoreError, match="a change of this store was interrupted and is not finished"):
        Store.open(tmp_path / "store")
    monkeypatch.undo()
    assert len(Store.open(tmp_path / "store")) == 2
    with StoreWriter(tmp_path / "fresh", DIMS) as writer:
        fill(writer, 2)
        writer.finish([])
    assert files_below(tmp_path / "store") == files_below(tmp_path / "fresh")


def test_what_fails_before_the_decision_leaves_nothing(tmp_path, monkeypatch):
    def failing(handle):
        raise OSError(28, "No space left on device")

    with pytest.raises(EngineError, match="the disk is full"), StoreWriter(tmp_path / "store", DIMS) as writer:
        fill(writer, 2)
        monkeypatch.setattr(os, "fsync", failing)
        writer.finish([])
    assert not (tmp_path / "store").exists()


def test_what_a_killed_writer_left_is_written_over(tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    (path / ".lock").touch()  # a killed process leaves its lock's file, but holds it no longer
    for name in ("ingest.journal", "fc7.npy.part", "fc8.npy.part", "photo_ids.npy.part", "manifest.json.part"):
        (path / name).write_bytes(b"rest of another run, longer than what is to come" * 1000)
    with StoreWriter(path, DIMS) as writer:
        fill(writer, 2)
        writer.finish([])
    with StoreWriter(tmp_path / "fresh", DIMS) as writer:
        fill(writer, 2)
        writer.finish([])
    assert files_below(path) == files_below(tmp_path / "fresh")


def test_a_store_of_no_rows_is_a_store(tmp_path):
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        writer.finish([])
    store = Store.open(tmp_path / "store")
    assert (len(store), store.fc7.shape, store.fc8.shape) == (0, (0, 5), (0, 3))
    with pytest.raises(ValueError, match="read-only"):
        store.fc7[:] = 0


def test_an_existing_empty_folder_may_be_named(tmp_path):
    (tmp_path / "store").mkdir()
    assert len(make_store(tmp_path / "store", {"fc7": np.zeros((3, 4), np.float32)})) == 3


def test_an_interrupted_job_is_not_written_over_by_another(tmp_path):
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        ids, layers = np.arange(2), {name: np.zeros((2, dim), np.float32) for name, dim in DIMS.items()}
        writer.write(writer.reserve(2), ids, layers, key="a")
    with (
        pytest.raises(StoreError, match="an interrupted ingest or import of something else"),
        StoreWriter(tmp_path / "store", {"other": 4}),
    ):
        pass
    with StoreWriter(tmp_path / "store", DIMS) as writer:
        assert list(writer.found) == ["a"]
