"""What verbs write never lands in the folder of a store."""

from pathlib import Path

import pytest

from engine.errors import InputError
from engine.store.outside import check_outside


def test_a_place_in_the_store_is_refused_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, disk = tmp_path / "store", tmp_path / "disk"
    for folder in (store, disk, store / "bench"):
        folder.mkdir()
    (disk / "rows.npy").write_bytes(b"rows")
    (store / "fc7.npy").symlink_to(disk / "rows.npy")  # it leads out, but its name is the store's
    (tmp_path / "way").symlink_to(store)
    (tmp_path / "leads.npy").symlink_to(store / "photo_ids.npy")
    monkeypatch.chdir(store)
    inside = [
        store, store / "fc7.npy", store / "new" / "deep", tmp_path / "way" / "x", tmp_path / "leads.npy",
        Path("fc7.npy"), disk / ".." / "store" / "x", store / "bench" / ".." / "fc7.npy",
    ]  # fmt: skip
    for file in inside:
        with pytest.raises(
            InputError, match=r"lies in the folder of the store itself\. Choose another one\.$"
        ) as error:
            check_outside(store, disk / "new", file, but=store / "bench")
        assert str(error.value).startswith(f"{file}: ")
    check_outside(store, tmp_path / "store2", tmp_path / "new" / "x.npy", disk / "rows.npy")
    check_outside(store, store / "bench" / "fc7", store / "bench", but=store / "bench")
    with pytest.raises(InputError, match="lies in the folder"):
        check_outside(store, store / "bench" / "fc7")
