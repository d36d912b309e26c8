import json
import re
from collections import Counter
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import DependencyError, EngineError, InputError
from engine.jobs import annotation_counts
from engine.jobs.annotation_counts import Tally
from engine.jobs.annotation_stats import annotation_stats, write_stats
from engine.store.annotations.flickr import parse
from engine.store.annotations.published import PUBLISHED
from engine.store.annotations.rows import table_of
from engine.store.annotations.table import Annotations, write_table
from engine.store.change import remove
from engine.store.store import Store
from engine.store.synth_annotations import documents
from tests.builders import make_store

PHOTOS = 2500
COLUMN = {"geo": "latitude"}


def annotated_store(path: Path, found: list[dict[str, Any]]) -> Store:
    """A store of as many photos as annotations."""
    store = make_store(path, {"fc7": np.ones((len(found), 4), np.float32)})
    write_table(store, table_of(store.photo_ids.tolist(), found), without_features=7, quarantined=2)
    return store


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[dict[str, Any]]]:
    """2,500 photos of the sample collection: their store, and what the reader made of each document."""
    found = [parse(text) for number in range(3) for text in documents(2, number)][:PHOTOS]
    return annotated_store(tmp_path_factory.mktemp("stats") / "store", found), found


def test_the_table_counts_what_was_planted(sample):
    store, found = sample
    stats = annotation_stats(store)
    assert (stats.photos, stats.annotated) == (PHOTOS, sum(map(bool, found)))  # some are gone from Flickr
    assert (stats.without_features, stats.quarantined) == (7, 2) and stats.annotated < PHOTOS
    assert [field.name for field in stats.fields] == list(PUBLISHED)
    for field in stats.fields:
        assert field.photos == sum(bool(one.get(COLUMN.get(field.name, field.name))) for one in found)
        assert field.share == field.photos / PHOTOS and field.published == PUBLISHED[field.name]
        assert field.difference == pytest.approx(100 * (field.share - PUBLISHED[field.name] / 1e6))
        assert field.difference is not None and abs(field.difference) < 0.2, field


def test_the_commonest_are_those_of_a_plain_count(sample, monkeypatch):
    store, found = sample
    monkeypatch.setattr(annotation_counts, "_MERGE", 100)  # so that parts are added up on the way
    stats = annotation_stats(store, top=15)
    plain = {
        "tags": Counter(tag for one in found for tag in set(one.get("tags") or [])),
        "groups": Counter(group["id"] for one in found for group in one.get("groups") or []),
        "cameras": Counter(one["camera"] for one in found if one.get("camera")),
        "licences": Counter(one["licence"] for one in found if one.get("licence")),
        "owners": Counter(one["owner"] for one in found if one.get("owner")),
    }
    names = {group["id"]: group["title"] for one in found for group in one.get("groups") or []}
    for name, counts in plain.items():
        top = stats.tops[name]
        expected = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:15]
        assert [(entry.key, entry.photos) for entry in top.most] == expected, name
        assert (top.entries, top.distinct) == (sum(counts.values()), len(counts))
    assert all(entry.label == names[entry.key] for entry in stats.tops["groups"].most)
    assert stats.tops["tags"].photos == sum(bool(one.get("tags")) for one in found)


def test_a_tag_that_was_typed_twice_is_one_of_the_photo(tmp_path):
    store = annotated_store(
        tmp_path / "store", [parse({"tags": ["Canon", "canon", "sea"]}), parse({"tags": ["canon"]})]
    )
    top = annotation_stats(store).tops["tags"]
    assert [(entry.key, entry.photos) for entry in top.most] == [("canon", 2), ("sea", 1)]


def test_places_and_months(sample):
    store, found = sample
    stats = annotation_stats(store)
    located = [(one["latitude"], one["longitude"]) for one in found if one.get("latitude") is not None]
    cells = Counter((int((lat + 90) // 0.5), int((lon + 180) // 0.5)) for lat, lon in located)
    assert {(row, column): stats.places[row, column] for row, column in np.argwhere(stats.places).tolist()} == cells
    for name in ("taken", "posted"):
        assert stats.months[name] == Counter(one[name].strftime("%Y-%m") for one in found if one.get(name))
    document = stats.document()
    lat, lon, most = document["places"]["fullest"][0]
    assert most == max(cells.values()) and cells[int((lat + 90) // 0.5), int((lon + 180) // 0.5)] == most
    assert document["places"]["located"] == len(located)
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_removed_photos_are_left_out(tmp_path):
    store = annotated_store(tmp_path / "store", [{"tags": ["a"]}, {"tags": ["b"]}, {"tags": ["a", "c"]}])
    remove(store.path, store.photo_ids[[0]])
    stats = annotation_stats(Store.open(store.path))
    assert (stats.photos, stats.annotated) == (2, 2)
    assert [(entry.key, entry.photos) for entry in stats.tops["tags"].most] == [("a", 1), ("b", 1), ("c", 1)]


def test_odd_values_are_counted_for_what_they_are(tmp_path):
    found: list[dict[str, Any]] = [
        {"title": "  ", "description": "", "tags": [], "machine_tags": ["a:b=c"], "exif": {}, "camera": "Leica"},
        {"title": "x", "latitude": 90.0, "longitude": 180.0, "groups": [{"id": "1", "title": None}]},
        {"latitude": 400.0, "longitude": 0.0, "posted": datetime(1969, 1, 2, tzinfo=UTC)},
        {"latitude": 1.0, "taken": datetime(2999, 5, 1)},
        {},
    ]
    stats = annotation_stats(annotated_store(tmp_path / "store", found))
    assert {field.name: field.photos for field in stats.fields} == dict.fromkeys(PUBLISHED, 0) | {
        "title": 1, "tags": 1, "exif": 1, "geo": 2, "groups": 1
    }  # fmt: skip
    assert np.argwhere(stats.places).tolist() == [[359, 719]]
    assert stats.months == {"taken": {"2999-05": 1}, "posted": {"1969-01": 1}}
    assert stats.tops["groups"].most[0] == ("1", "1", 1)


def test_a_tally_keeps_one_label_and_knows_nulls():
    import pyarrow as pa

    tally = Tally()
    assert (tally.distinct, tally.most(3)) == (0, [])
    tally.add(pa.array(["a", None, "b", "a"]), pa.array(["A", "?", None, "A2"]))
    tally.add(pa.array(["b", "b"]), pa.array(["B", "B"]))
    assert tally.most(5) == [("b", "B", 3), ("a", "A", 2)]
    assert (tally.distinct, tally.entries) == (2, 5)


def test_no_annotations_say_what_to_do(tmp_path):
    store = make_store(tmp_path / "store", {"fc7": np.ones((3, 4), np.float32)})
    with pytest.raises(InputError, match="annotations ingest"):
        annotation_stats(store)
    with pytest.raises(InputError, match="top is 0"):
        annotation_stats(store, top=0)


def test_files_are_a_page_that_needs_no_other_host(sample, tmp_path):
    store, _ = sample
    stats = annotation_stats(store, Annotations.open(store))
    paths = write_stats(stats, tmp_path / "out" / "stats")
    assert {path.name for path in (tmp_path / "out/stats").iterdir()} == set(paths)
    text = paths["stats.html"].read_text()
    assert "{{" not in text
    assert set(re.findall(r"(?:src|href)=['\"]?([a-z]+:)", text)) == {"data:"}
    assert "default-src 'none'" in text and "864,081" in text and "740,263" in text
    assert json.loads(paths["stats.json"].read_text()) == stats.document()
    for name, least in (("map.png", 800), ("dates.png", 400)):
        with Image.open(BytesIO(paths[name].read_bytes())) as picture:
            assert picture.format == "PNG" and picture.width == 1500
            colours = {pixel for _, pixel in picture.convert("RGB").getcolors(1 << 24) or []}
            blues = sum(b > r + 40 for r, _, b in colours)  # type: ignore[misc]
            assert blues > least / 40, "nothing is drawn"


def test_text_of_users_is_no_markup(tmp_path):
    evil = "<script>alert(1)</script>{{MAP}}"
    found = [{"tags": ["a"], "camera": evil, "groups": [{"id": "1", "title": evil}], "owner": "o", "owner_name": evil}]
    paths = write_stats(annotation_stats(annotated_store(tmp_path / "store", found)), tmp_path / "out")
    text = paths["stats.html"].read_text()
    assert "<script" not in text and text.count("&lt;script&gt;") == 3
    assert text.count("data:image/png") == 2


def test_a_store_of_nothing_known_has_a_page_too(tmp_path):
    stats = annotation_stats(annotated_store(tmp_path / "store", [{}, {}]))
    text = write_stats(stats, tmp_path / "out")["stats.html"].read_text()
    assert text.count("None.") == 5 and all(field.photos == 0 for field in stats.fields)


def test_pictures_are_the_same_again(sample):
    from engine.jobs.annotation_plot import draw_dates, draw_map

    stats = annotation_stats(sample[0])
    assert draw_map(stats) == draw_map(stats) and draw_dates(stats) == draw_dates(stats)


def test_the_dates_are_titled_by_what_is_shown(tmp_path, monkeypatch):
    from engine.jobs import annotation_plot

    notes: list[str] = []
    monkeypatch.setattr(annotation_plot, "_finished", lambda *words: notes.append(words[-1]) or b"")  # type: ignore[func-returns-value]
    found = [{"taken": datetime(2009, 1 + i % 12, 3)} for i in range(600)]
    found.append({"taken": datetime(1900, 1, 1)})
    annotation_plot.draw_dates(annotation_stats(annotated_store(tmp_path / "store", found)))
    assert notes == ["Photos by month, 2009-01 to 2009-12; not shown: 1 date outside of this"]


def test_without_matplotlib_the_numbers_stay(sample, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.colors", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        write_stats(annotation_stats(sample[0]), tmp_path)
    assert json.loads((tmp_path / "stats.json").read_text())["photos"] == PHOTOS


def test_a_file_in_the_way_is_said(sample, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(EngineError, match="cannot be a folder"):
        write_stats(annotation_stats(sample[0]), tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
