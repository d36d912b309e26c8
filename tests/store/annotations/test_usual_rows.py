"""Documents of the usual form, read by types and columns, against the tolerant reader: always the same rows."""

import copy
import json
import random
from typing import Any

import orjson
import pyarrow as pa
import pytest

from engine.errors import InputError
from engine.store.annotations.flickr import parse
from engine.store.annotations.loading import load
from engine.store.annotations.rows import table_of
from engine.store.annotations.usual_rows import read_usual
from engine.store.synth_annotations import documents

# What values are replaced by: all that the reader treats in its own way.
ODD: list[Any] = [
    None, True, 0, 1, -3, 7.5, 1e300, 2**70, "", " ", "0", "1", "-1", "16", "1,5", "a&amp;b", "&#32;", "\u00a0", "é",
    "\x1c", "日本", "2009:07:04 12:30:00", "2009-02-30 00:00:00", "2009-00-00 00:00:00", "0000-00-00 00:00:00",
    "2009-7-4 1:2", "12345678901234567890", "1/0", "f/2.8", "91.0", "-0.0", "0.000000", " 5", "+5", "1e2", "nan",
    "inf", "٣", "fail", "http://x/&amp;", "a\0b", [], {}, [1], {"_content": "x"}, {"_content": None},
    {"stat": "fail"}, {"photo": {"title": "t"}}, [{"_content": "y"}], {"tag": "t", "label": "l"},
    {"note": [{"x": 5}]}, {"comment": "c"}, {"exif": []}, {"set": []}, {"url": "http://u/"},
    {"latitude": 5, "longitude": 6},
]  # fmt: skip
KEYS = [
    "latitude", "licence", "taken", "posted", "stat", "photo", "exif", "set", "pool", "_content", "comments",
    "camera", "url", "text", "author_name", "authorname", "id", "nsid", "owner", "title", "info", "getInfo", "raw",
    "tag", "label", "machine_tag", "dates", "dateuploaded", "count_faves", "views", "iso", "lens", "location", "name",
    "notes", "tags", "geo", "new", "accuracy", "value", "clean", "datecreate", "ownername", "license_url", "realname",
]  # fmt: skip


def check(datas: list[bytes]) -> int:
    """Compare the rows of both readers; how many were of the usual form."""
    quick = read_usual(datas)
    assert sorted([*quick.at.tolist(), *quick.others]) == list(range(len(datas)))
    dropped = set[str]()
    read = [parse(load(datas[i]), None, dropped) for i in quick.at.tolist()]  # whatever is read in this way is sound
    assert not dropped  # what cannot be read is left to who counts it
    expected = table_of([0] * len(read), read)
    quick.table.validate(full=True)
    assert quick.table.schema.equals(expected.schema)
    for name in expected.column_names:
        assert quick.table[name].to_pylist() == expected[name].to_pylist(), name
    failed = [not one and says_fail(load(datas[i])) for i, one in zip(quick.at.tolist(), read, strict=True)]
    assert quick.failed == sum(failed)
    assert quick.not_understood == sum(not one for one in read) - sum(failed)
    return len(quick.at)


def says_fail(document: Any) -> bool:
    return any(isinstance(one, dict) and one.get("stat") == "fail" for one in [document, *document.values()])


@pytest.fixture(scope="module")
def sample():
    return documents(0, 0, 400)


def test_the_sample_collection_is_of_the_usual_form(sample):
    assert check(sample) == len(sample)
    assert check([]) == 0


def test_answers_under_names_of_fields(sample):
    short = ["info", "exif", "contexts", "comments"]
    named = [dict(zip(short, orjson.loads(one).values(), strict=True)) for one in sample[:50]]
    assert check([orjson.dumps(one) for one in named] + sample[:5]) == 55


def test_documents_that_are_none_are_left(sample):
    bad = [
        b"",
        b"[]",
        b"{",
        sample[0][:-1],
        sample[0] + b"x",
        sample[0].replace(b"farm", b"f\xffrm"),
        b'{"a": 1}',
        b"null",
    ]
    quick = read_usual([*bad, sample[0]])
    assert quick.others == list(range(len(bad)))
    assert quick.at.tolist() == [len(bad)]


def test_keys_in_another_order_and_spaces(sample):
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(one) for key, one in reversed(value.items())}
        return [turned(one) for one in value] if isinstance(value, list) else value

    assert check([json.dumps(turned(orjson.loads(one)), indent=1).encode() for one in sample[:60]]) == 60


def spots(value: Any) -> Any:
    """Every (container, key) in a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from spots(inner)


@pytest.mark.parametrize("seed", range(6))
def test_any_change_gives_what_the_tolerant_reader_gives(sample, seed):
    chance = random.Random(seed)
    changed = []
    for number in range(1200):
        document = copy.deepcopy(orjson.loads(sample[number % len(sample)]))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            container, key = chance.choice(list(spots(document)))
            match chance.randrange(4):
                case 0:
                    del container[key]
                case 1 if isinstance(container, dict):
                    container[chance.choice(KEYS)] = chance.choice(ODD)
                case 2 if isinstance(container, list):
                    container.append(copy.deepcopy(container[key]))
                case _:
                    container[key] = chance.choice(ODD)
        changed.append(json.dumps(document).encode())
    sound = []
    for one in changed:
        try:
            load(one)
            sound.append(one)
        except InputError:
            assert not len(read_usual([one]).at) or b"e+300" in one
    assert check(sound) > 300  # many of them are read by types all the same


def entry(tag: Any, label: Any, raw: Any) -> Any:
    return {"tagspace": "IFD0", "tagspaceid": 0, "tag": tag, "label": label, "raw": {"_content": raw}}


@pytest.mark.parametrize("camera", ["", " ", "Canon &amp; co", None])
def test_exif_in_many_forms(camera):
    chance = random.Random(5)
    names = [
        ("Model", "Model"), ("ExposureTime", "Exposure"), ("Exposure", "Exposure"),
        ("ShutterSpeedValue", "Shutter Speed"), ("FNumber", "Aperture"), ("ApertureValue", "Aperture"),
        ("XResolution", "X-Resolution"), ("Lens", "Lens"), ("ISO", "ISO Speed"), ("LensModel", "Lens Model"),
        ("DateTimeOriginal", "Date and Time (Original)"), ("CreateDate", "Create Date"), ("", "Odd"), ("Odd", ""),
    ]  # fmt: skip
    raw = [
        "1/60",
        "0",
        "-1",
        "2.8",
        "",
        "  ",
        "72",
        "300",
        "2009:07:04 12:30:00",
        "2009:07",
        "x",
        "a &amp; b",
        "+0.5",
        "é",
    ]
    datas = []
    for _ in range(800):
        picked = [entry(*chance.choice(names), chance.choice(raw)) for _ in range(chance.randrange(9))]
        photo = {"exif": picked} | ({} if camera is None else {"camera": camera})
        datas.append(orjson.dumps({"exif": {"photo": photo, "stat": "ok"}}))
    # A camera that says nothing makes the reader look elsewhere.
    assert check(datas) > (100 if camera != " " else -1)


def test_no_text_moves_to_another_row():
    def of(*tags: Any) -> Any:
        listed = [{"raw": one, "_content": one.lower(), "machine_tag": 0} for one in tags]
        return orjson.dumps({"info": {"photo": {"owner": {"nsid": "1@N"}, "tags": {"tag": listed}}, "stat": "ok"}})

    quick = read_usual([of("a\0b", "c"), of(), of("D\\u0000"), of("E", " "), of("F", "é")])
    assert quick.at.tolist() == [1, 4]  # a character 0 and a tag that is empty are left to the tolerant reader
    assert quick.table["tags_raw"].to_pylist() == [[], ["F", "é"]]
    assert isinstance(quick.table, pa.Table)
