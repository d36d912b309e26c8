"""`evaluate` and `annotate` as they are typed."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store
from tests.jobs.annotated import planted

Run = Callable[..., Result]
FEW = ("--queries", 60, "--depth", 20, "--repeats", 1, "--resamples", 100, "--device", "cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = planted(tmp_path_factory.mktemp("cli") / "store")
    for layer in "xy":
        build_index(store, IndexSpec(layer=layer, lists=16), device=CPU)
    return store.path


def test_evaluate_puts_ways_side_by_side_and_writes_them(run: Run, store: Path, tmp_path: Path) -> None:
    result = run("evaluate", store, "--layer", "all", "--probes", "1,16", *FEW, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for word in (
        "random",
        "x exact",
        "x index, default",
        "y exact",
        "x+y exact",
        "mAP@20",
        "nDCG@10",
        "without labels",
    ):
        assert word in result.stdout
    document = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert [layer["layer"] for layer in document["layers"]] == ["x", "y", "x+y"]
    assert (tmp_path / "out" / "relevance.png").is_file()


def test_evaluate_prints_one_document_and_leaves_out_the_same_owners(run: Run, store: Path) -> None:
    words = ("evaluate", store, "--layer", "x", *FEW, "--exclude-same", "owner", "--json", "--relevance", "combined")
    document = json.loads(run(*words).stdout)
    assert document["format"] == "mirsearch-evaluate"
    assert document["spec"]["relevance"]["exclude_same"] == ["owner"]
    assert document["queries"]["left_out_mean"] == 9
    assert document["files"] == {}
    said = run(*(word for word in words if word != "--json")).stdout
    assert "of the same owner: 9.0 photos a query" in said


def test_evaluate_by_labels_of_others(run: Run, store: Path, tmp_path: Path) -> None:
    ids = Store.open(store).photo_ids[:300].tolist()
    (tmp_path / "labels.tsv").write_text("".join(f"{photo}\tkind{i % 15}\n" for i, photo in enumerate(ids)))
    words = ("evaluate", store, "--layer", "x", "--labels", tmp_path / "labels.tsv", *FEW, "--json")
    document = json.loads(run(*words).stdout)
    assert document["relevance"]["candidates"] == document["relevance"]["labelled"] == 300
    exact = next(point for point in document["points"] if point["kind"] == "exact")
    assert exact["metrics"]["precision"]["mean"] > 0.9
    assert run(*words[:-1], "--relevance", "tags").exit_code == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--relevance", "mood"), 2, "relevance"),
        (("--exclude-same", "friend"), 2, "expected owner, album or burst"),
        (("--gain", "large"), 2, "gain"),
        (("--probes", "a"), 2, "expected numbers such as"),
        (("-k", 200), 1, "--depth 100 is how far down"),
        (("--relevance", "labels"), 1, "--labels FILE"),
        (("--layer", "z"), 1, "this store has x, y"),
        (("--relevance", "geo"), 1, "no photo has annotations for geo"),
    ],
)
def test_evaluate_says_what_is_wrong(run: Run, store: Path, words: tuple[object, ...], code: int, message: str) -> None:
    given = words if "--layer" in words else (*words, "--layer", "x")
    result = run("evaluate", store, *given, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in " ".join(result.stderr.split())


def test_a_store_without_annotations_is_told_how_to_have_some(run: Run, tmp_path: Path) -> None:
    bare = make_store(tmp_path / "store", {"x": clustered(50, 8)})
    result = run("evaluate", bare.path, "--device", "cpu")
    assert result.exit_code == 1
    assert "mirsearch annotations ingest" in result.stderr
    build_index(bare, IndexSpec(layer="x", refine="none"), device=CPU)
    assert run("annotate", bare.path, "--photo", 1000, "--device", "cpu").exit_code == 1


def test_annotate_names_tags(run: Run, store: Path, tmp_path: Path) -> None:
    words = ("annotate", store, "--layer", "x", "--photo", 1000, "--photo", 1007, "--device", "cpu")
    said = run(*words).stdout
    assert "photo 1000 · x, cosine, cpu" in said
    assert "thing0" in said
    assert "thing1" in said
    document = json.loads(run(*words, "--json", "--exact", "--tags", 2).stdout)
    assert [photo["photo_id"] for photo in document["photos"]] == [1000, 1007]
    assert "thing0" in {tag["tag"] for tag in document["photos"][0]["tags"]}
    assert run(*words, "--out", tmp_path / "tags.parquet").exit_code == 0
    table = pq.read_table(tmp_path / "tags.parquet")
    assert table.column_names == ["query_photo_id", "query_source", "rank", "tag", "score", "share", "photos"]
    assert set(table.column("query_photo_id").to_pylist()) == {1000, 1007}
    counted = json.loads(run(*words, "--out", tmp_path / "tags.parquet", "--json").stdout)
    assert (counted["photos_annotated"], counted["rows"]) == (2, table.num_rows)


def test_annotate_measures_itself(run: Run, store: Path, tmp_path: Path) -> None:
    words = ("annotate", store, "--layer", "x", "--evaluate", "--queries", 80, "--min-photos", 2, "--device", "cpu")
    said = run(*words, "--out", tmp_path / "by_tag.parquet").stdout
    assert "most frequent tags" in said
    assert "precision@5" in said
    document = json.loads(run(*words, "--json").stdout)
    table = pq.read_table(tmp_path / "by_tag.parquet")
    assert table.column("tag").to_pylist() == [tag["tag"] for tag in document["by_tag"]]
    assert document["methods"][0]["precision"]["mean"] > document["methods"][2]["precision"]["mean"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 1, "nothing to annotate"),
        (("--photo", 1000, "--evaluate"), 1, "Choose one"),
        (("--photo", 5), 1, "photo 5: not in"),
        (("--photo", 1000, "--exclude-same", "owner"), 1, "--exclude-same: of --evaluate"),
        (("--photo", 1000, "--out", "tags.csv"), 1, "ends in .parquet"),
        (("--photo", 1000, "--votes", "many"), 2, "votes"),
    ],
)
def test_annotate_says_what_is_wrong(run: Run, store: Path, words: tuple[object, ...], code: int, message: str) -> None:
    result = run("annotate", store, "--layer", "x", *words, "--device", "cpu")
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in " ".join(result.stderr.split())
