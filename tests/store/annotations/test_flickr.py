"""One document in every form that the API's documentation or practice knows: bare, wrapped, merged, plain, missing."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.store.annotations.flickr import parse
from engine.store.annotations.rows import table_of
from engine.store.annotations.schema import schema

HERE = Path(__file__).parents[3]
SAMPLES = next(
    (base / "shared/data/flickr_api" for base in (HERE, HERE.parent) if (base / "shared").is_dir()), HERE / "-"
)

# After the pages of flickr.photos.getInfo, getExif, comments.getList and getAllContexts.
INFO: dict[str, Any] = {
    "photo": {
        "id": "2733", "secret": "123456", "server": "12", "isfavorite": 0, "license": "3", "rotation": 90,
        "owner": {"nsid": "12037949754@N01", "username": "Bees", "realname": "Cal Henderson", "location": "UK"},
        "title": {"_content": "orford_castle_taster"},
        "description": {"_content": "hello &amp; &lt;b&gt;more&lt;/b&gt;"},
        "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
        "dates": {"posted": "1100897479", "taken": "2004-11-19 12:51:19", "takengranularity": "0",
                  "lastupdate": "1093022469"},
        "comments": {"_content": "1"}, "views": "241",
        "notes": {"note": [{"id": "313", "author": "12037949754@N01", "authorname": "Bees", "x": "10", "y": "10.5",
                            "w": "50", "h": "50", "_content": "foo"}]},
        "tags": {"tag": [
            {"id": "1234", "author": "12037949754@N01", "raw": "Woo Yay", "machine_tag": 0, "_content": "wooyay"},
            {"id": "1235", "author": "12037949754@N01", "raw": "hoopla", "machine_tag": False, "_content": "hoopla"},
            {"id": "1236", "author": "12037949754@N01", "raw": "geo:lat=52.1", "machine_tag": "1",
             "_content": "geo:lat=521"},
        ]},
        "location": {"latitude": "-17.685895", "longitude": "-63.36914", "accuracy": "6"},
        "urls": {"url": [{"type": "photopage", "_content": "http://www.flickr.com/photos/bees/2733/"}]},
    },
    "stat": "ok",
}  # fmt: skip
EXIF: dict[str, Any] = {
    "photo": {
        "id": "2733", "camera": "Canon EOS 5D", "exif": [
            {"tagspace": "IFD0", "tagspaceid": 0, "tag": "Make", "label": "Manufacturer", "raw": {"_content": "Canon"}},
            {"tagspace": "IFD0", "tagspaceid": 0, "tag": "Model", "label": "Model", "raw": {"_content": "EOS 5D"}},
            {"tagspace": "ExifIFD", "tagspaceid": 0, "tag": "ExposureTime", "label": "Exposure",
             "raw": {"_content": "1/250"}, "clean": {"_content": "0.004 sec (1/250)"}},
            {"tagspace": "ExifIFD", "tag": "FNumber", "label": "Aperture", "raw": {"_content": "2.8"},
             "clean": {"_content": "f/2.8"}},
            {"tagspace": "ExifIFD", "tag": "FocalLength", "label": "Focal Length", "raw": {"_content": "50 mm"}},
            {"tagspace": "ExifIFD", "tag": "ISO", "label": "ISO Speed", "raw": {"_content": "400"}},
            {"tagspace": "ExifIFD", "tag": "LensModel", "label": "Lens Model", "raw": {"_content": "EF50mm f/1.4"}},
            {"tagspace": "ExifIFD", "tag": "DateTimeOriginal", "label": "Date and Time (Original)",
             "raw": {"_content": "2004:11:19 12:51:19"}},
        ],
    },
    "stat": "ok",
}  # fmt: skip
COMMENTS: dict[str, Any] = {
    "comments": {"photo_id": "2733", "comment": [
        {"id": "6065-109722179-72057594077818641", "author": "35468159852@N01", "authorname": "Rev Dan Catt",
         "datecreate": "1141841470", "permalink": "http://x/", "_content": "Umm, I'm not sure"},
    ]},
    "stat": "ok",
}  # fmt: skip
CONTEXTS: dict[str, Any] = {
    "set": [{"id": "392", "title": "One Album"}], "pool": [{"id": "34427465471@N01", "title": "FlickrDiscuss"}],
    "stat": "ok",
}  # fmt: skip
UTC = dt.UTC
EXPECTED: dict[str, Any] = {
    "title": "orford_castle_taster", "description": "hello & <b>more</b>", "tags": ["wooyay", "hoopla"],
    "tags_raw": ["Woo Yay", "hoopla"], "machine_tags": ["geo:lat=52.1"], "camera": "Canon EOS 5D",
    "lens": "EF50mm f/1.4", "exposure": 0.004, "aperture": 2.8, "focal": 50.0, "iso": 400,
    "exif_taken": dt.datetime(2004, 11, 19, 12, 51, 19),
    "exif": {
        "Manufacturer": "Canon", "Model": "EOS 5D", "Exposure": "1/250", "Aperture": "2.8", "Focal Length": "50 mm",
        "ISO Speed": "400", "Lens Model": "EF50mm f/1.4", "Date and Time (Original)": "2004:11:19 12:51:19",
    },
    "latitude": -17.685895, "longitude": -63.36914, "accuracy": 6, "albums": [{"id": "392", "title": "One Album"}],
    "groups": [{"id": "34427465471@N01", "title": "FlickrDiscuss"}],
    "comments": [{"author": "35468159852@N01", "author_name": "Rev Dan Catt", "text": "Umm, I'm not sure",
                  "posted": dt.datetime(2006, 3, 8, 18, 11, 10, tzinfo=UTC)}],
    "notes": [{"author": "12037949754@N01", "author_name": "Bees", "x": 10.0, "y": 10.5, "w": 50.0, "h": 50.0,
               "text": "foo"}],
    "owner": "12037949754@N01", "owner_name": "Bees", "owner_realname": "Cal Henderson", "licence_id": 3,
    "licence": "CC BY-NC-ND 2.0", "licence_url": "https://creativecommons.org/licenses/by-nc-nd/2.0/",
    "url": "http://www.flickr.com/photos/bees/2733/", "views": 241, "taken": dt.datetime(2004, 11, 19, 12, 51, 19),
    "posted": dt.datetime(2004, 11, 19, 20, 51, 19, tzinfo=UTC),
}  # fmt: skip
OF_INFO = set(EXPECTED) - {
    "camera", "lens", "exposure", "aperture", "focal", "iso", "exif_taken", "exif", "albums", "groups", "comments",
}  # fmt: skip


def merged() -> dict[str, Any]:
    return {**INFO["photo"], "exif": EXIF["photo"]["exif"], "camera": "Canon EOS 5D",
            "comments": COMMENTS["comments"], "set": CONTEXTS["set"], "pool": CONTEXTS["pool"]}  # fmt: skip


def plain(value: Any) -> Any:
    """The same without `_content` wrappers."""
    if isinstance(value, dict):
        return value["_content"] if set(value) == {"_content"} else {k: plain(v) for k, v in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


FORMS: dict[str, Any] = {
    "by method": {"flickr.photos.getInfo": INFO, "flickr.photos.getExif": EXIF,
                  "flickr.photos.comments.getList": COMMENTS, "flickr.photos.getAllContexts": CONTEXTS},
    "by short method": {"getInfo": INFO, "getExif": EXIF, "getList": COMMENTS, "getAllContexts": CONTEXTS},
    "by field": {"info": INFO, "exif": EXIF, "comments": COMMENTS, "contexts": CONTEXTS},
    "by field, without stat": {
        "photo": INFO["photo"], "exif": EXIF["photo"], "comments": COMMENTS["comments"],
        "contexts": {"set": CONTEXTS["set"], "pool": CONTEXTS["pool"]},
    },
    "fields of the publisher's table": {
        "title": INFO["photo"]["title"], "description": INFO["photo"]["description"], "tags": INFO["photo"]["tags"],
        "exif": EXIF, "geo": {"photo": {"location": INFO["photo"]["location"]}}, "albums": CONTEXTS["set"],
        "groups": CONTEXTS["pool"], "comments": COMMENTS, "notes": INFO["photo"]["notes"], "info": INFO,
    },
    "merged": merged(),
    "merged in photo": {"photo": merged(), "stat": "ok"},
    "merged, plain": plain(merged()),
    "by method, plain": plain({"getInfo": INFO, "getExif": EXIF, "getList": COMMENTS, "getAllContexts": CONTEXTS}),
    "a list of answers": {"responses": [INFO, EXIF, COMMENTS, CONTEXTS]},
    "deep": {"data": {"flickr": {"result": {"x.getInfo": INFO, "x.getExif": EXIF, "x.getList": COMMENTS,
                                            "x.getAllContexts": CONTEXTS}}}},
    "one instead of a list": {
        "getInfo": INFO, "getExif": EXIF,
        "getList": {"comments": {"comment": COMMENTS["comments"]["comment"][0]}, "stat": "ok"},
        "getAllContexts": {"set": CONTEXTS["set"][0], "pool": CONTEXTS["pool"][0], "stat": "ok"},
    },
    "names of lists": {
        "getInfo": INFO, "getExif": EXIF, "comments": COMMENTS["comments"]["comment"],
        "sets": {"set": CONTEXTS["set"]}, "pools": {"pool": CONTEXTS["pool"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_nesting_says_the_same(form):
    assert parse(json.dumps(FORMS[form]).encode()) == EXPECTED


def test_bare_answers_say_their_part():
    info, exif = parse(json.dumps(INFO).encode()), parse(json.dumps(EXIF).encode())
    assert info == {name: EXPECTED[name] for name in OF_INFO}
    assert exif == {name: value for name, value in EXPECTED.items() if name in (
        "camera", "lens", "exposure", "aperture", "focal", "iso", "exif_taken", "exif")}  # fmt: skip
    assert parse(json.dumps(COMMENTS).encode()) == {"comments": EXPECTED["comments"]}
    assert parse(json.dumps(CONTEXTS).encode()) == {"albums": EXPECTED["albums"], "groups": EXPECTED["groups"]}


def test_the_wrapper_of_a_callback_and_a_byte_order_mark_are_taken_off():
    text = json.dumps(INFO).encode()
    assert parse(b"jsonFlickrApi(" + text + b")") == parse(text) == parse(b"\xef\xbb\xbf" + text)


def test_a_failure_leaves_the_other_answers():
    failed = {"stat": "fail", "code": 2, "message": "Permission denied", "photo": {"title": "no"}}
    assert parse(json.dumps({"getInfo": INFO, "getExif": failed, "getList": failed}).encode()) == {
        name: EXPECTED[name] for name in OF_INFO
    }
    assert parse(b'{"stat": "fail", "code": 1, "message": "Photo not found"}') == {}


def test_what_is_missing_or_null_is_absent_and_what_is_empty_is_empty():
    assert parse(b'{"photo": {"title": null, "tags": null, "owner": null, "location": null, "dates": null}}') == {}
    assert parse(b'{"photo": {"title": {"_content": ""}, "description": "  "}}') == {}
    none = {"photo": {"tags": {"tag": []}, "notes": {"note": []}, "comments": {"_content": "0"}}}
    assert parse(json.dumps(none).encode()) == {
        "tags": [], "tags_raw": [], "machine_tags": [], "notes": [], "comments": [],
    }  # fmt: skip
    assert parse(b'{"photo": {"comments": {"_content": "60"}}}') == {}
    assert parse(b'{"comments": {"photo_id": "7"}, "stat": "ok"}') == {"comments": []}
    assert parse(b'{"pool": [{"id": "1", "title": "g"}], "stat": "ok"}') == {
        "groups": [{"id": "1", "title": "g"}], "albums": [],
    }  # fmt: skip
    later = {"photo": {"comments": {"_content": "0"}}, "x.getList": COMMENTS}
    assert parse(json.dumps(later).encode())["comments"] == EXPECTED["comments"]


@pytest.mark.parametrize(
    ("tags", "normal", "raw"),
    [
        ({"tag": [{"raw": "Rio de Janeiro", "_content": "riodejaneiro"}]}, ["riodejaneiro"], ["Rio de Janeiro"]),
        ({"tag": [{"raw": "Rio de Janeiro"}, {"_content": "x"}]}, ["riodejaneiro", "x"], ["Rio de Janeiro", "x"]),
        ({"tag": ["São Paulo", "B&amp;W"]}, ["sãopaulo", "bw"], ["São Paulo", "B&W"]),
        (["a", 7, None, True, {"_content": "b"}], ["a", "7", "b"], ["a", "7", "b"]),
        ('sunset "rio de janeiro" sea', ["sunset", "riodejaneiro", "sea"], ["sunset", "rio de janeiro", "sea"]),
        ({"tag": {"raw": "Alone", "_content": "alone"}}, ["alone"], ["Alone"]),
        ({"_content": "one two"}, ["one", "two"], ["one", "two"]),
    ],
)
def test_tags_in_every_form(tags, normal, raw):
    found = parse(json.dumps({"tags": tags}).encode())
    assert (found["tags"], found["tags_raw"], found["machine_tags"]) == (normal, raw, [])


def test_machine_tags_without_a_flag_are_known_by_their_form():
    found = parse(b'{"tags": ["geo:lat=5", "12:30", "upcoming:event=1 2"]}')
    assert found["machine_tags"] == ["geo:lat=5", "upcoming:event=1 2"] and found["tags_raw"] == ["12:30"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"license": 4}, (4, "CC BY 2.0", "https://creativecommons.org/licenses/by/2.0/")),
        ({"license": {"id": "7"}}, (7, "No known copyright restrictions", "https://www.flickr.com/commons/usage/")),
        ({"license": "0"}, (0, "All Rights Reserved", None)),
        ({"license": "http://creativecommons.org/licenses/by-sa/2.0/deed.en"}, (5, "CC BY-SA 2.0",
         "https://creativecommons.org/licenses/by-sa/2.0/")),
        ({"licence_url": "https://creativecommons.org/publicdomain/zero/1.0/"}, (9, "CC0 1.0",
         "https://creativecommons.org/publicdomain/zero/1.0/")),
        ({"license": {"id": 99, "name": "New", "url": "http://new/"}}, (99, "New", "http://new/")),
        ({"license": "as it is"}, (None, "as it is", None)),
    ],
)  # fmt: skip
def test_licences_by_number_link_or_name(said, found):
    read = parse(json.dumps(said).encode())
    assert (read.get("licence_id"), read.get("licence"), read.get("licence_url")) == found


def test_places_that_are_none_are_left_out():
    for place in ({"latitude": 0, "longitude": 0, "accuracy": 0}, {"latitude": "91", "longitude": "0"},
                  {"latitude": "x", "longitude": 1}, {"latitude": 1}, {"latitude": 1, "longitude": 1e400}):  # fmt: skip
        assert parse({"location": place}) == {} == parse(place)
    assert parse(b'{"latitude": "48.86", "longitude": 2.35, "accuracy": 99}') == {"latitude": 48.86, "longitude": 2.35}


def test_times_that_are_none_are_left_out():
    odd: Any
    for odd in ({"taken": "0000-00-00 00:00:00", "posted": "0"}, {"taken": 7, "posted": "soon"},
                  {"taken": "2009-13-01", "posted": 1e30}, [], "2009"):  # fmt: skip
        assert parse({"dates": odd}) == {}
    assert parse({"dates": {"taken": "2009-00-00 00:00:00"}}) == {"taken": dt.datetime(2009, 1, 1)}
    assert parse({"dateupload": 1246710600, "datetaken": "2009-07-04T12:30:00"}) == {
        "posted": dt.datetime(2009, 7, 4, 12, 30, tzinfo=UTC), "taken": dt.datetime(2009, 7, 4, 12, 30),
    }  # fmt: skip


def test_exif_labels_that_come_twice_are_both_kept():
    entries = [{"tagspace": "IFD0", "tag": "XResolution", "label": "X-Resolution", "raw": "72"},
               {"tagspace": "IFD1", "tag": "XResolution", "label": "X-Resolution", "raw": "180"},
               {"tagspace": "XMP-crs", "tag": "Exposure", "label": "Exposure", "raw": "+0.50"}, "x", {}, 7]  # fmt: skip
    assert parse({"exif": entries}) == {
        "exif": {"X-Resolution": "72", "X-Resolution (XResolution)": "180", "Exposure": "+0.50"}
    }
    assert parse({"exif": {"Model": "X100", "Exposure": "0.004 sec (1/250)", "ISO Speed": 200}}) == {
        "exif": {"Model": "X100", "Exposure": "0.004 sec (1/250)", "ISO Speed": "200"}, "camera": "X100",
        "exposure": 0.004, "iso": 200,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"), (b"  \n", "empty"), (b"{", "is no JSON"), (b'{"a": "\xff"}', "is no JSON"),
        (b"[1]", "holds a list"), (b"7", "holds a number"), (b'"x"', "holds a text"), (b"null", "holds null"),
        (b"[" * 5000 + b"]" * 5000, "is no JSON"), (b'{"a": NaN}', "is no JSON"), (b'{"a": 1e999}', "is no JSON"),
        (b"<?xml version='1.0'?>", "is no JSON"),
        (b'{"a":' * 100_000, "is no JSON"), (b"x" * ((16 << 20) + 1), "expected at most 16,777,216"),
        (b'{"a": "\\ud83d", "b": NaN}', "is no JSON"),
    ],
)  # fmt: skip
def test_what_is_no_object_is_refused_with_the_reason(data, reason):
    with pytest.raises(InputError, match=reason):
        parse(data)


def test_odd_but_valid_documents_are_read():
    assert parse(b'{"title": "cut \\ud83d"}') == {"title": "cut \ufffd"}
    assert parse(b'{"title": "a", "title": "b"}') == {"title": "b"}
    assert parse(b'{"title": "' + b"x" * 1_000_000 + b'"}')["title"] == "x" * 1_000_000
    assert parse(b'{"views": 1' + b"0" * 300 + b', "title": {"_content": {"_content": {"_content": "deep"}}}}') == {
        "title": "deep"
    }


def test_wrong_kinds_at_every_place_are_passed_over():
    """Each value of the full document replaced by each kind of thing: the rest is read, and it fits the table."""
    places = list(leaves(FORMS["by method"]))
    assert len(places) > 90
    odd: Any
    for path in places:
        for odd in (
            None,
            True,
            -1,
            1e308,
            "",
            "x",
            "9" * 400,
            [],
            [[]],
            [None],
            {},
            {"_content": {}},
            {"a": [1]},
            [{"tag": 1}],
        ):
            found = parse(put(FORMS["by method"], path, odd))
            assert set(found) <= set(schema().names)
            table_of([1], [found]).validate(full=True)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new if isinstance(new, dict) else {"x": new}
    changed = json.loads(json.dumps(value))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return changed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("fail"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "photo", "title", "_content", "tags", "tag", "raw", "exif", "label", "owner", "nsid", "location",
            "latitude", "longitude", "dates", "taken", "comments", "comment", "set", "pool", "id", "notes", "note", "x",
            "license",
            "urls", "url", "stat", "machine_tag", "datecreate", "views", "iso", "camera", "getInfo",
        ]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["photo", "exif", "comments", "tags", "title", "getInfo", "set"]), JSON, max_size=4)
)
def test_no_document_makes_the_reader_fail(document):
    found = parse(document)
    assert set(found) <= set(schema().names)
    table_of([1], [found]).validate(full=True)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="real answers of the API are not here")
def test_real_answers():
    found = {path.stem: parse(path.read_bytes()) for path in sorted(SAMPLES.glob("*.json"))}
    assert len(found["comments_converted"]["comments"]) == 154
    assert all(one["text"] and one["author"] and one["posted"] for one in found["comments_converted"]["comments"])
    assert found["getInfo_8998787742"]["tags"] == ["oregon", "sistersrodeo"]
    assert found["getInfo_8998787742"]["licence"] == "CC BY-NC 2.0"
    assert found["getInfo_30580825110"]["latitude"] == 3.502026
    assert found["getInfo_30580825110"]["notes"][0]["x"] == 378
    assert found["getInfo_converted_4"]["machine_tags"] == ["geo:locality=Ngaruawahia"]
    assert len(found["getAllContexts_subset"]["groups"]) == 3
    assert found["getAllContexts_converted"]["albums"] == [{"id": "72157650910758151", "title": "Landscape / Nature"}]
    assert found["getExif_converted"]["exif"]["X-Resolution"] == "100"
    for name, one in found.items():
        if name.startswith("getInfo"):
            assert {"owner", "owner_name", "licence", "url", "taken", "posted", "views", "tags", "notes"} <= set(one)
    table_of(range(len(found)), list(found.values())).validate(full=True)
