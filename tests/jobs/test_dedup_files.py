"""An unfinished search: killed at any block it goes on, to the same bytes; what is damaged is done again."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.errors import DiskFullError, EngineError
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs import dedup_ceilings, dedup_exhaustive, dedup_join
from engine.jobs.dedup import DedupSpec, Duplicates, find_duplicates
from engine.jobs.dedup_files import FOUND, JOURNAL, PAIRS, Unfinished, found_of, remove
from tests.builders import CPU, clustered, make_store

THRESHOLD = 0.8


@pytest.fixture
def index(tmp_path: Path) -> Index:
    rows = clustered(1500, 16, seed=3)
    rows[700:] = rows[:800] + np.random.default_rng(0).standard_normal((800, 16)) * 0.2
    rows[1400:] = rows[:100]
    store = make_store(tmp_path / "store", {"x": rows.astype(np.float32)})
    return Index.open(build_index(store, IndexSpec(layer="x", lists=8), device=CPU).path, device=CPU)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup_ceilings, "BLOCK_ROWS", 128)
    monkeypatch.setattr(dedup_join, "LEAST_WORK", 20_000)
    monkeypatch.setattr(dedup_exhaustive, "LINES", {"numpy": 100})


def same(a: Duplicates, b: Duplicates) -> bool:
    return a.pairs.tobytes() == b.pairs.tobytes() and a.scores.tobytes() == b.scores.tobytes() and a.groups == b.groups


KILLED = """
import os, signal, sys
from engine.index.search import Index
from engine.jobs import dedup_ceilings, dedup_exhaustive, dedup_join
from engine.jobs.dedup import DedupSpec, find_duplicates
from pathlib import Path

dedup_ceilings.BLOCK_ROWS, dedup_join.LEAST_WORK, dedup_exhaustive.LINES = 128, 20_000, {"numpy": 100}
path, folder, phase, times, method = sys.argv[1:]
calls = 0

def progress(name, done, total, *, unit="rows", detail=""):
    global calls
    calls += name == phase
    if calls == int(times):
        os.kill(os.getpid(), signal.SIGKILL)

index, spec = Index.open(path, device="cpu"), DedupSpec(threshold=0.8, method=method)
find_duplicates(index, spec, progress, unfinished=Path(folder))
"""


@pytest.mark.parametrize("phase", [("read the rows", 5), ("compare", 1), ("compare", 6)])
@pytest.mark.parametrize("method", ["index", "exhaustive"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    index: Index, small_blocks: None, tmp_path: Path, phase: tuple[str, int], method: str
) -> None:
    spec = DedupSpec(threshold=THRESHOLD, method=method)  # type: ignore[arg-type]
    whole = find_duplicates(index, spec)
    assert len(whole.pairs) > 500 and whole.resumed == 0
    folder = tmp_path / "unfinished"
    words = [sys.executable, "-c", KILLED, str(index.path), str(folder), phase[0], str(phase[1]), method]
    killed = subprocess.run(words, check=False, capture_output=True, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = find_duplicates(index, spec, unfinished=folder)
    assert same(again, whole)
    assert again.resumed >= 4 if phase[0] == "read the rows" else again.resumed >= 12 + phase[1] - 1
    third = find_duplicates(index, spec, unfinished=folder)  # finished, but its answers were never written
    assert same(third, whole) and third.resumed > again.resumed
    remove(folder)
    assert not folder.exists()


@pytest.mark.parametrize("file", [PAIRS, "ceilings.f32", "sums.u64", JOURNAL])
def test_what_is_damaged_is_done_again(index: Index, small_blocks: None, tmp_path: Path, file: str) -> None:
    spec, folder = DedupSpec(threshold=THRESHOLD), tmp_path / "unfinished"
    whole = find_duplicates(index, spec, unfinished=folder)
    data = bytearray((folder / file).read_bytes())
    for at in range(7, len(data), max(len(data) // 5, 1)):
        data[at] ^= 0x55
    (folder / file).write_bytes(data)
    again = find_duplicates(index, spec, unfinished=folder)
    assert same(again, whole)
    (folder / PAIRS).write_bytes(b"")
    assert same(find_duplicates(index, spec, unfinished=folder), whole)


def test_another_job_begins_anew(index: Index, small_blocks: None, tmp_path: Path) -> None:
    folder = tmp_path / "unfinished"
    find_duplicates(index, DedupSpec(threshold=THRESHOLD), unfinished=folder)
    other = DedupSpec(threshold=0.9)
    found = find_duplicates(index, other, unfinished=folder)
    assert found.resumed == 0 and same(found, find_duplicates(index, other))


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with Unfinished(tmp_path / "x", {}), pytest.raises(EngineError, match="another mirsearch looks for duplicates"):
        Unfinished(tmp_path / "x", {})
    with Unfinished(tmp_path / "x", {}) as free:
        assert free.count == 0


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with Unfinished(tmp_path / "x", {}) as files, pytest.raises(DiskFullError, match="Make room"):
        files.array("big", (1 << 50,), "<f4")


def test_pairs_of_several_blocks_are_once_and_in_order(tmp_path: Path) -> None:
    parts = [np.array([[3, 4], [1, 9]]), np.array([[1, 9], [0, 2]])]
    for folder in (None, tmp_path / "x"):
        for _ in range(2):
            with Unfinished(folder, {"a": 1}) as files:
                missing = [block for block in range(2) if not files.known("join", block)]
                for block in missing:
                    files.add("join", block, found_of(parts[block], np.array([0.5, 0.25], np.float32)))
                pairs, scores = files.pairs("join")
                assert pairs.tolist() == [[0, 2], [1, 9], [3, 4]]
                assert pairs.dtype == np.int64 and scores.dtype == np.float32
                assert scores[[0, 2]].tolist() == [0.25, 0.5]
                assert files.pairs("other")[0].shape == (0, 2)
        assert folder is None or missing == []
    assert (tmp_path / "x" / PAIRS).stat().st_size == 4 * FOUND.itemsize
