"""Values that cannot be read are counted by field, whichever reader met them; paths that lead nowhere are named."""

import json
from typing import Any

import numpy as np
import pytest

from engine.store.annotations import sources
from engine.store.annotations.flickr import parse
from engine.store.annotations.ingest import ingest_annotations
from tests.builders import make_store
from tests.store.annotations.test_flickr import COMMENTS, CONTEXTS, EXIF, FORMS, INFO
from tests.store.annotations.test_ingest import rows_of


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", {"fc7": np.ones((9, 8), np.float32)}, list(range(9)))
    return tmp_path / "s"


def dropped(document: dict[str, Any], extra: dict[str, Any] | None = None) -> list[str]:
    found: set[str] = set()
    parse(document, extra, found)
    return sorted(found)


@pytest.mark.parametrize("form", FORMS)
def test_of_whole_documents_nothing_is_dropped(form):
    assert dropped(FORMS[form]) == []


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({"latitude": "abc", "longitude": 2}, ["latitude", "longitude"]),
        ({"location": {"latitude": 91}}, ["latitude"]), ({"dates": {"taken": "nonsense"}}, ["taken"]),
        ({"latitude": 1, "longitude": 1, "accuracy": 99}, ["accuracy"]), ({"views": "many"}, ["views"]),
        ({"dates": {"taken": "2009-02-31 10:00:00", "posted": "soon"}}, ["posted", "taken"]),
        ({"photo": {"count_faves": -3}}, ["favorites"]), ({"iso": {"a": ["?", "high"]}}, ["iso"]),
        ({"comments": {"comment": [{"datecreate": "x1", "_content": "hi"}]}}, ["comments.posted"]),
        ({"notes": {"note": [{"x": "left", "_content": "hi"}]}}, ["notes.box"]),
        # What says that nothing is known, and what another place says better.
        ({"dates": {"taken": "0000-00-00 00:00:00", "posted": "0"}, "views": "", "iso": 0, "aperture": None}, []),
        ({"latitude": 0, "longitude": "0.0", "accuracy": 0}, []), ({"dateuploaded": "x", "dates": {"posted": "9"}}, []),
        ({"comments": {"_content": "60"}, "views": {"_content": "7"}}, []), ({"exif": {"ISO": "high"}}, []),
        ({"x.getInfo": {"stat": "fail", "views": "many"}}, []),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(document, fields):
    assert dropped(document) == fields


def test_what_a_map_leads_to_is_named_whatever_the_field():
    assert dropped({}, {"title": {"a": 1}, "tags": 0, "comments": "nice", "views": "9"}) == ["comments", "title"]


def test_the_usual_form_and_any_other_are_counted_alike(store, tmp_path):
    def usual(**changes: str) -> dict[str, Any]:
        info = json.loads(json.dumps(INFO))
        for key, value in changes.items():
            at, _, name = key.rpartition("__")
            (info["photo"][at] if at else info["photo"])[name] = value
        return {"info": info, "exif": EXIF, "contexts": CONTEXTS, "comments": COMMENTS}

    changes = [
        {}, {"views": "many"}, {"dates__taken": "nonsense", "dates__posted": "soon", "dateuploaded": "soon"},
        {"location__latitude": "abc"}, {"location__accuracy": "99"}, {"dates__taken": "0000-00-00 00:00:00"},
    ]  # fmt: skip
    counts = {"views": 1, "taken": 1, "posted": 1, "latitude": 1, "longitude": 1, "accuracy": 2}
    more: dict[str, Any]
    for name, more in (("usual", {}), ("other", {"unknown": {"photo": {}}})):
        (tmp_path / name).mkdir()
        for number, change in enumerate(changes):
            (tmp_path / name / f"{number}.json").write_text(json.dumps(usual(**change) | more))
        report = ingest_annotations(store, [tmp_path / name])
        assert report.dropped == counts, name
        assert [i for i, row in enumerate(rows_of(store, "taken")) if row["taken"] is None] == [2, 5, 6, 7, 8]


def test_paths_of_a_map_that_stand_in_no_file_are_named_by_any_number_of_processes(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_FILES", 2)
    (tmp_path / "map.json").write_text(
        '{"title": ["head.line", "head.lin", "alt"], "tags": "words[].w", "views": "n", "latitude": "geo.lat"}'
    )
    for number in range(6):
        said = {"head": {"line": "t"}, "words": [{"w": "Sea"}], "geo": {"lat": "abc"}}
        (tmp_path / f"{number}.json").write_text(json.dumps(said | ({"alt": "x"} if number == 5 else {})))
    for workers in (1, 2):
        report = ingest_annotations(
            store, [tmp_path / f"{number}.json" for number in range(6)], mapping=tmp_path / "map.json", workers=workers
        )
        assert report.absent_paths == ["title: head.lin", "views: n"]
        assert report.dropped == {"latitude": 6}
        assert [row["tags"] for row in rows_of(store, "tags")[:6]] == [["sea"]] * 6
    (tmp_path / "map.json").write_text('{"title": "head.lin"}')
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "7.txt").write_text("sea\n")
    report = ingest_annotations(store, [tmp_path / "tags"], mapping=tmp_path / "map.json", replace=True)
    assert report.absent_paths == ["title: head.lin"]
