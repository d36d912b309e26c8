"""What is said of photos: JSON, Arrow and text of the same values."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import InputError
from engine.store.annotations.fields import PhotoFields, plain_value, shown_value
from engine.store.annotations.schema import schema
from engine.store.annotations.table import Annotations
from tests.builders import make_store
from tests.store.annotations.written import annotate, made_up

NAMES = [name for name in schema().names if name != "photo_id"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    random = np.random.default_rng(0)
    layers = {"fc8": random.normal(0, 5, (300, 1000)).astype(np.float32)}
    made = make_store(tmp_path_factory.mktemp("fields") / "store", layers, random.permutation(300) + 50)
    rows = made_up(made.photo_ids)
    rows[4] |= {
        "comments": [{"author": "1@N01", "author_name": "jo", "posted": datetime.datetime(2010, 1, 2), "text": "hi"}]
    }
    return annotate(made, rows)


def test_every_column_comes_as_it_is(store):
    fields = PhotoFields.open(store, [*NAMES, "classes", "attribution"])
    ids = store.photo_ids[[4, 200, 4, 17]]
    found = fields.of(ids)
    assert set(found) == set(ids.tolist())
    json.dumps(found, allow_nan=False)
    (row,) = Annotations.open(store).of_rows(np.array([4]))
    assert list(found[int(ids[0])]) == [*NAMES, "classes", "attribution"]
    assert {name: found[int(ids[0])][name] for name in NAMES} == {name: plain_value(row[name]) for name in NAMES}
    scores = store.fc8[4].astype(float)
    first = found[int(ids[0])]["classes"][0]
    assert first["probability"] == pytest.approx(np.exp(scores.max()) / np.exp(scores).sum())
    assert len(found[int(ids[0])]["classes"]) == 5


def test_arrow_columns_have_the_types_and_values_of_the_file(store):
    fields = PhotoFields.open(store, [*NAMES, "classes", "attribution"])
    ids = store.photo_ids[[250, 4, 0, 4]]
    table = pa.table(fields.columns(ids), schema=pa.schema(fields.arrow_fields()))
    expected = Annotations.open(store).table(NAMES).take([250, 4, 0, 4])
    assert table.select(NAMES).to_pylist() == expected.to_pylist()
    assert [field.type for field in fields.arrow_fields()[:-2]] == [schema().field(name).type for name in NAMES]
    assert table.column("classes").to_pylist() == [fields.of(ids)[photo_id]["classes"] for photo_id in ids.tolist()]


def test_names_that_there_are_not(store, tmp_path):
    with pytest.raises(InputError, match=r"column 'titel': expected of photo_id, annotated, .*, attribution"):
        PhotoFields.open(store, ["titel"])
    bare = make_store(tmp_path / "bare", {"fc7": np.zeros((3, 4), np.float32)})
    with pytest.raises(InputError, match="has no layer fc8"):
        PhotoFields.open(bare, ["classes"])
    with pytest.raises(InputError, match="mirsearch annotations ingest"):
        PhotoFields.open(bare, ["title"])
    worded = make_store(tmp_path / "worded", {"fc8": np.zeros((3, 1000), np.float32)})
    assert PhotoFields.open(worded, ["classes", "classes"]).names == ("classes",)
    assert PhotoFields.open(worded, ["classes"]).of([]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (1 / 3, "0.333333"),
        (12345, "12345"),
        ("a\n b\x1b[0m\t\u202ec", "a b[0m c"),
        (["sunset", "new york"], "sunset, new york"),
        ([{"id": "3", "title": "Dogs"}, {"id": "4", "title": None}], "Dogs, 4"),
        ([{"author": "1@N01", "author_name": "jo", "posted": None, "text": "hi"}], "jo: hi"),
        ([{"name": "tench", "wordnet_id": "n01440764", "probability": 0.25}], "tench 25.0%"),
        ({"Flash": "No", "ISO": None}, "Flash: No, ISO: "),
        (datetime.datetime(2009, 1, 2, 3, 4, 5), "2009-01-02 03:04:05"),
        ("x" * 50, "x" * 39 + "…"),
    ],
)
def test_values_as_people_read_them(value, text):
    assert shown_value(value, 40) == text


def test_numbers_that_json_does_not_have():
    assert plain_value([float("nan"), {"a": float("inf")}, 2.5]) == [None, {"a": None}, 2.5]
