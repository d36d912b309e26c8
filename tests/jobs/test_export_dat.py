"""`.dat` files again: the very bytes that the store was made from."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from engine.errors import DiskFullError, InputError
from engine.jobs.export_dat import export_dat
from engine.store.store import Store
from tests.builders import CPU, files_below, make_store, photo_layers, write_photos

IDS = [0, 7, 9999, 10_000, 10_001, 103_169, 10**14]


@pytest.fixture
def store(tmp_path):
    layers = [photo_layers(photo_id) for photo_id in IDS]
    return make_store(
        tmp_path / "store",
        {"fc7": np.array([fc7 for fc7, _ in layers]), "fc8": np.array([fc8 for _, fc8 in layers])},
        IDS,
    )


def test_every_file_is_the_publishers(tmp_path, store):
    report = export_dat(store, tmp_path / "new" / "dat")
    write_photos(tmp_path / "expected", IDS)
    assert files_below(tmp_path / "new" / "dat") == files_below(tmp_path / "expected")
    assert (report.files, report.bytes) == (7, 7 * 20_400)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["dat"]


def test_what_is_exported_can_be_ingested_to_the_same_rows(tmp_path, store):
    from engine.store.ingest import ingest

    export_dat(store, tmp_path / "dat")
    ingest([tmp_path / "dat"], tmp_path / "again", device=CPU)
    again = Store.open(tmp_path / "again")
    assert again.photo_ids.tolist() == IDS
    assert all(again.layer(name).tobytes() == store.layer(name).tobytes() for name in ("fc7", "fc8"))


def test_removed_photos_are_left_out(tmp_path, store):
    gone = np.array([photo_id in (7, 10_001) for photo_id in IDS])
    export_dat(replace(store, removed=gone), tmp_path / "dat")
    assert not (tmp_path / "dat/0/7.dat").exists() and (tmp_path / "dat/1/10000.dat").exists()
    assert len(files_below(tmp_path / "dat")) == 5


def test_other_layers_are_an_error(tmp_path):
    other = make_store(tmp_path / "other", {"fc7": np.zeros((2, 8), np.float32)})
    with pytest.raises(InputError, match=r"\.dat files hold fc7 .* has fc7 \(8\)"):
        export_dat(other, tmp_path / "dat")
    assert not (tmp_path / "dat").exists()


def test_what_is_there_is_never_overwritten(tmp_path, store):
    (tmp_path / "dat").mkdir()
    with pytest.raises(InputError, match="is there already"):
        export_dat(store, tmp_path / "dat")
    (tmp_path / "killed.part").mkdir()
    (tmp_path / "killed.part" / "mine").write_text("")
    with pytest.raises(InputError, match="was interrupted here"):
        export_dat(store, tmp_path / "killed")
    assert (tmp_path / "killed.part" / "mine").exists() and not (tmp_path / "killed").exists()


def test_an_interrupt_leaves_nothing(tmp_path, store):
    def stop(phase, done, total, **_):
        if phase == "export":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dat(store, tmp_path / "dat", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_too_little_room_is_said_before_the_work(tmp_path, store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=143_359))  # 7 files of 20,480 bytes less 1
    with pytest.raises(DiskFullError, match=r"dat: takes at least 143\.4 KB, 143\.4 KB are free"):
        export_dat(store, tmp_path / "dat")
    assert not (tmp_path / "dat").exists() and not (tmp_path / "dat.part").exists()
