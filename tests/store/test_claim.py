"""A folder is taken by one writer, refused for what is in it, and left as it was."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.claim import Claim
from engine.store.journal import Journal
from tests.builders import files_below, make_store

DIMS = {"fc7": 5, "fc8": 3}


def test_a_claim_that_leaves_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "made" / "for this", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        claim = Claim(path, DIMS, append=False)
        assert claim.base is None
        with pytest.raises(StoreError, match="another mirsearch is writing here"):
            Claim(path, DIMS, append=True)
        claim.leave_nothing()
        claim.release()
        assert not (path / ".lock").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "there"]
    assert not (tmp_path / "made" / "for this").exists()


def test_a_store_keeps_its_lock_and_may_be_claimed_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"fc7": np.zeros((4, 5), np.float32), "fc8": np.zeros((4, 3), np.float32)})
    before = files_below(store.path)
    for _ in range(2):
        claim = Claim(store.path, DIMS, append=True)
        assert claim.base == store.manifest
        claim.leave_nothing()
        claim.release()
        assert files_below(store.path) == before
        assert (store.path / ".lock").exists()


@pytest.mark.parametrize("append", [True, False])
def test_another_store_is_refused_and_untouched(tmp_path: Path, append: bool) -> None:
    store = make_store(tmp_path / "store", {"fc7": np.zeros((4, 6), np.float32)})
    (store.path / ".lock").unlink(missing_ok=True)
    before = files_below(store.path)
    said = r"holds layers fc7 \(6\), expected fc7 \(5\), fc8 \(3\)" if append else "already holds a store"
    with pytest.raises(StoreError, match=said):
        Claim(store.path, DIMS, append=append)
    assert files_below(store.path) == before  # and no lock that was not there


def test_files_that_no_ingest_began_are_refused_until_a_journal_speaks_of_them(tmp_path: Path) -> None:
    for name in ("fc8.npy", "photo_ids.npy", "quarantine.jsonl"):
        path = tmp_path / "store"
        path.mkdir()
        (path / name).write_bytes(b"mine")
        with pytest.raises(StoreError, match=f"holds {name}, which no ingest began"):
            Claim(path, DIMS, append=False)
        Journal(path, {"layers": DIMS, "base": ""}).close()
        Claim(path, DIMS, append=False).release()
        with pytest.raises(StoreError, match="an interrupted ingest or import of something else"):
            Claim(path, {"fc7": 5}, append=False)
        shutil.rmtree(path)


def test_a_folder_that_vanishes_between_two_looks_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "store", []
    mkdir = Path.mkdir

    def vanishing(self, *args, **options):
        calls.append(self)
        if len(calls) == 1:  # it was there when it was to be made, and is gone when it is looked at
            raise FileExistsError(17, "File exists", str(self))
        mkdir(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", vanishing)
    Claim(path, {"fc8": 3}, append=True).release()
    assert len(calls) == 2 and path.is_dir()
