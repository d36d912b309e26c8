"""A flipped bit in what an interrupted command left: an error, damage that is found, or nothing; never a wrong row."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.errors import EngineError, StoreError
from engine.store import commit, journal
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import files_below, flip_bit, make_store
from tests.store.crashes import dies_at, said

DIMS = {"fc7": 3, "fc8": 2}


def block(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(number)
    return np.arange(5) + 10 * number, {name: random.random((5, dim), np.float32) for name, dim in DIMS.items()}


def ingest(path: Path, *, to_the_end: bool = True) -> None:
    """What an ingest does: blocks by name, those of an interrupted run taken over."""
    with StoreWriter(path, DIMS, append=True) as writer:
        for number in (1, 2, 3) if to_the_end else (1, 2):
            written = writer.found.get(str(number))
            if written and written.start == writer.rows:
                writer.keep(written)
            else:
                writer.write(writer.reserve(5), *block(number), key=str(number))
        if to_the_end:
            writer.finish(["here"])


@pytest.mark.parametrize("name", ["ingest.journal", "fc7.npy.part", "photo_ids.npy.part"])
@pytest.mark.parametrize("grown", [False, True])
def test_an_ingest_continues_to_the_same_store(tmp_path, name, grown):
    if grown:
        name = name.replace("fc7.npy.part", "fc7.npy")
        with StoreWriter(tmp_path / "begun", DIMS) as writer:
            writer.write(writer.reserve(5), *block(7))
            writer.finish(["before"])
        shutil.copytree(tmp_path / "begun", tmp_path / "whole")
    ingest(tmp_path / "whole")
    ingest(tmp_path / "begun", to_the_end=False)
    assert (tmp_path / "begun" / journal.NAME).exists()
    size = (tmp_path / "begun" / name).stat().st_size
    first = 4096 + 5 * 12 if name == "fc7.npy" else 4096 if name != "ingest.journal" else 0
    for byte in range(first, size, 3):
        path = shutil.copytree(tmp_path / "begun", tmp_path / "work")
        flip_bit(path / name, byte * 8 + byte % 8)
        ingest(path)
        assert files_below(path) == files_below(tmp_path / "whole"), byte
        shutil.rmtree(path)


@pytest.mark.parametrize("change", ["remove", "compact", "grow"])
def test_a_commit_is_done_right_or_not_at_all(tmp_path, change):
    """The process died when it had written `commit.json`; then a bit of that, or of a part, flips."""
    random = np.random.default_rng(0)
    store = make_store(tmp_path / "store", {name: random.random((20, dim), np.float32) for name, dim in DIMS.items()})
    path = store.path
    remove(path, [1000, 1007])
    work: dict[str, Callable[[], object]] = {
        "remove": partial(remove, path, [1014]),
        "compact": partial(compact_store, path),
        "grow": partial(ingest, path),
    }
    old, call = said(path), 0
    kept = shutil.copytree(path, tmp_path / "kept")
    while not (path / commit.NAME).exists():
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        call += 1
        assert dies_at(call, work[change])
    shutil.copytree(path, tmp_path / "finished")
    new = said(tmp_path / "finished")
    assert new != old
    pending = [file.name for file in path.iterdir() if file.suffix == ".part" or file.name == commit.NAME]
    assert len(pending) > 2
    ended = set()
    for name in pending:
        size = (path / name).stat().st_size
        step = 2 if name == commit.NAME else max(1, size // 50)
        for byte in range(0, size, step):
            damaged = shutil.copytree(path, tmp_path / "work")
            flip_bit(damaged / name, byte * 8 + byte % 8)
            ended.add(_outcome(damaged, old, new))
            shutil.rmtree(damaged)
    assert ended <= {"refused", "damage is found", "new"}
    assert {"refused"} <= ended


def _outcome(path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> str:
    try:
        store = Store.open(path)
        found = {name: rows.tobytes() for name, rows in store.layers.items()} | {"ids": store.photo_ids.tobytes()}
        if verify_store(path).damage:
            return "damage is found"
    except StoreError:
        return "refused"
    except EngineError as error:
        return f"another error: {error}"
    for known, name in ((new, "new"), (old, "old")):
        if all(known[key] == value for key, value in found.items()):
            return name
    return "a wrong store"
