"""Which paths there are, how often, and which the reader depends on: nothing is hidden, nothing is claimed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.store.annotations import inspect as inspecting
from engine.store.annotations.flickr import parse
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


class Work:
    """Counts the values of the documents that are read, however often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.values, self.documents = 0, 0
        monkeypatch.setattr(inspecting, "parse", self.parse)

    def parse(self, document: Any, *more: Any) -> Any:
        self.values += sum(1 for _ in inspecting._walk(document, (), 0))
        self.documents += 1
        return parse(document, *more)


def test_the_work_grows_as_the_document_does(tmp_path, monkeypatch):
    monkeypatch.setattr(inspecting, "_WORK", 10_000)
    counted = []
    for keys in (1000, 2000, 4000):
        work, folder = Work(monkeypatch), tmp_path / str(keys)
        folder.mkdir()
        found = inspected(folder, [{"title": "t"} | {f"key {i}": i for i in range(keys)}])
        assert [path.fields for path in found.paths[:2]] == [["title"], []]
        untried = sum(path.understood is None for path in found.paths)
        assert 0 < untried < keys and len(found.paths) == keys + 1
        counted.append(work.values / keys)
    assert max(counted) <= 2 * inspecting._LEAST + 2


def test_what_one_document_leaves_untried_others_make_up_for(tmp_path, monkeypatch):
    monkeypatch.setattr(inspecting, "_WORK", 50)
    monkeypatch.setattr(inspecting, "_LEAST", 2)
    document = {f"key {i}": i for i in range(20)} | {"title": "t"}
    assert [path.understood for path in inspected(tmp_path, [document]).paths] == [False] * 2 + [None] * 19
    found = inspected(tmp_path, [document] * 12)
    assert [path.understood for path in found.paths] == [False] * 20 + [True]
    monkeypatch.setattr(inspecting, "_WORK_IN_ALL", 120)
    work = Work(monkeypatch)
    assert sum(path.understood is None for path in inspected(tmp_path, [document] * 12).paths) == 21 - 120 // 21
    assert work.documents == 12 + 2 * (120 // 21)


def test_to_leave_a_path_out_changes_nothing_else():
    document = {"a": [{"b": 1, "c": 2}, 7, {"b": [3, {"d": 4}]}], "e": {"f": 5}}
    before = json.dumps(document)
    assert inspecting._without(document, ("a", None, "b")) == {"a": [{"c": 2}, 7, {}], "e": {"f": 5}}
    assert inspecting._without(document, ("a", None)) == {"a": [{"b": 1, "c": 2}, {"b": [3, {"d": 4}]}], "e": {"f": 5}}
    assert inspecting._without(document, ("e", "f")) == {"a": document["a"], "e": {}}
    assert inspecting._without(document, ("e", "g", "h")) == document and json.dumps(document) == before


def test_paths_of_a_map_that_stand_nowhere_are_named(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "map.json").write_text('{"title": ["a.b", "a.x"], "tags": "words[].w", "views": "n[]"}')
    documents = [{"a": {"b": "x"}}, {"words": [{"w": "sea"}], "n": []}]
    found = inspected(tmp_path / "m", documents, mapping=tmp_path / "map.json")
    assert found.absent_paths == ["title: a.x", "views: n[]"]
    assert inspected(tmp_path / "m", documents).absent_paths == []
