import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, run_verb


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 300 photos with annotations, made by the command line itself."""
    folder = tmp_path_factory.mktemp("annotated")
    for step in (
        ("synth", folder / "sample", "--photos", 300, "--annotations"),
        ("ingest", folder / "sample" / "features", "--store", folder / "store", "--device", "cpu"),
        ("annotations", "ingest", folder / "sample" / "annotations", "--store", folder / "store", "--workers", 1),
    ):
        result = run_verb(*step)
        assert result.exit_code == 0, result.output
    return folder / "store"


def test_synth_says_where_annotations_are_and_what_to_do(run: Run, tmp_path: Path) -> None:
    said = run("synth", tmp_path / "sample", "--photos", 3, "--annotations").output
    assert str(tmp_path / "sample" / "annotations") in said and "annotations ingest" in said
    assert "annotations" not in run("synth", tmp_path / "plain", "--photos", 3).output
    document = json.loads(run("synth", tmp_path / "sample", "--photos", 3, "--annotations", "--json").stdout)
    assert document["annotations"] is True


def test_stats_are_a_table_beside_the_published(run: Run, annotated: Path) -> None:
    result = run("annotations", "stats", annotated, "--top", 2)
    assert result.exit_code == 0
    rows = {line.split("  ")[0]: line.split() for line in result.output.splitlines() if line.strip()}
    assert rows["Title"][1:] == ["259", "86.3", "%", "864,081", "86.4", "%", "−0.07"]
    assert rows["Geo information"][2] == "84"
    tags = next(line for line in result.output.splitlines() if line.startswith("Tags: "))
    assert tags.count("(") == 2


def test_stats_as_json_and_as_a_page(run: Run, annotated: Path, tmp_path: Path) -> None:
    result = run("annotations", "stats", annotated, "--json", "--out", tmp_path / "out")
    document = json.loads(result.stdout)
    assert document["availability"][0]["photos"] == 259
    assert {Path(path).name for path in document["files"].values()} == {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert "stats.html" in run("annotations", "stats", annotated, "--out", tmp_path / "out").output


def test_a_store_without_annotations_is_said(run: Run, collection: Path) -> None:
    result = run("annotations", "stats", collection / "store")
    assert result.exit_code == 1
    assert "mirsearch annotations ingest" in result.stderr


def test_names_of_users_cannot_drive_a_terminal(run: Run, annotated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.jobs import annotation_counts

    monkeypatch.setattr(annotation_counts.Tally, "most", lambda *_: [annotation_counts.Entry("k", "\x1b[2Jred", 3)])
    said = run("annotations", "stats", annotated).output
    assert "red (3)" in said and "\x1b" not in said
