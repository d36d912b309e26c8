"""From files of every kind to the table: right rows, damage set aside, interrupted at any moment."""

import bz2
import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import DiskFullError, InputError, StoreError
from engine.jobs.annotation_stats import annotation_stats
from engine.store.annotations import assemble, ingest, reading, sources
from engine.store.annotations.flickr import parse
from engine.store.annotations.ingest import PARTS, ingest_annotations
from engine.store.annotations.reading import part_table
from engine.store.annotations.schema import FILE, QUARANTINE
from engine.store.annotations.table import Annotations
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.store import Store
from engine.store.verify import verify_store
from tests.builders import flip_bit, make_store

IDS = [30, 4, 100_007, 5, 20_001, 7]


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", {"fc7": np.ones((len(IDS), 8), np.float32)}, IDS)
    return tmp_path / "s"


def document(photo_id: int, **more: Any) -> bytes:
    said = {"title": {"_content": f"photo {photo_id}"}, "tags": {"tag": [{"raw": "A b", "_content": "ab"}]}, **more}
    return json.dumps({"photo": said, "stat": "ok"}).encode()


def write_files(root: Path, ids: list[int], **more: Any) -> Path:
    for photo_id in ids:
        path = root / str(photo_id // 10_000) / f"{photo_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(document(photo_id, **more))
    return root


def rows_of(store: Path, *columns: str) -> list[dict[str, Any]]:
    return Annotations.open(Store.open(store)).table(list(columns) or None).to_pylist()


def members(ids: list[int]) -> list[tuple[str, bytes]]:
    return [(f"metadata/{photo_id // 10_000}/{photo_id}.json", document(photo_id)) for photo_id in ids]


def tar_bytes(files: list[tuple[str, bytes]]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return held.getvalue()


def zip_bytes(files: list[tuple[str, bytes]]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return held.getvalue()


def quarantine(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (store / QUARANTINE).read_bytes().splitlines()]


def test_rows_stand_as_the_stores_do_and_all_is_counted(store, tmp_path):
    files = write_files(tmp_path / "a", [5, 30, 20_001, 99, 100_007])
    (files / "README").write_text("no annotation")
    report = ingest_annotations(store, [files])
    assert rows_of(store, "photo_id", "annotated", "title", "tags") == [
        {"photo_id": i, "annotated": i not in (4, 7), "title": None if i in (4, 7) else f"photo {i}",
         "tags": None if i in (4, 7) else ["ab"]}
        for i in IDS
    ]  # fmt: skip
    assert (report.photos, report.annotated, report.without_annotations, report.without_features) == (6, 4, 2, 1)
    assert (report.files_read, report.refused, report.ignored, report.repeated, report.resumed) == (5, 0, 1, 0, 0)
    facts = Annotations.open(Store.open(store)).facts
    assert (facts.annotated, facts.without_features, facts.quarantined) == (4, 1, 0)
    assert not (store / PARTS).exists() and quarantine(store) == []
    assert verify_store(store).damage == [] and verify_store(store).notes == []


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", tar_bytes), ("a.tar.bz2", lambda files: bz2.compress(tar_bytes(files))), ("a.zip", zip_bytes),
        ("a.tgz", lambda files: gzip.compress(tar_bytes(files))),
    ],
)  # fmt: skip
def test_archives_give_the_same_table_as_folders(store, tmp_path, name, pack):
    ids = [7, 5, 30, 99, 4, 20_001]
    ingest_annotations(store, [write_files(tmp_path / "a", ids)])
    expected = rows_of(store)
    (store / FILE).unlink()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).write_bytes(pack([("notes.md", b"x"), *members(ids)]))
    for source in (tmp_path / "b" / name, tmp_path / "b"):
        report = ingest_annotations(store, [source])
        assert rows_of(store) == expected
        assert (report.files_read, report.ignored, report.refused) == (6, 1, 0)


def test_archives_that_are_cut_or_hostile_give_what_came_before(store, tmp_path):
    whole = tar_bytes([*members([4, 5, 7]), ("../../etc/30.json", document(30))])
    for name, data in (("cut.tar", whole[:2000]), ("evil.tar", whole), ("none.tar.gz", gzip.compress(whole)[:40])):
        path = tmp_path / name
        path.write_bytes(data)
        report = ingest_annotations(store, [path], replace=True)
        assert report.refused == 1
        assert rows_of(store, "photo_id", "annotated")[0] == {"photo_id": 30, "annotated": False}
    ingest_annotations(store, [tmp_path / "cut.tar"])
    assert rows_of(store, "annotated")[1] == {"annotated": True}
    assert "reading stopped after metadata/0/5.json" in quarantine(store)[0]["reason"]
    packed = bytearray(zip_bytes(members([4, 5])))
    packed[60] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(packed)
    report = ingest_annotations(store, [tmp_path / "bad.zip"], replace=True)
    assert (report.annotated, report.refused) == (1, 1)


def test_a_member_that_claims_too_much_is_not_held(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST", 500)
    big = ("0/4.json", b'{"title": "' + b"x" * 1000 + b'"}')
    (tmp_path / "a.tar").write_bytes(tar_bytes([big, *members([5])]))
    (tmp_path / "a.zip").write_bytes(zip_bytes([big, *members([5])]))
    for name in ("a.tar", "a.zip"):
        report = ingest_annotations(store, [tmp_path / name])
        assert (report.annotated, report.refused) == (1, 1)
        assert "expected at most 500" in quarantine(store)[0]["reason"]


def test_damaged_files_are_set_aside_with_their_reason(store, tmp_path):
    files = write_files(tmp_path / "a", [4, 5])
    bad = {7: b"{", 30: b"", 20_001: b'{"title": "\xff"}', 100_007: b"[" * 100_000}
    for photo_id, data in bad.items():
        write_files(files, [photo_id])
        (files / str(photo_id // 10_000) / f"{photo_id}.json").write_bytes(data)
    report = ingest_annotations(store, [files])
    assert (report.refused, report.annotated, report.files_read) == (4, 2, 2)
    lines = quarantine(store)
    assert sorted(line["photo_id"] for line in lines) == sorted(bad)
    assert all(line["reason"] and str(line["photo_id"]) in line["source"] for line in lines)
    assert Annotations.open(Store.open(store)).facts.quarantined == 4


def test_several_files_of_a_photo_become_one_row_the_first_source_first(store, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "GROUP_ROWS", 2)
    first = write_files(tmp_path / "a", [4, 5], comments={"_content": "0"})
    more = {"comments": {"comment": [{"author": "me", "_content": "hi"}]}, "views": "9"}
    second = write_files(tmp_path / "b", [5, 7], title="other", **more)
    tags = tmp_path / "c" / "exif_raw" / "0"
    tags.mkdir(parents=True)
    (tags / "5.txt").write_text("-Model\nX100\n")
    report = ingest_annotations(store, [first, second, tmp_path / "c"])
    assert (report.annotated, report.repeated, report.files_read) == (3, 2, 5)
    row = rows_of(store)[IDS.index(5)]
    assert (row["title"], row["views"], row["camera"], dict(row["exif"])) == ("photo 5", 9, "X100", {"Model": "X100"})
    assert row["comments"] == [{"author": "me", "author_name": None, "posted": None, "text": "hi"}]
    assert rows_of(store, "title")[IDS.index(7)] == {"title": "other"}


def test_originals_are_read_by_the_names_of_folders_or_files(store, tmp_path):
    for name, text in {
        "tags/0/4.txt": "sunset\nRio de Janeiro\n",
        "meta/exif/exif5.txt": "-Make\nCanon\n-Exposure Time\n1/250\n\n-ISO\n400\n",
        "meta/tags_raw/tags7.txt": "S\u00e3o Paulo\n", "other/30.txt": "none",
    }.items():  # fmt: skip
        path = tmp_path / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    report = ingest_annotations(store, [tmp_path / "m"])
    assert (report.annotated, report.ignored) == (3, 1)
    rows = rows_of(store)
    assert rows[IDS.index(4)]["tags"] == ["sunset", "riodejaneiro"]
    assert rows[IDS.index(4)]["tags_raw"] == ["sunset", "Rio de Janeiro"]
    assert rows[IDS.index(7)]["tags_raw"] == ["São Paulo"]
    exif = rows[IDS.index(5)]
    assert (dict(exif["exif"]), exif["exposure"], exif["iso"]) == (
        {"Make": "Canon", "Exposure Time": "1/250", "ISO": "400"}, 0.004, 400,
    )  # fmt: skip


def test_any_number_of_processes_and_any_chunks_give_the_same_bytes(store, tmp_path, monkeypatch):
    ids = list(range(40))
    files = write_files(tmp_path / "a", ids)
    found = []
    for chunk, workers in ((2000, 1), (7, 1), (7, 2)):
        monkeypatch.setattr(sources, "CHUNK_FILES", chunk)
        assert ingest_annotations(store, [files], workers=workers).files_read == 40
        found.append((store / FILE).read_bytes())
    assert found[0] == found[1] == found[2]


def test_an_interrupted_run_continues_and_ends_in_the_same_bytes(store, tmp_path, monkeypatch):
    files = write_files(tmp_path / "a", list(range(20)))
    archive = tmp_path / "b.tar"
    archive.write_bytes(tar_bytes(members([20_001, 30, 100_007])))
    monkeypatch.setattr(sources, "CHUNK_FILES", 5)
    ingest_annotations(store, [files, archive], workers=1)
    expected = (store / FILE).read_bytes()
    (store / FILE).unlink()
    real, calls = parse, list[int]()

    def stops(*words: Any) -> Any:
        calls.append(1)
        if len(calls) in (3, 12, 22):
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(reading, "parse", stops)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            ingest_annotations(store, [files, archive], workers=1)
        assert not (store / FILE).exists()
        Store.open(store)
    parts = sorted((store / PARTS).glob("*.arrow"))
    assert len(parts) == 2
    flip_bit(parts[0], 8 * 200)
    report = ingest_annotations(store, [files, archive], workers=1)
    assert (report.resumed, len(calls)) == (5, 22 + 18)
    assert (store / FILE).read_bytes() == expected


def test_a_file_that_changed_meanwhile_is_read_again(store, tmp_path, monkeypatch):
    files = write_files(tmp_path / "a", [4, 5])
    monkeypatch.setattr(ingest, "_publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest_annotations(store, [files])
    monkeypatch.undo()
    path = files / "0" / "4.json"
    before = path.stat()
    path.write_bytes(document(4).replace(b"photo 4", b"changed"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # of the same length and, by its own account, age
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    report = ingest_annotations(store, [files])
    assert report.resumed == 0
    assert rows_of(store, "title")[IDS.index(4)] == {"title": "changed"}


def test_a_full_disk_leaves_the_old_table(store, tmp_path, monkeypatch):
    files = write_files(tmp_path / "a", [4, 5])
    ingest_annotations(store, [files])
    before = (store / FILE).read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("engine.store.annotations.table.publish", full)
        with pytest.raises(DiskFullError, match="the disk is full"):
            ingest_annotations(store, [files])
    assert (store / FILE).read_bytes() == before
    assert not list(store.glob("*.part"))


def test_nothing_to_read_is_said(store, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no annotation files found \(1 other file\)"):
        ingest_annotations(store, [tmp_path / "empty"])
    with pytest.raises(InputError, match="no such file or folder"):
        ingest_annotations(store, [tmp_path / "absent"])
    with pytest.raises(StoreError, match="absent"):
        ingest_annotations(tmp_path / "nostore", [tmp_path / "empty"])
    assert not (store / PARTS).exists() and not (store / FILE).exists()
    report = ingest_annotations(store, [tmp_path / "empty" / "a.jpg"])
    assert report.refused == 1 and report.annotated == 0


def test_failures_and_what_is_not_understood_are_counted(store, tmp_path):
    files = write_files(tmp_path / "a", [4])
    (files / "0" / "5.json").write_bytes(b'{"stat": "fail", "code": 1}')
    (files / "0" / "7.json").write_bytes(b'{"headline": {"text": "hi"}, "words": [{"w": "Sea"}]}')
    report = ingest_annotations(store, [files])
    assert (report.failed, report.not_understood, report.annotated, report.said_nothing) == (1, 1, 1, 2)
    (tmp_path / "map.json").write_text('{"title": ["nowhere", "headline.text"], "tags": "words[].w"}')
    report = ingest_annotations(store, [files], mapping=tmp_path / "map.json")
    assert (report.failed, report.not_understood, report.annotated, report.said_nothing) == (1, 0, 2, 1)
    row = rows_of(store, "title", "tags")[IDS.index(7)]
    assert row == {"title": "hi", "tags": ["sea"]}


SILENT = {4: b"{}", 5: b'{"stat": "fail", "code": 1}', 7: b'{"info": {"stat": "fail", "code": 1, "message": "gone"}}',
          20_001: b'{"headline": "not understood"}'}  # fmt: skip


def test_photos_whose_files_say_nothing_are_not_annotated(store, tmp_path, monkeypatch):
    files = write_files(tmp_path / "a", list(SILENT))
    for photo_id, data in SILENT.items():
        (files / str(photo_id // 10_000) / f"{photo_id}.json").write_bytes(data)
    (files / "0" / "30.json").write_bytes(b'{"comments": {"stat": "ok", "comments": {"photo_id": "30"}}}')
    monkeypatch.setattr(ingest, "_publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ingest_annotations(store, [files])
    monkeypatch.undo()
    for resumed in (5, 0):  # from the parts of a run that was interrupted, and read anew
        report = ingest_annotations(store, [files])
        assert (report.annotated, report.said_nothing, report.without_annotations) == (1, 4, 5)
        assert (report.failed, report.not_understood, report.resumed) == (2, 2, resumed)
        assert [row["photo_id"] for row in rows_of(store) if row["annotated"]] == [30]
        assert rows_of(store, "comments")[0] == {"comments": []}
        assert Annotations.open(Store.open(store)).facts.annotated == 1
        stats = annotation_stats(Store.open(store))
        assert (stats.photos, stats.annotated) == (6, 1)
    # One file that says nothing beside one that does.
    write_files(tmp_path / "b", [4])
    report = ingest_annotations(store, [files, tmp_path / "b"])
    assert (report.annotated, report.said_nothing, report.repeated) == (2, 3, 1)
    assert rows_of(store, "annotated", "title")[IDS.index(4)] == {"annotated": True, "title": "photo 4"}


def test_removed_photos_keep_their_rows_until_compact_takes_them(store, tmp_path):
    files = write_files(tmp_path / "a", IDS)
    ingest_annotations(store, [files])
    remove(store, [30, 7])
    assert [row["photo_id"] for row in rows_of(store, "photo_id")] == IDS
    assert ingest_annotations(store, [files]).annotated == 4
    compact_store(store)
    rows = rows_of(store, "photo_id", "title")
    assert rows == [{"photo_id": i, "title": f"photo {i}"} for i in IDS if i not in (30, 7)]
    assert Annotations.open(Store.open(store)).facts.annotated == 4
    assert verify_store(store).damage == []


def test_digits_of_other_scripts_are_no_photo_ids(store, tmp_path):
    write_files(tmp_path / "a", [4])
    for name in ("\u0665.json", "\uff17.JSON", "tags\u0967.txt"):
        (tmp_path / "a" / name).write_bytes(document(5))
    report = ingest_annotations(store, [tmp_path / "a"])
    assert (report.annotated, report.ignored, report.files_read) == (1, 3, 1)


def test_nothing_to_read_leaves_the_parts_of_another_run(store, tmp_path):
    (store / PARTS).mkdir()
    (store / PARTS / "x.arrow").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no annotation files found"):
        ingest_annotations(store, [tmp_path / "empty"])
    assert (store / PARTS / "x.arrow").exists()


def test_long_files_are_held_a_few_at_a_time(store, tmp_path, monkeypatch):
    files = write_files(tmp_path / "a", IDS, description="x" * 3000)
    ingest_annotations(store, [files])
    expected = rows_of(store)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 7000)
    monkeypatch.setattr(assemble, "BLOCK_BYTES", 7000)
    sizes = []
    real = part_table

    def watched(folder: Path, file: str) -> Any:
        table = real(folder, file)
        sizes.append(table.num_rows)
        return table

    monkeypatch.setattr(assemble, "part_table", watched)
    ingest_annotations(store, [files])
    assert max(sizes) == 2
    assert rows_of(store) == expected
    assert pq.ParquetFile(store / FILE).metadata.num_row_groups >= 2
