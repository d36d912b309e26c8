"""A user's paths: parsed, written and followed; what is wrong with a file is said."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.store.annotations.flickr import parse
from engine.store.annotations.mapping import FieldMap, parse_path, path_text


def a_map(tmp_path: Path, said: Any) -> FieldMap:
    (tmp_path / "map.json").write_text(json.dumps(said))
    return FieldMap.read(tmp_path / "map.json")


def test_paths_lead_to_fields(tmp_path):
    document = {
        "meta": {"headline": "Sea", "so.and.so": {"lat": "48.5", "lon": 2}}, "words": [{"w": "A b"}, {"w": "c"}, {}, 7],
        "talk": [{"author": "me", "text": "hi"}], "lic": "https://creativecommons.org/licenses/by/2.0/",
        "shot": {"iso": "400", "f": "f/2.8"}, "when": "2009-07-04 12:30:00", "title": "the known place comes after",
        "nums": [[1, 2], [3]],
    }  # fmt: skip
    mapping = a_map(tmp_path, {
        "title": ["nowhere", "meta.headline"], "tags": "words[].w", "latitude": 'meta["so.and.so"].lat',
        "longitude": 'meta["so.and.so"].lon', "comments": "talk", "licence_url": "lic", "iso": "shot.iso",
        "aperture": "shot.f", "taken": "when", "tags_raw": "absent[]", "views": "nums[][]",
    })  # fmt: skip
    found = parse(document, mapping.part(document))
    assert found["title"] == "Sea" and found["tags"] == ["ab", "c"] and found["tags_raw"] == ["A b", "c"]
    assert (found["latitude"], found["longitude"], found["iso"], found["aperture"]) == (48.5, 2.0, 400, 2.8)
    assert found["comments"] == [{"author": "me", "author_name": None, "posted": None, "text": "hi"}]
    assert found["licence"] == "CC BY 2.0" and found["taken"].year == 2009
    assert mapping.part(document)["views"] == [[1, 2], [3]]


STEPS = st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=6)), min_size=1, max_size=5)


@given(STEPS)
def test_a_path_that_is_written_is_the_one_that_is_read(steps):
    text = path_text(tuple(steps))
    assert len(parse_path(text)) == len(steps)
    assert [step if isinstance(step, str) else None for step in parse_path(text)] == steps


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("{", "not readable as JSON"), ("[]", "holds no fields"), ("{}", "holds no fields"),
        ('{"photo_id": "id"}', "field 'photo_id' is not of the annotations"), ('{"title": 7}', "expected a path"),
        ('{"title": []}', "expected a path"), ('{"title": "a..b"}', "is no path at character 2"),
        ('{"title": ".a"}', "is no path at character 1"), ('{"title": "a["}', "is no path at character 2"),
        ('{"title": ["a", ""]}', "expected a path"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_map_is_said(tmp_path, said, problem):
    (tmp_path / "map.json").write_text(said)
    with pytest.raises(InputError, match=problem):
        FieldMap.read(tmp_path / "map.json")
    with pytest.raises(InputError, match="not readable"):
        FieldMap.read(tmp_path / "absent.json")
