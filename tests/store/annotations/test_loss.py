"""No ingest makes a table say less than the one before it without being told to, and then it says what is gone."""

from typing import Any

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.annotations.ingest import PARTS, ingest_annotations
from engine.store.annotations.loss import Known
from engine.store.annotations.rows import table_of
from engine.store.annotations.schema import FILE, QUARANTINE, schema
from engine.store.change import remove
from tests.builders import make_store
from tests.store.annotations.test_ingest import IDS, rows_of, write_files
from tests.store.annotations.written import annotate


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", {"fc7": np.ones((len(IDS), 8), np.float32)}, IDS)
    return tmp_path / "s"


def test_some_of_the_sources_alone_are_refused(store, tmp_path):
    first, second = write_files(tmp_path / "a", [4, 5, 30]), write_files(tmp_path / "b", [7, 5], views="9")
    report = ingest_annotations(store, [first, second])
    assert (report.annotated_before, report.annotated, report.lost, report.lost_fields) == (None, 4, 0, {})
    before = (store / FILE).read_bytes()
    (second / "0" / "4.json").write_text("{")
    with pytest.raises(InputError) as caught:
        ingest_annotations(store, [second])
    said = str(caught.value)
    assert "has annotations of 4 photos; 2 would lose some" in said and "title of 2, tags of 2, tags_raw of 2" in said
    assert "--replace" in said and "1 file could not be read, the first" in said and "4.json: is no JSON" in said
    assert "\n" not in said and (store / FILE).read_bytes() == before and not list(store.glob("*.part"))
    assert (store / QUARANTINE).read_bytes() == b""
    report = ingest_annotations(store, [first, second])
    assert (report.resumed, report.annotated_before, report.annotated) == (2, 4, 4)
    assert not (store / PARTS).exists()
    report = ingest_annotations(store, [second], replace=True)
    assert (report.annotated_before, report.annotated, report.lost) == (4, 2, 2)
    assert report.lost_fields == {"title": 2, "tags": 2, "tags_raw": 2}
    assert [row["photo_id"] for row in rows_of(store) if row["annotated"]] == [5, 7]


def test_a_field_that_goes_is_a_loss_though_the_photo_has_others(store, tmp_path):
    for kind, text in {"tags": "sunset\n", "exif": "-Model\nX100\n"}.items():
        (tmp_path / kind / "0").mkdir(parents=True)
        (tmp_path / kind / "0" / "4.txt").write_text(text)
    ingest_annotations(store, [tmp_path / "tags"])
    with pytest.raises(
        InputError, match=r"has annotations of 1 photo; 1 would lose some.*\(tags of 1, tags_raw of 1\)"
    ):
        ingest_annotations(store, [tmp_path / "exif"])
    report = ingest_annotations(store, [tmp_path / "exif", tmp_path / "tags"])
    assert (report.annotated_before, report.annotated, report.lost) == (1, 1, 0)


def test_what_there_is_to_lose_in_every_column(tmp_path):
    """A table with a value in each column against one without that column, and the other way round."""
    place, person = [{"id": "1", "title": "t"}], {"author": "1@N01", "author_name": "jo", "text": "hi"}
    full = {
        "title": "t", "description": "d", "tags": ["a"], "tags_raw": ["A"], "machine_tags": ["a:b=c"], "camera": "c",
        "lens": "l", "exposure": 1.0, "aperture": 1.0, "focal": 1.0, "iso": 1, "exif_taken": 1, "exif": [("a", "b")],
        "latitude": 1.0, "longitude": 1.0, "accuracy": 1, "albums": place, "groups": place,
        "comments": [person | {"posted": None}], "notes": [person | dict.fromkeys("xywh")], "owner": "o",
        "owner_name": "o", "owner_realname": "o", "licence_id": 1, "licence": "l", "licence_url": "u", "url": "u",
        "views": 0, "favorites": 0, "taken": 1, "posted": 1,
    }  # fmt: skip
    assert list(full) == schema().names[2:]
    ids = list(range(1, len(full) + 1))
    made = make_store(tmp_path / "s", {"fc7": np.ones((len(ids), 4), np.float32)}, ids)
    annotate(made, [full] * len(ids))
    before = Known.of_file(made.path / FILE)
    empty: dict[str, Any] = {name: [] for name, value in full.items() if isinstance(value, list)}
    for nothing in ({}, empty):
        annotate(made, [{k: v for k, v in full.items() if k != name} | {k: v for k, v in nothing.items() if k == name}
                        for name in full])  # fmt: skip
        now = Known.of_file(made.path / FILE)
        loss = before.less(now, np.array(ids))
        assert (loss.before, loss.photos) == (len(ids), len(ids))
        assert loss.fields == dict.fromkeys(full, 1)
        assert now.less(before, np.array(ids)).photos == 0
    assert before.less(Known(), np.array(ids)).fields == dict.fromkeys(full, len(ids))
    assert Known().less(before, np.array(ids)).before == 0


def test_photos_are_told_by_their_ids_and_removed_ones_are_no_loss(store, tmp_path):
    files = write_files(tmp_path / "a", IDS)
    ingest_annotations(store, [files])
    remove(store, [30, 7])
    for photo_id in (30, 7):
        (files / "0" / f"{photo_id}.json").unlink()
    report = ingest_annotations(store, [files])
    assert (report.annotated_before, report.annotated, report.lost) == (4, 4, 0)
    now, other = Known(), Known()
    now.add(table_of([9, 3, 8], [{"title": "a"}, {}, {"title": "c"}]))
    other.add(table_of([8, 9], [{"title": "c"}, {"views": 3}]))
    loss = now.less(other, np.array([3, 8, 9]))
    assert (loss.before, loss.photos, loss.fields) == (2, 1, {"title": 1})


def test_a_table_that_cannot_be_read_is_replaced_and_that_is_said(store, tmp_path):
    files = write_files(tmp_path / "a", [4, 5])
    ingest_annotations(store, [files])
    (store / FILE).write_bytes(b"PAR1")
    report = ingest_annotations(store, [files])
    assert report.annotated_before is None and "cannot be read" in report.unreadable
    assert "annotations ingest" not in report.unreadable
    assert ingest_annotations(store, [files]).unreadable == ""
