"""The graph of a store: what exact search says of each photo, whatever happens on the way."""

import json
import random
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import DiskFullError, EngineError, InputError, StoreError
from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.searcher import Searcher
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs import graph, graph_files
from engine.jobs.graph import neighbor_graph
from engine.store.change import remove
from engine.store.manifest import write_document
from engine.store.store import Store
from kernels import load
from tests.builders import CPU, clustered, files_below, flip_bit, make_store, oracle_scores, recall
from tests.store import crashes

ROWS, K = 1500, 6
SPEC = SearchSpec(k=K)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    ivfpq.set_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """1,500 photos of 32 dimensions with an index, 40 of them removed."""
    path = tmp_path_factory.mktemp("graph") / "store"
    made = make_store(path, {"fc7": clustered(ROWS, 32, seed=3, relu=True)})
    remove(path, made.photo_ids[::39].tolist())
    made = Store.open(path)
    build_index(made, IndexSpec(layer="fc7"), device=CPU)
    return Store.open(path)


def through(store: Store) -> Searcher:
    return Searcher.of_index(Index.open(store.path / "indices" / "fc7", device=CPU, store=store))


def exactly(store: Store) -> Searcher:
    return Searcher.exact(store, "fc7", store.path / "indices" / "fc7", load(CPU))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "BLOCK_LINES", 64)


def lines(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.load(folder / f"{name}.npy") for name in ("photo_ids", "neighbors", "scores"))


def test_the_exact_graph_is_what_the_textbook_says(store: Store, small_blocks: None, tmp_path: Path) -> None:
    report = neighbor_graph(exactly(store), SPEC, tmp_path / "graph", device="cpu")
    ids, neighbors, scores = lines(tmp_path / "graph")
    present = ~np.asarray(store.removed)
    assert ids.tolist() == store.photo_ids[present].tolist() and len(ids) == ROWS - 39
    assert neighbors.shape == scores.shape == (len(ids), K)
    assert neighbors.dtype == np.int64 and scores.dtype == np.float32
    rows = np.asarray(store.fc7)[present]
    for line in range(0, len(ids), 50):
        truth = oracle_scores(rows[line], rows, "cosine")
        truth[line] = -np.inf
        assert ids[line] not in neighbors[line]
        np.testing.assert_allclose(scores[line], np.sort(truth)[::-1][:K], atol=2e-6)
        at = [int(np.flatnonzero(ids == photo)[0]) for photo in neighbors[line]]  # removed ones are in no `ids`
        np.testing.assert_allclose(scores[line], truth[at], atol=2e-6)
    assert (report.photos, report.neighbors, report.absent) == (len(ids), len(ids) * K, 0)
    assert (report.resumed, report.reused, report.exact, report.probes) == (0, False, True, None)
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "graph").iterdir())
    assert sorted(files_below(tmp_path)) == [f"graph/{name}" for name in sorted(
        ("graph.json", "neighbors.npy", "photo_ids.npy", "scores.npy"))]  # fmt: skip


def test_the_graph_of_an_index_is_that_of_its_search(store: Store, small_blocks: None, tmp_path: Path) -> None:
    searcher = through(store)
    neighbor_graph(searcher, SPEC, tmp_path / "graph", device="cpu")
    ids, neighbors, scores = lines(tmp_path / "graph")
    found = searcher.search(np.asarray(store.fc7)[store.present_rows], SPEC, exclude=ids)
    assert np.array_equal(found.photo_ids, neighbors) and np.array_equal(found.scores, scores)
    neighbor_graph(exactly(store), SPEC, tmp_path / "exact", device="cpu")
    assert recall(scores, lines(tmp_path / "exact")[2]) > 0.95
    # With all lists and all candidates it is exact.
    everything = SearchSpec(k=K, probes=10**6, rerank=10**6)
    neighbor_graph(searcher, everything, tmp_path / "all", device="cpu")
    assert all(map(np.array_equal, lines(tmp_path / "all"), lines(tmp_path / "exact")))


def test_the_three_kinds_hold_the_same(store: Store, small_blocks: None, tmp_path: Path) -> None:
    for out in ("graph", "graph.npy", "graph.parquet"):
        neighbor_graph(through(store), SPEC, tmp_path / out, device="cpu")
    ids, neighbors, scores = lines(tmp_path / "graph")
    assert np.array_equal(np.load(tmp_path / "graph.npy"), neighbors)
    table = pq.read_table(tmp_path / "graph.parquet")
    assert table.column_names == ["photo_id", "rank", "neighbor", "score"]
    assert table["photo_id"].to_pylist() == np.repeat(ids, K).tolist()
    assert table["rank"].to_pylist() == np.tile(np.arange(1, K + 1), len(ids)).tolist()
    assert table["neighbor"].to_pylist() == neighbors.reshape(-1).tolist()
    assert table["score"].to_numpy().tobytes() == scores.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "graph", "graph.npy", "graph.npy.json", "graph.parquet", "graph.parquet.json"
    ]  # fmt: skip


def test_more_neighbours_than_photos_are_absent(tmp_path: Path) -> None:
    few = make_store(tmp_path / "store", {"fc7": clustered(5, 8)})
    searcher = Searcher.exact(few, "fc7", tmp_path / "none", load(CPU))
    report = neighbor_graph(searcher, SPEC, tmp_path / "graph", device="cpu")
    _, neighbors, scores = lines(tmp_path / "graph")
    assert (neighbors[:, 4:] == -1).all() and (scores[:, 4:] == -np.inf).all() and (neighbors[:, :4] >= 0).all()
    assert (report.neighbors, report.absent) == (20, 10)
    neighbor_graph(searcher, SPEC, tmp_path / "graph.parquet", device="cpu")
    assert len(pq.read_table(tmp_path / "graph.parquet")) == 20
    again = neighbor_graph(searcher, SPEC, tmp_path / "graph", device="cpu")
    assert again.reused and again.absent == 10


@pytest.mark.parametrize("name", ["graph", "graph.npy", "graph.parquet"])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    store: Store, small_blocks: None, tmp_path: Path, name: str
) -> None:
    searcher, out = through(store), tmp_path / name
    started = time.monotonic()
    neighbor_graph(searcher, SPEC, tmp_path / "whole" / name, device="cpu")
    took = time.monotonic() - started
    whole = files_below(tmp_path / "whole")
    work = partial(neighbor_graph, searcher, SPEC, out, device="cpu")
    chance, killed = random.Random(name), 0
    for _ in range(200):
        died = crashes.killed_after(chance.uniform(0, took), work)
        killed, took = killed + died, took if died else 0.8 * took  # by and by it fits how fast the machine is now
        if killed == 8:
            break
        if chance.random() < 0.3:
            continue  # killed again before it has finished
        work()
        assert {path: sum_ for path, sum_ in files_below(tmp_path).items() if not path.startswith("whole")} == whole
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    assert killed == 8


@pytest.mark.parametrize("name", ["graph", "graph.npy", "graph.parquet"])
def test_dead_at_each_call_that_writes_it_goes_on(
    store: Store, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "BLOCK_LINES", 700)
    searcher, out = through(store), tmp_path / name
    neighbor_graph(searcher, SPEC, tmp_path / "whole" / name, device="cpu")
    whole = files_below(tmp_path / "whole")
    work = partial(neighbor_graph, searcher, SPEC, out, device="cpu")
    for call in range(1, 100):
        if not crashes.dies_at(call, work):
            break
        work()
        assert {path: sum_ for path, sum_ in files_below(tmp_path).items() if not path.startswith("whole")} == whole
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    assert call > 15


class _Stop(Exception):
    pass


def interrupted_after(blocks: int, searcher: Searcher, spec: SearchSpec, out: Path) -> None:
    seen = []

    def stop(phase: str, done: int, total: int, *, unit: str = "", detail: str = "") -> None:
        seen.append(phase)
        if seen.count("graph") > blocks:
            raise _Stop

    with pytest.raises(_Stop):
        neighbor_graph(searcher, spec, out, device="cpu", progress=stop)


def test_what_is_there_is_not_searched_again_but_read_against_its_checksum(
    store: Store, small_blocks: None, tmp_path: Path
) -> None:
    searcher, out = through(store), tmp_path / "graph"
    neighbor_graph(searcher, SPEC, tmp_path / "whole", device="cpu")
    interrupted_after(5, searcher, SPEC, out)
    assert not out.exists()
    begun = {path.name for path in (tmp_path / "graph.part").iterdir()}
    assert begun == {"graph.journal", "neighbors.npy", "scores.npy"}
    with (tmp_path / "graph.part" / "neighbors.npy").open("r+b") as file:
        file.seek(128 + 64 * K * 8 * 2)
        file.write(b"\x55")
    report = neighbor_graph(searcher, SPEC, out, device="cpu")
    assert report.resumed == 4 * 64
    assert files_below(out) == files_below(tmp_path / "whole")
    before = (out / "neighbors.npy").stat().st_mtime_ns
    again = neighbor_graph(searcher, SPEC, out, device="cpu")
    assert again.reused and again.neighbors == report.neighbors
    assert (out / "neighbors.npy").stat().st_mtime_ns == before


@pytest.mark.parametrize("searcher", [through, exactly])
def test_a_damaged_row_is_named_by_its_photo(
    store: Store, small_blocks: None, tmp_path: Path, searcher: Callable[[Store], Searcher]
) -> None:
    path = tmp_path / "store"
    shutil.copytree(store.path, path)
    damaged = np.load(path / "fc7.npy", mmap_mode="r+")
    damaged[1000, 3] = np.nan
    damaged.flush()
    with pytest.raises(StoreError, match=rf"photo {store.photo_ids[1000]} \(row 1,000 of fc7\) holds NaN.*verify"):
        neighbor_graph(searcher(Store.open(path)), SPEC, tmp_path / "graph", device="cpu")


def test_another_job_is_refused_in_one_line(store: Store, small_blocks: None, tmp_path: Path) -> None:
    searcher, out = through(store), tmp_path / "graph"
    interrupted_after(2, searcher, SPEC, out)
    before = files_below(tmp_path)
    others = {
        "another k (6, this one: 7)": (searcher, SearchSpec(k=7)),
        "another probes": (searcher, SearchSpec(k=K, probes=1)),
        "another exact": (exactly(store), SPEC),
    }
    for says, (other, spec) in others.items():
        with pytest.raises(InputError) as error:
            neighbor_graph(other, spec, out, device="cpu")
        assert says in str(error.value) and "\n" not in str(error.value)
    assert files_below(tmp_path) == before
    neighbor_graph(searcher, SPEC, out, device="cpu")
    before = files_below(tmp_path)
    for says, (other, spec) in others.items():
        with pytest.raises(InputError) as error:
            neighbor_graph(other, spec, out, device="cpu")
        assert says in str(error.value) and "\n" not in str(error.value)
    assert files_below(tmp_path) == before


def test_what_is_no_graph_is_left_alone(store: Store, tmp_path: Path) -> None:
    for place in ("folder", "begun.part", "graph.npy"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "mine.txt").write_text("mine")
    for file in ("file", "mine.npy", "mine.parquet", "free.npy.json", "mine.csv"):
        (tmp_path / file).write_text("mine")
    (tmp_path / "link.npy").symlink_to(tmp_path / "mine.npy")
    (tmp_path / "dangling.parquet").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    before = files_below(tmp_path)
    places = ["folder", "begun", "graph.npy", "file", "mine.npy", "mine.parquet", "free.npy", "mine.csv", "new.csv",
              "link.npy", "dangling.parquet"]  # fmt: skip
    for place in places:
        with pytest.raises(InputError, match="--out"):
            neighbor_graph(exactly(store), SPEC, tmp_path / place, device="cpu")
    assert files_below(tmp_path) == before
    neighbor_graph(exactly(store), SPEC, tmp_path / "empty", device="cpu")
    assert (tmp_path / "empty" / "graph.json").exists()
    assert (tmp_path / "link.npy").is_symlink() and (tmp_path / "dangling.parquet").is_symlink()
    assert not (tmp_path / "new.csv").exists()
    with pytest.raises(InputError, match="lies in the folder of the store itself"):
        neighbor_graph(exactly(store), SPEC, store.path / "fc7.npy", device="cpu")


@pytest.mark.parametrize("name", ["graph.npy", "graph.parquet"])
def test_a_file_is_a_graph_by_the_record_beside_it(store: Store, tmp_path: Path, name: str) -> None:
    out, searcher = tmp_path / name, exactly(store)
    first = neighbor_graph(searcher, SPEC, out, device="cpu")
    written, before = out.stat().st_mtime_ns, files_below(tmp_path)
    again = neighbor_graph(searcher, SPEC, out, device="cpu")
    assert again.reused and again.neighbors == first.neighbors and out.stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"another k \(6, this one: 7\)"):
        neighbor_graph(searcher, SearchSpec(k=7), out, device="cpu")
    assert files_below(tmp_path) == before
    out.rename(tmp_path / f"other{out.suffix}")  # the record of what was taken away is of no use to another
    assert not neighbor_graph(searcher, SearchSpec(k=7), out, device="cpu").reused
    (tmp_path / f"other{out.suffix}").replace(out)
    with pytest.raises(InputError, match=r"another k \(7, this one: 6\)"):
        neighbor_graph(searcher, SPEC, out, device="cpu")
    with pytest.raises(StoreError, match="does not match its checksum"):
        neighbor_graph(searcher, SearchSpec(k=7), out, device="cpu")


@pytest.mark.parametrize("name", ["graph", "graph.npy", "graph.parquet"])
def test_a_graph_is_not_believed_when_it_is_damaged(store: Store, tmp_path: Path, name: str) -> None:
    out, searcher = tmp_path / name, exactly(store)
    neighbor_graph(searcher, SPEC, out, device="cpu")
    for file in sorted(out.iterdir()) if out.is_dir() else [out, tmp_path / f"{name}.json"]:
        whole = file.read_bytes()
        flip_bit(file, 8 * (len(whole) - 40))
        with pytest.raises((StoreError, InputError), match=r"(its (own )?checksum|JSON).*[Rr]emove"):
            neighbor_graph(searcher, SPEC, out, device="cpu")
        file.write_bytes(whole[:-1])
        with pytest.raises((StoreError, InputError), match=r"[Rr]emove"):
            neighbor_graph(searcher, SPEC, out, device="cpu")
        if file != out:
            file.unlink()
            with pytest.raises((StoreError, InputError), match=r"[Rr]emove"):
                neighbor_graph(searcher, SPEC, out, device="cpu")
        file.write_bytes(whole)
        assert neighbor_graph(searcher, SPEC, out, device="cpu").reused


def test_a_whole_graph_that_lacks_its_name_is_read_before_it_gets_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("graph", "graph.npy"):
        out = tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(graph_files.GraphFiles, "_rename", lambda self: None)
            with pytest.raises(OSError, match=name):  # nothing is there whose size could be told
                neighbor_graph(exactly(store), SPEC, out, device="cpu")
        flip_bit(tmp_path / f"{name}.part" / "neighbors.npy", 8 * 1000)
        with pytest.raises(StoreError, match=r"neighbors\.npy: does not match its checksum. Remove .*\.part "):
            neighbor_graph(exactly(store), SPEC, out, device="cpu")
        flip_bit(tmp_path / f"{name}.part" / "neighbors.npy", 8 * 1000)
        assert neighbor_graph(exactly(store), SPEC, out, device="cpu").resumed == store.photos


def test_what_appears_while_a_graph_is_made_is_not_replaced(store: Store, small_blocks: None, tmp_path: Path) -> None:
    out = tmp_path / "graph.npy"

    def meanwhile(phase: str, done: int, total: int, *, unit: str = "", detail: str = "") -> None:
        out.write_text("mine")

    with pytest.raises(InputError, match="was not when this graph was begun"):
        neighbor_graph(exactly(store), SPEC, out, device="cpu", progress=meanwhile)
    assert out.read_text() == "mine"
    out.unlink()
    assert neighbor_graph(exactly(store), SPEC, out, device="cpu").resumed == store.photos


def test_a_graph_of_an_older_mirsearch_is_refused(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "graph"
    neighbor_graph(exactly(store), SPEC, out, device="cpu")
    document = json.loads((out / "graph.json").read_bytes())
    write_document(out / "graph.json", {"version": 1, "job": document["job"], "absent": 0})
    with pytest.raises(InputError, match=r"older mirsearch, without checksums.*remove this one"):
        neighbor_graph(exactly(store), SPEC, out, device="cpu")


def test_removed_photos_make_it_another_graph(store: Store, small_blocks: None, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(store.path, path)
    interrupted_after(2, through(Store.open(path)), SPEC, tmp_path / "graph")
    remove(path, [int(store.photo_ids[1])])
    with pytest.raises(InputError, match="another removed"):
        neighbor_graph(through(Store.open(path)), SPEC, tmp_path / "graph", device="cpu")


def test_a_full_disk_is_said_and_what_is_there_goes_on(store: Store, small_blocks: None, tmp_path: Path) -> None:
    searcher = through(store)
    for name in ("graph", "graph.parquet"):
        out = tmp_path / name
        work = partial(neighbor_graph, searcher, SPEC, out, device="cpu")
        assert crashes.refused_for_room(work, 20_000)
        assert not out.exists()
        work()
        assert out.exists() and not (tmp_path / f"{name}.part").exists()
    with crashes.small_disk(tmp_path / "disk", 64 << 10) as disk:
        with pytest.raises(EngineError, match="takes at least"):
            neighbor_graph(searcher, SPEC, disk / "graph", device="cpu")
        assert list(disk.iterdir()) == []


def test_no_room_leaves_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match="takes at least"):
        neighbor_graph(exactly(store), SPEC, tmp_path / "graph", device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(store: Store, small_blocks: None, tmp_path: Path) -> None:
    searcher, out = through(store), tmp_path / "graph"

    def meanwhile(phase: str, done: int, total: int, *, unit: str = "", detail: str = "") -> None:
        with pytest.raises(EngineError, match="another mirsearch"):
            neighbor_graph(searcher, SPEC, out, device="cpu")

    neighbor_graph(searcher, SPEC, out, device="cpu", progress=meanwhile)
    document = json.loads((out / "graph.json").read_bytes())
    assert document["job"]["k"] == K and document["job"]["index"] == searcher.index.manifest.digest  # type: ignore[union-attr]
