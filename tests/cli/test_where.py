"""query --where and --columns, credits beside pictures, info --photo: the real command over a real store."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import StoreError
from engine.store.annotations.table import Annotations
from engine.store.store import Store
from tests.builders import oracle_scores
from tests.store.annotations.written import annotate, made_up

CONDITIONS: dict[str, Callable[[dict[str, Any]], bool]] = {  # from few photos to nearly all
    "photo_id IN (3, 500, 77)": lambda row: row["photo_id"] in (3, 500, 77),
    "tags @> ['sunset', 'dog'] AND year(taken) = 2009": lambda row: (
        {"sunset", "dog"} <= set(row["tags"] or ()) and row["taken"] is not None and row["taken"].year == 2009
    ),
    "tags @> 'beach'": lambda row: "beach" in (row["tags"] or ()),
    "views < 500": lambda row: row["views"] is not None and row["views"] < 500,
    "annotated": lambda row: row["annotated"],
    "true": lambda row: True,
}


@pytest.fixture(scope="module")
def annotated(collection, tmp_path_factory):
    """A copy of the sample's store, with annotations; the other tests' store has none."""
    import shutil

    copied = tmp_path_factory.mktemp("annotated") / "store"
    shutil.copytree(collection / "store", copied)
    store = Store.open(copied)
    annotate(store, made_up(store.photo_ids))
    return copied


def answers(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.mark.parametrize("layer", ["fc7", "fc8", "fc7+fc8"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_filtered_answers_are_brute_force_over_what_fits(run, annotated, condition, layer):
    store = Store.open(annotated)
    rows = Annotations.open(store).of_rows(np.arange(len(store)))
    fits = np.array([bool(CONDITIONS[condition](row)) for row in rows])
    query = int(store.photo_ids[41])
    asked = ("query", annotated, "--layer", layer, "--photo", query, "-k", 7)
    said = (*asked, "--where", condition, "--json", "--device", "cpu")
    # All candidates, so that the index misses none.
    wide = () if "+" in layer else ("--probes", 100_000, "--rerank", 100_000)
    layers = [np.asarray(store.layer(one)) for one in layer.split("+")]
    scores = np.mean([oracle_scores(vectors[41], vectors, "cosine") for vectors in layers], axis=0)
    fits[41] = False  # left out of its own answer
    best = np.sort(scores[fits])[::-1][:7]
    for words in ((*said, *wide), (*said, "--exact")):
        document = answers(run(*words))
        assert document["where"] == condition
        assert document["photos"] == sum(bool(CONDITIONS[condition](row)) for row in rows)
        found = document["queries"][0]["neighbors"]
        assert all(fits[store.rows_of(one["photo_id"])[0]] for one in found)
        np.testing.assert_allclose([one["score"] for one in found], best, rtol=2e-5, atol=2e-6)


def test_it_goes_with_lists_of_ids_and_with_a_score(run, annotated, tmp_path):
    store = Store.open(annotated)
    rows = Annotations.open(store).of_rows(np.arange(len(store)))
    within, without = tmp_path / "within.txt", tmp_path / "without.npy"
    within.write_text("\n".join(map(str, range(0, 900))))
    np.save(without, np.arange(0, 900, 3))
    document = answers(
        run("query", annotated, "--layer", "fc8", "--photo", 10, "--min-score", -2, "--where", "tags @> 'beach'",
            "--within", within, "--without", without, "--exact", "--json", "--device", "cpu")
    )  # fmt: skip
    expected = {
        row["photo_id"] for row in rows
        if "beach" in (row["tags"] or ()) and row["photo_id"] < 900 and row["photo_id"] % 3 and row["photo_id"] != 10
    }  # fmt: skip
    assert {one["photo_id"] for one in document["queries"][0]["neighbors"]} == expected
    assert len(expected) > 50


def test_removed_photos_never_come_back_by_a_condition(run, annotated, tmp_path):
    import shutil

    copied = tmp_path / "store"
    shutil.copytree(annotated, copied)
    assert run("remove", copied, "--photo", 500).exit_code == 0
    document = answers(
        run(
            "query",
            copied,
            "--layer",
            "fc7",
            "--photo",
            10,
            "--where",
            "photo_id IN (3, 500)",
            "--json",
            "--device",
            "cpu",
        )
    )
    assert [one["photo_id"] for one in document["queries"][0]["neighbors"]] == [3]
    shown = run("info", copied, "--photo", 500)
    assert ", removed" in shown.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--where", "titel = 'x'"), ['"title"', "Columns: photo_id, annotated, title"]),
        (("--where", "tags @> 'nosuchtag'"), ["no photo is left to be found"]),
        (("--where", "taken > now() - interval 1 year"), ["now goes by the clock", "Columns: photo_id"]),
        (("--where", "EXISTS (FROM read_csv('/etc/passwd'))"), ["read_csv() is not among the functions"]),
        (("--where", "true; DROP TABLE annotations"), ["syntax error"]),
        (("--columns", "titel"), ["column 'titel': expected of"]),
    ],
)
def test_what_cannot_be_is_one_line(run, annotated, options, words):
    result = run("query", annotated, "--layer", "fc7", "--photo", 10, *options, "--device", "cpu")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words)


def test_columns_in_any_case_and_photo_id_among_them(run, annotated):
    asked = ("query", annotated, "--layer", "fc7", "--photo", 41, "-k", 2, "--device", "cpu", "--json", "--columns")
    expected = answers(run(*asked, "title,owner"))
    assert answers(run(*asked, "Photo_ID,TITLE, Owner ")) == expected
    assert "title" in expected["queries"][0]["neighbors"][0]["annotations"]
    assert "annotations" not in answers(run(*asked, "photo_id"))["queries"][0]["neighbors"][0]


def test_columns_in_every_form(run, annotated, tmp_path):
    store = Store.open(annotated)
    asked = ("query", annotated, "--layer", "fc7", "--photo", 41, "-k", 4, "--device", "cpu")
    said = (*asked, "--columns", "title, tags,taken,classes")
    document = answers(run(*said, "--json"))["queries"][0]
    found = document["neighbors"]
    (own,) = Annotations.open(store).of_rows(store.rows_of([41]), ["title"])
    assert document["annotations"]["title"] == own["title"]
    rows = Annotations.open(store).of_rows(store.rows_of([one["photo_id"] for one in found]))
    for one, row in zip(found, rows, strict=True):
        assert list(one["annotations"]) == ["title", "tags", "taken", "classes"]
        assert (one["annotations"]["title"], one["annotations"]["tags"]) == (row["title"], row["tags"])
        assert one["annotations"]["taken"] == (row["taken"] and row["taken"].isoformat())
        assert len(one["annotations"]["classes"]) == 5
    lines = list(csv.DictReader(io.StringIO(run(*said, "--csv").stdout)))
    assert [line["title"] for line in lines] == [row["title"] or "" for row in rows]
    assert [json.loads(line["tags"] or "null") for line in lines] == [row["tags"] for row in rows]
    table = run(*said).stdout
    assert table.splitlines()[2].split() == ["rank", "photo", "score", "title", "tags", "taken", "classes"]
    assert all((row["title"] or "") in table for row in rows)
    assert f"{found[0]['annotations']['classes'][0]['name']} " in table
    assert run(*said, "--out", tmp_path / "found.parquet").exit_code == 0
    written = pq.read_table(tmp_path / "found.parquet")
    assert written.column("title").to_pylist() == [row["title"] for row in rows]
    assert written.column("taken").to_pylist() == [row["taken"] for row in rows]
    assert written.column_names[-4:] == ["title", "tags", "taken", "classes"]


def test_who_made_a_picture_stands_beside_it(run, annotated, collection, monkeypatch):
    store = Store.open(annotated)
    pictures = collection / "sample" / "images"
    said = ("query", annotated, "--layer", "fc7", "--photo", 41, "-k", 6, "--images", pictures, "--device", "cpu")
    document = answers(run(*said, "--json"))["queries"][0]
    table = run(*said).stdout
    for one in document["neighbors"]:
        (row,) = Annotations.open(store).of_rows(store.rows_of([one["photo_id"]]))
        credit = one["annotations"]["attribution"]
        for part in (row["owner_name"] or row["owner"], row["licence"], row["url"]):
            assert part is None or (part in credit and credit in table)
    bare = run("query", collection / "store", *said[2:])
    assert bare.exit_code == 0
    assert "attribution" not in bare.stdout

    def stale(store):
        raise StoreError("of another state")

    monkeypatch.setattr(Annotations, "open", stale)
    warned = run(*said)
    assert warned.exit_code == 0
    assert "No owners or licences are shown. of another state" in warned.stderr


def test_many_queries_have_their_annotations(run, annotated, tmp_path, monkeypatch):
    monkeypatch.setattr("engine.cli.answers._TOGETHER", 7)
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(map(str, range(20, 45))))
    store = Store.open(annotated)
    document = answers(
        run(
            "query",
            annotated,
            "--layer",
            "fc8",
            "--ids-file",
            ids,
            "-k",
            3,
            "--columns",
            "owner",
            "--json",
            "--device",
            "cpu",
        )
    )
    assert [one["photo_id"] for one in document["queries"]] == list(range(20, 45))
    for one in document["queries"]:
        for photo in (one, *one["neighbors"]):
            (row,) = Annotations.open(store).of_rows(store.rows_of([photo["photo_id"]]), ["owner"])
            assert photo["annotations"] == row


def test_all_of_a_photo(run, annotated, collection):
    store = Store.open(annotated)
    rows = Annotations.open(store).of_rows(np.arange(len(store)))
    row = next(row for row in rows if row["title"] and row["tags"] and row["owner_name"] and row["licence"])
    shown = run("info", annotated, "--photo", row["photo_id"], "--photo", 41)
    assert shown.exit_code == 0
    assert f"Photo {row['photo_id']}: {row['title']}" in shown.stdout
    for part in (", ".join(row["tags"]), row["licence"], f"© {row['owner_name']}", "(n0"):
        assert part in shown.stdout
    documents = answers(run("info", annotated, "--photo", row["photo_id"], "--photo", 41, "--json"))["photos"]
    assert [document["photo_id"] for document in documents] == [row["photo_id"], 41]
    assert documents[0]["annotations"]["tags"] == row["tags"]
    assert sum(one["probability"] for one in documents[0]["classes"]) <= 1
    empty = next((row["photo_id"] for row in rows if not row["annotated"]), None)
    assert "no file was read for it, or none that says anything" in run("info", annotated, "--photo", empty).stdout
    assert "mirsearch annotations ingest" in run("info", collection / "store", "--photo", 41).stdout
    missing = run("info", annotated, "--photo", 10**9)
    assert (missing.exit_code, missing.stdout) == (1, "")
