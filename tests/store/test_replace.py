"""Replace: rows follow the sources, by one step; what is damaged, removed or unknown changes nothing."""

import json
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError, InputError, StoreError
from engine.store.change import remove
from engine.store.ingest import ingest
from engine.store.replace import Replacement, ReplaceReport, replace_rows
from engine.store.sources import find_sources
from engine.store.store import Store
from engine.store.verify import verify_store
from tests.builders import (
    CPU,
    dat_bytes,
    files_below,
    flip_bit,
    make_store,
    photo_bytes,
    photo_layers,
    write_photo,
    write_photos,
)
from tests.store.crashes import dies_at, killed_after, leftovers, refused_for_room, said, small_disk

PHOTOS = range(100, 700, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 300 photos in 2 blocks, and their files."""
    folder = tmp_path_factory.mktemp("made")
    write_photos(folder / "in", PHOTOS)
    ingest([folder / "in"], folder / "store", device=CPU)
    return folder


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made / "store", tmp_path / "store")


def changed(root, *photos: int, version: int = 1):
    for photo in photos:
        write_photo(root, photo, photo_bytes(photo, version))
    return root


def replaced(store, *sources, only=None, strict=False) -> ReplaceReport:
    found = find_sources(list(sources))
    given = Replacement(
        records=found.listing, streams=found.streams, sources=[str(source) for source in sources], only=only
    )
    return replace_rows(store, given, device=CPU, strict=strict)


def test_rows_that_differ_are_rewritten_and_no_others(store, tmp_path):
    before = Store.open(store)
    state, old = before.manifest.state, {name: rows.copy() for name, rows in before.layers.items()}
    new = changed(tmp_path / "new", 100, 104, 612, 698)
    write_photos(new, [102, 300])
    report = replaced(store, write_photos(new, [5_000_000]))
    assert (report.replaced, report.unchanged, report.removed, report.refused) == (4, 2, 0, [])
    after = Store.open(store)
    for row, photo in enumerate(PHOTOS):
        expected = photo_layers(photo, 1) if photo in (100, 104, 612, 698) else photo_layers(photo)
        assert after.fc7[row].tobytes() == expected[0].tobytes()
        assert after.fc8[row].tobytes() == expected[1].tobytes()
    assert verify_store(store).damage == []
    assert after.manifest.state != state
    assert after.manifest.sources[-1] == str(new)
    assert leftovers(store) == []
    files = files_below(store)
    assert replaced(store, new).replaced == 0
    assert files_below(store) == files
    back = replaced(store, write_photos(tmp_path / "back", [100, 104, 612, 698]))
    assert back.replaced == 4
    assert all(Store.open(store).layers[name].tobytes() == rows.tobytes() for name, rows in old.items())
    assert Store.open(store).manifest.state == state


def test_one_bit_of_one_layer_is_a_difference(store, tmp_path):
    """Minus zero too, which equals zero."""
    fc7, fc8 = photo_layers(100)
    assert (fc7 == 0).any()
    fc7[np.flatnonzero(fc7 == 0)[0]] = -0.0
    write_photo(tmp_path / "new", 100, dat_bytes(fc7, fc8))
    assert replaced(store, tmp_path / "new").replaced == 1
    assert Store.open(store).fc7[0].tobytes() == fc7.tobytes()


def test_damaged_files_replace_nothing_and_are_set_aside(store, tmp_path):
    new = changed(tmp_path / "new", 102)
    write_photo(new, 100, photo_bytes(100, 1)[:-1])
    write_photo(new, 104, b"")
    report = replaced(store, new)
    assert (report.replaced, report.unchanged, [r.photo_id for r in report.refused]) == (1, 0, [100, 104])
    lines = [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]
    assert [line["photo_id"] for line in lines] == [100, 104]
    assert "cut short" in lines[0]["reason"]
    assert Store.open(store).fc7[0].tobytes() == photo_layers(100)[0].tobytes()
    assert verify_store(store).damage == []
    files = files_below(store)
    assert len(replaced(store, new).refused) == 2
    assert files_below(store) == files


def test_strict_changes_nothing(store, tmp_path):
    new = changed(tmp_path / "new", 102)
    write_photo(new, 100, b"short")
    files = files_below(store)
    with pytest.raises(InputError, match=r"100\.dat: 5 bytes.*Nothing was written"):
        replaced(store, new, strict=True)
    assert files_below(store) == files


def test_of_a_photo_that_comes_twice_the_first_counts(store, tmp_path):
    changed(tmp_path / "new" / "a", 100, version=1)
    changed(tmp_path / "new" / "b", 100, version=2)
    report = replaced(store, tmp_path / "new")
    assert (report.replaced, [r.photo_id for r in report.refused]) == (1, [100])
    assert Store.open(store).fc7[0].tobytes() == photo_layers(100, 1)[0].tobytes()


def test_a_removed_photo_stays_removed(store, tmp_path):
    remove(store, [100, 200])
    report = replaced(store, changed(tmp_path / "new", 100, 102))
    assert (report.replaced, report.removed) == (1, 1)
    after = Store.open(store)
    assert after.removed is not None
    assert np.flatnonzero(after.removed).tolist() == [0, 50]
    assert after.fc7[0].tobytes() == photo_layers(100)[0].tobytes()


def test_only_some_photos(store, tmp_path):
    report = replaced(store, changed(tmp_path / "new", 100, 102, 104), only=np.array([102, 9]))
    assert (report.replaced, report.unchanged) == (1, 0)
    assert Store.open(store).fc7[1].tobytes() == photo_layers(102, 1)[0].tobytes()


@pytest.mark.parametrize("kind", ["tar", "gz", "bz2"])
def test_archives(store, tmp_path, kind):
    new = changed(tmp_path / "new", 100, 300)
    write_photos(new, [102])
    write_photo(new, 104, photo_bytes(104)[:3000] + b"\xff\xff\xff\x7f" + photo_bytes(104)[3004:])
    changed(tmp_path / "again", 100, version=2)
    mode: Any = f"w:{'' if kind == 'tar' else kind}"
    with tarfile.open(tmp_path / f"new.tar.{kind}", mode) as archive:
        archive.add(new, "new")
        archive.add(tmp_path / "again", "again")
    report = replaced(store, tmp_path / f"new.tar.{kind}")
    assert (report.replaced, report.unchanged) == (2, 1)
    reasons = {r.photo_id: r.reason for r in report.refused}
    assert "photo 100 again, with other content" in reasons[100]
    assert "expected finite values" in reasons[104]
    assert Store.open(store).fc8[100].tobytes() == photo_layers(300, 1)[1].tobytes()
    assert verify_store(store).damage == []


def test_a_damaged_archive_replaces_nothing(store, tmp_path):
    """gzip: a wrong checksum at its end means that none of it can be trusted."""
    new = changed(tmp_path / "new", 100, 300)
    with tarfile.open(tmp_path / "new.tar.gz", "w:gz") as archive:
        archive.add(new, "new")
    flip_bit(tmp_path / "new.tar.gz", (tmp_path / "new.tar.gz").stat().st_size * 8 - 60)
    files = files_below(store)
    assert replaced(store, tmp_path / "new.tar.gz").replaced == 0
    assert files_below(store) == files


def test_a_damaged_block_is_not_vouched_for(store, tmp_path):
    flip_bit(store / "fc7.npy", (4096 + 50 * 16384) * 8)
    files = files_below(store)
    with pytest.raises(StoreError, match=r"rows 0 to 255: do not match their checksum.*--repair"):
        replaced(store, changed(tmp_path / "new", 100))
    assert files_below(store) == files
    assert replaced(store, changed(tmp_path / "other", 698)).replaced == 1  # of another block
    assert [damage.rows for damage in verify_store(store).damage] == [(0, 256)]


def test_other_layers_are_refused(tmp_path):
    path = make_store(tmp_path / "store", {"glove": np.ones((5, 3), np.float32)}).path
    with pytest.raises(InputError, match=r"holds layers glove \(3\), which no \.dat file has"):
        replaced(path, changed(tmp_path / "new", 1000))


@pytest.mark.parametrize("kind", ["files", "tar.gz"])
def test_strict_takes_back_the_new_photos_too(store, tmp_path, kind):
    """What is refused among photos that are to be replaced comes to light before anything is made valid."""
    new = changed(tmp_path / "new", 102, 5_000_000)
    write_photo(new, 104, photo_bytes(104)[:3000] + b"\xff\xff\xff\x7f" + photo_bytes(104)[3004:])
    source = new
    if kind != "files":
        with tarfile.open(source := tmp_path / "new.tar.gz", "w:gz") as archive:
            archive.add(new, "new")
    files = files_below(store)
    with pytest.raises(InputError, match=r"104\.dat: .*Nothing was written \(--strict\)"):
        ingest([source], store, device=CPU, strict=True, replace=True)
    assert files_below(store) == files
    report = ingest([source], store, device=CPU, replace=True)
    assert (report.photos, report.replaced, report.refused) == (1, 1, 1)
    after = Store.open(store)
    assert after.rows_of([102, 5_000_000]).tolist() == [1, 300]
    assert [after.fc7[row].tobytes() for row in (1, 300)] == [
        photo_layers(photo, 1)[0].tobytes() for photo in (102, 5_000_000)
    ]
    assert verify_store(store).damage == []
    assert leftovers(store) == []


def test_new_photos_wait_for_a_damaged_block_to_be_mended(store, tmp_path):
    """All of the ingest or nothing of it, and what it had written is not read again."""
    new = changed(tmp_path / "new", 100, 5_000_000)
    damaged = shutil.copytree(store, tmp_path / "damaged")
    flip_bit(damaged / "fc7.npy", (4096 + 50 * 16384) * 8)
    with pytest.raises(StoreError, match=r"rows 0 to 255: do not match their checksum.*--repair"):
        ingest([new], damaged, device=CPU, replace=True)
    assert len(Store.open(damaged)) == 300
    flip_bit(damaged / "fc7.npy", (4096 + 50 * 16384) * 8)
    report = ingest([new], damaged, device=CPU, replace=True)
    assert (report.photos, report.resumed, report.replaced) == (1, 1, 1)
    ingest([new], store, device=CPU, replace=True)
    assert said(damaged) == said(store)


def test_killed_at_any_write_of_an_ingest_that_adds_and_replaces(tmp_path):
    """The new rows come first, the changed ones then: never the second without the first."""
    store = tmp_path / "store"
    ingest([write_photos(tmp_path / "in", range(100, 110))], store, device=CPU)
    new = changed(tmp_path / "new", 100, 5_000_000)
    work, old = partial(ingest, [new], device=CPU, replace=True), said(store)
    added, finished = shutil.copytree(store, tmp_path / "added"), shutil.copytree(store, tmp_path / "finished")
    ingest([new], added, device=CPU)
    work(store=finished)
    states, seen = [old, said(added), said(finished)], set()
    for call in range(1, 200):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(work, store=path))
        seen.add(states.index(said(path)))
        work(store=path)
        assert said(path) == states[2]
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("replace", [False, True])
def test_removed_photos_that_an_archive_holds_are_counted(store, tmp_path, replace):
    remove(store, [100, 200, 300])
    changed(tmp_path / "new", 100, 102, 200)
    with tarfile.open(tmp_path / "new.tar.gz", "w:gz") as archive:
        archive.add(write_photos(tmp_path / "new", [5_000_000]), "new")
    report = ingest([tmp_path / "new.tar.gz"], store, device=CPU, replace=replace)
    assert (report.photos, report.known, report.passed_over, report.replaced) == (1, 1, 2, int(replace))
    assert (report.total, report.removed) == (298, 3)


def test_an_archive_that_an_interrupted_run_has_ended_says_so_again(store, tmp_path):
    remove(store, [100])
    changed(tmp_path / "new", 100, 102, 5_000_000)
    for name in ("a", "b"):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "new", "new")
        write_photo(tmp_path / "new", 6_000_000)
    damaged = (4096 + 50 * 16384) * 8
    flip_bit(store / "fc7.npy", damaged)
    work = partial(ingest, [tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"], store, device=CPU, replace=True)
    with pytest.raises(StoreError, match="--repair"):
        work()
    flip_bit(store / "fc7.npy", damaged)
    report = work()
    assert (report.photos, report.resumed, report.known, report.passed_over) == (2, 2, 2, 2)


@pytest.mark.parametrize("replace", [False, True])
def test_removed_photos_that_the_sources_hold_are_counted(store, tmp_path, replace):
    remove(store, [100, 200, 300])
    new = changed(tmp_path / "new", 100, 200)
    write_photos(new, [102, 5_000_000])
    report = ingest([new], store, device=CPU, replace=replace)
    assert (report.photos, report.known, report.passed_over, report.replaced) == (1, 1, 2, 0)
    assert (report.total, report.removed) == (298, 3)
    assert report.files_read == (2 if replace else 1)
    remove(store, [100], undo=True)
    report = ingest([new], store, device=CPU, replace=replace)
    assert (report.known, report.passed_over, report.replaced) == (3, 1, int(replace))


def test_killed_at_any_write_it_is_the_old_store_or_the_new_one(store, tmp_path):
    new = changed(tmp_path / "new", 100, 102, 400, 698)
    write_photo(new, 104, b"short")
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    replaced(tmp_path / "finished", new)
    finished, seen = said(tmp_path / "finished"), set()
    for call in range(1, 200):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(replaced, path, new))
        now = said(path)
        assert now in (old, finished), call
        seen.add(now == finished)
        replaced(path, new)
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert (call > 15, seen) == (True, {True, False})


def test_killed_at_any_moment(store, tmp_path):
    new = changed(tmp_path / "new", *PHOTOS)
    old = said(store)
    shutil.copytree(store, tmp_path / "finished")
    replaced(tmp_path / "finished", new)
    finished, killed = said(tmp_path / "finished"), 0
    for moment in np.random.default_rng(2).uniform(0.001, 0.1, 10):
        path = shutil.copytree(store, tmp_path / "work")
        killed += killed_after(float(moment), partial(replaced, path, new))
        assert said(path) in (old, finished)
        replaced(path, new)
        assert said(path) == finished
        assert leftovers(path) == []
        shutil.rmtree(path)
    assert killed


def test_a_disk_that_fills_up_leaves_the_old_store(store, tmp_path):
    new = changed(tmp_path / "new", *PHOTOS)
    with small_disk(tmp_path / "disk", 9_000_000) as disk:
        path = shutil.copytree(store, disk / "store")
        files = files_below(path)
        with pytest.raises(EngineError, match="the disk is full"):
            replaced(path, new)
        assert files_below(path) == files
        subprocess.run(["mount", "-o", "remount,size=20000000", disk], check=True)
        assert replaced(path, new).replaced == len(PHOTOS)
        assert verify_store(path).damage == []


def test_a_full_disk_leaves_the_old_store(store, tmp_path):
    new = changed(tmp_path / "new", *PHOTOS)
    files = files_below(store)
    assert refused_for_room(lambda: replaced(store, new), 1_000_000)
    assert files_below(store) == files
    assert replaced(store, new).replaced == len(PHOTOS)


def test_two_at_once(store, tmp_path):
    code = "import sys; from pathlib import Path; from engine.store.hold import held\nwith held(Path(sys.argv[1])):\n"
    code += "    print('held', flush=True); sys.stdin.read()"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", code, store], cwd=root, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:  # fmt: skip
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match="another mirsearch is writing here"):
            replaced(store, changed(tmp_path / "new", 100))
        other.communicate()
    assert replaced(store, tmp_path / "new").replaced == 1
