"""Which paths there are, how often, and which the reader depends on: nothing is hidden, nothing is claimed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.store.annotations import inspect as inspecting
from engine.store.annotations.inspect import Inspection, inspect_annotations
from tests.store.annotations.test_flickr import COMMENTS, CONTEXTS, EXIF, INFO


def inspected(tmp_path: Path, documents: Sequence[Any], **more: Any) -> Inspection:
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return inspect_annotations([tmp_path], **more)


def test_what_is_read_and_what_is_not(tmp_path):
    whole = {"flickr.photos.getInfo": INFO, "getExif": EXIF, "getList": COMMENTS, "getAllContexts": CONTEXTS}
    found = inspected(tmp_path, [whole, INFO])
    by_path = {path.path: path for path in found.paths}
    info = '["flickr.photos.getInfo"].photo'
    assert found.files == 2 and found.refused == 0 and found.left_out == 0
    assert by_path["photo.title._content"].fields == ["title"]
    tag = by_path[f"{info}.tags.tag[].raw"]
    assert (tag.files, tag.values, tag.example, tag.kinds) == (1, 3, "Woo Yay", ["text"])
    assert tag.fields == ["machine_tags", "tags_raw"]
    assert by_path["getList.comments.comment[].datecreate"].fields == ["comments"]
    assert by_path["getExif.photo.exif[].raw._content"].understood
    assert by_path["photo.tags.tag[].machine_tag"].kinds == ["number", "true or false", "text"]
    for unused in ("photo.secret", f"{info}.owner.location", "getList.comments.comment[].permalink", "photo.rotation"):
        assert not by_path[unused].understood
    assert found.fields["title"] == 2 and found.fields["exif"] == 1


def test_a_document_in_which_nothing_stands_is_counted(tmp_path):
    found = inspected(tmp_path, [{}, {"title": "t"}])
    assert found.files == 2 and [path.path for path in found.paths] == ["title"]


def test_two_places_of_the_same_are_both_understood(tmp_path):
    found = inspected(tmp_path, [{"photo": {"dateuploaded": "1100897479", "dates": {"posted": "1100897479"}}}])
    assert {path.path: path.fields for path in found.paths} == {
        "photo.dateuploaded": ["posted"], "photo.dates.posted": ["posted"],
    }  # fmt: skip


def test_a_map_counts_as_understanding(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "map.json").write_text('{"title": "a.b"}')
    before, after = (
        inspected(tmp_path / "m", [{"a": {"b": "x"}}], mapping=given) for given in (None, tmp_path / "map.json")
    )
    assert [path.fields for path in before.paths] == [[]] and [path.fields for path in after.paths] == [["title"]]


def test_hostile_documents_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(inspecting, "_MOST_PATHS", 50)
    deep = '{"a":' * 200 + "1" + "}" * 200
    found = inspected(tmp_path, [{f"k{i}": i for i in range(80)}, deep, "{", {"x\ny": "\x1b"}])
    assert len(found.paths) == 50 and found.left_out == 32
    assert found.refused == 1 and "is no JSON" in found.reasons[0]


def test_only_so_many_files_and_text_files_too(tmp_path):
    (tmp_path / "tags").mkdir()
    (tmp_path / "tags" / "99.txt").write_text("sea\n")
    found = inspect_annotations([tmp_path / "tags"])
    assert (found.files, found.texts, found.fields) == (1, 1, {"tags": 1, "tags_raw": 1})
    assert inspected(tmp_path, [INFO] * 5, files=3).files == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="no annotation files found"):
        inspect_annotations([tmp_path / "none"])
