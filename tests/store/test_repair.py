"""Repair: whatever was damaged is as it was, byte for byte, or named with the reason why it could not be."""

import os
import shutil
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.change import remove
from engine.store.dat import LAYERS
from engine.store.ingest import ingest
from engine.store.repair import RepairReport, repair_store
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from tests.builders import CPU, files_below, flip_bit, make_store, photo_bytes, write_photo, write_photos
from tests.store.crashes import dies_at, killed_after, leftovers

PHOTOS = [*range(100, 700, 2)]
FC7 = 4096 * 4


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 300 photos in 2 blocks and 20 appended in a third, with every kind of file, and their `.dat` files."""
    folder = tmp_path_factory.mktemp("made")
    write_photos(folder / "in", PHOTOS)
    write_photo(folder / "in", 5, b"damaged")
    ingest([folder / "in"], folder / "store", device=CPU)
    write_photos(folder / "in", range(50, 70))
    ingest([folder / "in"], folder / "store", device=CPU)
    remove(folder / "store", [50, 100, 300])
    return folder


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made / "store", tmp_path / "store")


def repaired(store: Path, *sources: Path) -> RepairReport:
    return repair_store(store, list(sources), device=CPU)


def without_lock(store: Path) -> dict[str, str]:
    return {name: digest for name, digest in files_below(store).items() if name != ".lock"}


def spoil(file: Path, *offsets: int) -> None:
    for offset in offsets:
        flip_bit(file, offset * 8 + 3)


def test_an_intact_store_is_left_alone(store, made):
    files = files_below(store)
    report = repaired(store, made / "in")
    assert (report.repaired, report.left) == ([], [])
    assert files_below(store) == files


@pytest.mark.parametrize("change", ["bits", "garbage", "cut", "empty", "absent", "long", "header"])
@pytest.mark.parametrize("name", ["fc7.npy", "fc8.npy"])
def test_rows_come_back_from_the_sources(store, made, name, change):
    before, file = without_lock(store), store / name
    data = bytearray(file.read_bytes())
    if change == "bits":
        spoil(file, 4096, 5000, len(data) - 1)
    elif change == "header":
        spoil(file, 10, 90)
    elif change == "absent":
        file.unlink()
    else:
        data[4096 : len(data) * 3 // 4] = data[4096 : len(data) * 3 // 4][::-1] if change == "garbage" else \
            data[4096 : len(data) * 3 // 4]  # fmt: skip
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "long": data + b"more"}.get(change, data))
    assert verify_store(store).damage != []
    report = repaired(store, made / "in")
    assert report.left == []
    assert {damage.file for damage in report.repaired} == {name}
    assert without_lock(store) == before
    assert verify_store(store).damage == []


def test_only_the_damaged_photo_need_be_there(store, tmp_path):
    """The other rows of its block are good, and the block is good once they stand beside the right one."""
    before = without_lock(store)
    spoil(store / "fc7.npy", 4096 + 7 * FC7 + 99)
    report = repaired(store, write_photos(tmp_path / "few", [PHOTOS[7]]))
    assert [(damage.file, damage.rows) for damage in report.repaired] == [("fc7.npy", (0, 255))]
    assert without_lock(store) == before


def test_sources_that_changed_since_are_no_obstacle(store, made, tmp_path):
    before = without_lock(store)
    spoil(store / "fc7.npy", 4096 + 7 * FC7 + 99)
    sources = shutil.copytree(made / "in", tmp_path / "changed")
    write_photo(sources, PHOTOS[9], photo_bytes(PHOTOS[9], 1))
    write_photo(sources, PHOTOS[10], b"short")
    assert repaired(store, sources).left == []
    assert without_lock(store) == before


def test_of_several_files_for_a_photo_the_right_one_is_taken(store, tmp_path):
    before = without_lock(store)
    spoil(store / "fc7.npy", 4096 + 7 * FC7 + 99)
    for version, folder in enumerate("bac"):
        write_photo(tmp_path / "many" / folder, PHOTOS[8], photo_bytes(PHOTOS[8], version))
    write_photo(tmp_path / "many", PHOTOS[7])
    assert repaired(store, tmp_path / "many").left == []
    assert without_lock(store) == before


def test_what_cannot_be_mended_is_named_and_left_as_it_is(store, made, tmp_path):
    spoil(store / "fc7.npy", 4096 + 7 * FC7, 4096 + 260 * FC7)
    spoil(store / "fc8.npy", 4096 + 310 * 4000)
    files = without_lock(store)
    report = repaired(store)
    assert [(d.file, d.rows, d.photo_ids) for d in report.left] == [
        ("fc7.npy", (0, 300), (100, 698)), ("fc8.npy", (300, 320), (50, 69))
    ]  # fmt: skip
    assert {damage.reason for damage in report.left} == {"cannot be read again, for no SOURCE was named"}
    assert without_lock(store) == files
    report = repaired(store, write_photos(tmp_path / "one", [50]))
    assert report.left[0].reason == "photo 100 (and 299 more) is not in the sources"
    assert without_lock(store) == files
    other = write_photos(tmp_path / "other", [])
    for photo in PHOTOS[:255]:
        write_photo(other, photo, photo_bytes(photo, 1))
    report = repaired(store, other)
    assert (report.left[0].rows, report.left[0].reason) == ((0, 255), "the sources hold other content")
    assert without_lock(store) == files
    some = write_photos(tmp_path / "some", [50 + 10])
    report = repaired(store, some)
    assert [d.file for d in report.repaired] == ["fc8.npy"]
    assert [d.rows for d in report.left] == [(0, 300)]


@pytest.mark.parametrize("kind", ["tar", "gz", "bz2"])
def test_archives_are_sources_too(store, made, tmp_path, kind):
    before = without_lock(store)
    spoil(store / "fc7.npy", 4096 + 7 * FC7, 4096 + 299 * FC7)
    spoil(store / "fc8.npy", 4096 + 310 * 4000)
    mode: Any = f"w:{'' if kind == 'tar' else kind}"
    with tarfile.open(tmp_path / f"all.tar.{kind}", mode) as archive:
        archive.add(made / "in", "in")
    few = write_photos(tmp_path / "few", PHOTOS[250:300])
    report = repaired(store, few, tmp_path / f"all.tar.{kind}")
    assert report.left == []
    assert without_lock(store) == before


@pytest.mark.parametrize("name", ["photo_ids.npy", "removed.npy", "quarantine.jsonl"])
def test_any_flipped_bit_of_a_small_file_is_found_without_sources(store, name):
    before, file = without_lock(store), store / name
    size = file.stat().st_size
    for bit in [1, 100 * 8, *range(4096 * 8 + 5, size * 8, max(1, (size - 4096) // 8) * 8 + 11), size * 8 - 8]:
        if bit < size * 8:
            flip_bit(file, bit)
            report = repaired(store)
            assert ([d.file for d in report.repaired], report.left) == ([name], []), bit
            assert without_lock(store) == before


def test_ids_come_back_from_the_names_of_the_sources(tmp_path):
    write_photos(tmp_path / "in", PHOTOS)
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    store, before = tmp_path / "store", without_lock(tmp_path / "store")
    for damage in (b"", bytes(range(256)) * 30):
        (store / "photo_ids.npy").write_bytes(damage)
        spoil(store / "fc7.npy", 4096 + 7 * FC7)
        report = repaired(store, tmp_path / "in")
        assert (len(report.repaired), report.left) == (2, [])
        assert without_lock(store) == before
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "in", "in")
    (store / "photo_ids.npy").unlink()
    assert repaired(store, tmp_path / "in.tar.gz").left == []
    assert without_lock(store) == before


def test_ids_of_an_appended_store_with_several_damaged(store, made):
    before, file = without_lock(store), store / "photo_ids.npy"
    data = bytearray(file.read_bytes())
    data[4096 + 80 : 4096 + 120] = b"\xff" * 40
    file.write_bytes(data)
    assert repaired(store, made / "in").left == []
    assert without_lock(store) == before


def grown_store(folder: Path, *ingests: Sequence[int]) -> tuple[Path, list[Path]]:
    """A store that has grown by one folder after the other, and the folders."""
    sources = [write_photos(folder / f"in{i}", photos) for i, photos in enumerate(ingests)]
    for source in sources:
        ingest([source], folder / "grown", device=CPU)
    return folder / "grown", sources


def lose(store: Path, how: str = "absent") -> None:
    file = store / "photo_ids.npy"
    data = file.read_bytes()
    file.unlink()
    ids = np.frombuffer(data, "<i8", offset=4096)
    if how == "cut":
        file.write_bytes(data[:4150])
    elif how == "permuted":
        file.write_bytes(data[:4096] + np.random.default_rng(1).permutation(ids).tobytes())


@pytest.mark.parametrize("how", ["absent", "cut", "permuted"])
def test_ids_of_a_store_that_has_grown_come_back_source_after_source(tmp_path, how, monkeypatch):
    store, sources = grown_store(tmp_path, range(400, 420), range(390, 450, 2), range(0, 500, 20))
    monkeypatch.setattr("engine.store.repair_ids.row_digests", None)  # no row need be read
    before = without_lock(store)
    lose(store, how)
    report = repaired(store, *sources)
    assert ([d.file for d in report.repaired], report.left) == (["photo_ids.npy"], [])
    assert without_lock(store) == before


@pytest.mark.parametrize("how", ["absent", "cut", "permuted"])
@pytest.mark.parametrize("kind", ["folders", "more than the store has", "gz"])
def test_ids_of_a_store_that_has_grown_come_back_by_content(tmp_path, kind, how):
    store, sources = grown_store(tmp_path, range(400, 700), range(390, 450, 2), range(0, 500, 20))
    remove(store, [404, 20])
    before = without_lock(store)
    lose(store, how)
    if kind == "more than the store has":
        sources.append(write_photos(tmp_path / "more", range(2000, 2010)))
    elif kind == "gz":
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
            for source in sources[1:]:
                archive.add(source, source.name)
        sources = [tmp_path / "all.tar.gz", sources[0]]
    report = repaired(store, *sources[::-1])
    assert ([d.file for d in report.repaired], report.left) == (["photo_ids.npy"], [])
    assert without_lock(store) == before


@pytest.mark.parametrize(
    ("alike", "named"), [({"a": [105], "b": [9, 111, 115]}, "ba"), ({"a": [105, 140], "b": [9, 101, 107]}, "ab")]
)
def test_photos_of_equal_content_get_their_ids_in_order(tmp_path, alike, named):
    """Where they stand among their neighbours says it, or the order in which the sources are named."""
    write_photos(tmp_path / "a", range(100, 160, 10))
    write_photos(tmp_path / "b", [*range(110, 120, 2), 200])
    for folder, photos in alike.items():
        for photo in photos:
            write_photo(tmp_path / folder, photo, photo_bytes(1))
        ingest([tmp_path / folder], tmp_path / "store", device=CPU)
    before = without_lock(tmp_path / "store")
    lose(tmp_path / "store")
    write_photos(tmp_path / "b", [300])  # so that counting does not do
    assert repaired(tmp_path / "store", *(tmp_path / folder for folder in named)).left == []
    assert without_lock(tmp_path / "store") == before


def test_damaged_rows_do_not_hinder_the_search_for_ids(tmp_path):
    store, sources = grown_store(tmp_path, range(400, 700), range(390, 450, 2))
    before = without_lock(store)
    lose(store)
    spoil(store / "fc7.npy", 4096 + 5)
    report = repaired(store, *sources[::-1])
    assert ({d.file for d in report.repaired}, report.left) == ({"photo_ids.npy", "fc7.npy"}, [])
    assert without_lock(store) == before


def test_what_was_tried_for_the_ids_in_vain_is_said(tmp_path):
    store, sources = grown_store(tmp_path, range(400, 420), range(390, 450, 2))
    lose(store)
    damaged = without_lock(store)
    (left,) = repaired(store, sources[1]).left
    assert left.file == "photo_ids.npy"
    assert "source after source, and by content (10 of 40 rows found no record): name all sources" in left.reason
    assert "\n" not in left.reason
    assert without_lock(store) == damaged
    (store / "fc8.npy").unlink()
    (store / "fc8.npy").mkdir()
    assert [d.file for d in repaired(store, sources[1]).left] == ["photo_ids.npy", "fc8.npy"]


def test_rows_wait_for_the_ids(store, tmp_path):
    (store / "photo_ids.npy").write_bytes(b"")
    spoil(store / "fc7.npy", 4096)
    left = repaired(store, write_photos(tmp_path / "few", [100])).left
    assert [damage.file for damage in left] == ["photo_ids.npy", "fc7.npy"]
    assert "name all sources of the store" in left[0].reason
    assert "while photo_ids.npy is damaged" in left[1].reason


def test_a_header_over_rows_that_are_still_damaged_is_not_called_mended(store, made):
    (store / "fc7.npy").unlink()
    report = repaired(store)
    assert report.repaired == []
    assert {(damage.file, damage.rows) for damage in report.left} == {("fc7.npy", (0, 320))}
    report = repaired(store, made / "in")
    assert ([damage.rows for damage in report.repaired], report.left) == ([(0, 320)], [])


@pytest.fixture
def refused(tmp_path):
    """A store that set three files aside, and its sources."""
    write_photos(tmp_path / "in", range(9))
    for photo in (70, 71, 72):
        write_photo(tmp_path / "in", photo, b"damaged" * photo)
    ingest([tmp_path / "in"], tmp_path / "refused", device=CPU)
    return tmp_path / "refused", tmp_path / "in"


LOST = {
    "absent": None,
    "torn": lambda lines: b"".join(lines)[:-9],
    "junk between": lambda lines: lines[0] + b'{"source": 1}\n[1]\n\xff\n' + lines[1] + b"[" * 9000 + b"\n",
    "a line twice": lambda lines: b"".join([*lines[:2], lines[0]]),
    "one endless line": lambda lines: b"".join(lines[:2]) + b"x" * (3 << 20),
}


@pytest.mark.parametrize("change", LOST)
def test_a_list_of_what_was_set_aside_is_begun_anew_with_its_whole_lines(refused, change):
    store, sources = refused
    before, file = without_lock(store), store / "quarantine.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    change_to = LOST[change]
    if change_to:
        file.write_bytes(change_to(lines))
    else:
        file.unlink()
    damaged = without_lock(store)
    for replace in (False, True):  # which would give what is left of it a checksum of its own
        with pytest.raises(StoreError, match=r"quarantine\.jsonl: .*`mirsearch verify .*refused --repair`"):
            ingest([sources], store, device=CPU, replace=replace)
    assert without_lock(store) == damaged
    kept = lines[:2] if change_to else []
    report = repaired(store)
    assert (report.repaired, report.left) == ([], [])
    assert f"begun anew with {len(kept)} lines that could be read; it had 3" in report.lost["quarantine.jsonl"]
    assert file.read_bytes() == b"".join(kept)
    assert Store.open(store).manifest.quarantined == len(kept)
    assert verify_store(store).damage == []
    assert repaired(store).lost == {}
    ingest([sources], store, device=CPU)
    assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)
    if kept:
        assert without_lock(store) == before
    again = without_lock(store)
    ingest([sources], store, device=CPU)
    assert without_lock(store) == again


def test_a_flipped_bit_in_that_list_costs_no_line(refused):
    store, before = refused[0], without_lock(refused[0])
    spoil(store / "quarantine.jsonl", 40)
    assert [damage.file for damage in repaired(store).repaired] == ["quarantine.jsonl"]
    assert without_lock(store) == before


@pytest.mark.parametrize("change", ["absent", "torn", "other"])
def test_lost_marks_of_removed_photos_are_left_unless_they_are_to_be_forgotten(store, made, change):
    file = store / "removed.npy"
    data = file.read_bytes()
    file.unlink()
    if change != "absent":
        file.write_bytes(data[:-3] if change == "torn" else data[:4096] + np.array([1, 2, 3], "<i8").tobytes())
    damaged = without_lock(store)
    report = repaired(store, made / "in")
    assert ([damage.file for damage in report.left], report.lost) == (["removed.npy"], {})
    assert "It marked 3 photos as removed, and nothing else says which" in report.left[0].reason
    assert "--forget-removed" in report.left[0].reason
    assert without_lock(store) == damaged
    report = repair_store(store, [], device=CPU, forget_removed=True)
    assert (report.repaired, report.left) == ([], [])
    assert "It had marked 3 photos as removed" in report.lost["removed.npy"]
    assert (Store.open(store).removed, Store.open(store).photos, file.exists()) == (None, 320, False)
    assert verify_store(store).damage == []


def test_marks_that_are_whole_or_can_be_mended_are_not_forgotten(store):
    before = without_lock(store)
    repair_store(store, [], device=CPU, forget_removed=True)
    assert without_lock(store) == before
    spoil(store / "removed.npy", 4096 + 9)
    assert repair_store(store, [], device=CPU, forget_removed=True).lost == {}
    assert without_lock(store) == before


@pytest.mark.parametrize("name", ["removed.npy", "quarantine.jsonl", "fc7.npy"])
def test_a_folder_that_has_the_name_of_a_file_is_left(store, made, name):
    (store / name).unlink()
    (store / name).mkdir()
    left = repair_store(store, [made / "in"], device=CPU, forget_removed=True).left
    assert [damage.file for damage in left] == [name]
    assert "move that away" in left[0].reason
    assert not (store / "commit.json").exists()


def test_killed_at_any_write_what_is_begun_anew_is_the_same(store, tmp_path):
    (store / "removed.npy").unlink()
    (store / "quarantine.jsonl").write_bytes(b"torn")
    work = partial(repair_store, device=CPU, forget_removed=True)
    work(shutil.copytree(store, tmp_path / "whole"), [])
    for call in range(1, 100):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(work, path, []))
        work(path, [])
        assert without_lock(path) == without_lock(tmp_path / "whole")
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert call > 6


def test_a_damaged_manifest_is_beyond_repair(store, made):
    flip_bit(store / "manifest.json", 900)
    files = files_below(store)
    with pytest.raises(StoreError, match=r"manifest\.json.*restore it from a copy.*Nothing can be repaired without it"):
        repaired(store, made / "in")
    assert files_below(store) == files
    with pytest.raises(StoreError, match="This is no store"):
        repaired(made / "in", made / "in")
    assert not (made / "in" / ".lock").exists()


def test_layers_that_came_from_elsewhere(tmp_path):
    random = np.random.default_rng(0)
    path = make_store(tmp_path / "store", {"glove": random.random((50, 8), np.float32)}).path
    before = without_lock(path)
    spoil(path / "glove.npy", 60)
    assert repaired(path).left == []  # the header follows from the manifest
    assert without_lock(path) == before
    spoil(path / "glove.npy", 4096)
    assert [damage.reason for damage in repaired(path).left] == [
        "did not come from .dat files. Restore them from a copy, or import again"
    ]


def test_ids_that_count_the_rows_come_back_without_sources(tmp_path):
    rows = np.random.default_rng(0).random((700, 3), np.float32)
    path = make_store(tmp_path / "store", {"glove": rows}, np.arange(700)).path
    before = without_lock(path)
    (path / "photo_ids.npy").unlink()
    assert repaired(path).left == []
    assert without_lock(path) == before


def test_query_sets_get_their_headers_back(tmp_path):
    random = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", {"x": 4}) as writer:
        writer.write(writer.reserve(9), np.arange(9), {"x": random.random((9, 4), np.float32)})
        writer.query_set("x", random.random((2, 4), np.float32), np.arange(6).reshape(2, 3), None, "ip")
        writer.finish([])
    before = without_lock(tmp_path / "store")
    spoil(tmp_path / "store" / "queries-x.npy", 3, 4097)
    os.truncate(tmp_path / "store" / "neighbors-x.npy", 9999)
    assert repaired(tmp_path / "store").left == []
    assert without_lock(tmp_path / "store") == before


def test_what_an_interrupted_ingest_wrote_is_kept(store, made):
    with StoreWriter(store, LAYERS, append=True) as writer:
        rows = {name: np.ones((3, dim), np.float32) for name, dim in LAYERS.items()}
        writer.write(writer.reserve(3), np.arange(3), rows, key="one")
    before = without_lock(store)
    spoil(store / "fc7.npy", 8, 4096)
    (store / "photo_ids.npy").unlink()
    assert repaired(store, made / "in").left == []
    assert without_lock(store) == before


def test_killed_at_any_write_it_can_be_repeated(store, made, tmp_path):
    before = without_lock(store)
    spoil(store / "fc7.npy", 9, 4096, 4096 + 299 * FC7)
    spoil(store / "fc8.npy", 4096 + 310 * 4000)
    spoil(store / "removed.npy", 4096)
    spoil(store / "photo_ids.npy", 4200, 5000, 6500)
    for call in range(1, 200):
        path = shutil.copytree(store, tmp_path / "work")
        died = dies_at(call, partial(repaired, path, made / "in"))
        assert {damage.file for damage in verify_store(path).damage} <= {
            "fc7.npy", "fc8.npy", "removed.npy", "photo_ids.npy"
        }  # fmt: skip
        assert repaired(path, made / "in").left == []
        assert without_lock(path) == before
        assert leftovers(path) == []
        shutil.rmtree(path)
        if not died:
            break
    assert call > 10


def test_killed_at_any_moment_it_can_be_repeated(store, made, tmp_path):
    before, killed = without_lock(store), 0
    (store / "fc7.npy").unlink()
    spoil(store / "photo_ids.npy", 4200)
    for moment in np.random.default_rng(2).uniform(0.001, 0.1, 10):
        path = shutil.copytree(store, tmp_path / "work")
        killed += killed_after(float(moment), partial(repaired, path, made / "in"))
        assert repaired(path, made / "in").left == []
        assert without_lock(path) == before
        shutil.rmtree(path)
    assert killed
