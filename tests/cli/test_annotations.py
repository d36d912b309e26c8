"""`annotations` on the command line: what is printed, written and returned."""

import json

import numpy as np
import pytest

from tests.builders import flip_bit, make_store


@pytest.fixture
def store(tmp_path):
    make_store(tmp_path / "s", {"fc7": np.ones((3, 8), np.float32)}, [1, 2, 3])
    return tmp_path / "s"


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files" / "0"
    folder.mkdir(parents=True)
    for photo_id in (1, 3, 9):
        said = {"title": {"_content": f"photo {photo_id}"}, "headline": {"so.and.so": ["\x1b[31m" + "x" * 100]}}
        (folder / f"{photo_id}.json").write_text(json.dumps({"photo": said, "stat": "ok"}))
    return tmp_path / "files"


def test_ingest_says_what_it_did_and_info_and_verify_know_of_it(run, store, files):
    done = run("annotations", "ingest", files, "--store", store)
    assert done.exit_code == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 annotated photos in" in said and "3 files" in said
    assert "without annotations 1 of 3 photos" in said and "without features 1 photo that" in said
    assert "annotations of 2 photos" in " ".join(run("info", store).stdout.split())
    assert json.loads(run("info", store, "--json").stdout)["annotations"] == "of 2 photos"
    assert run("verify", store).exit_code == 0


def test_ingest_as_json_and_with_damage(run, store, files):
    (files / "0" / "2.json").write_text("{")
    done = run("annotations", "ingest", files, "--store", store, "--json", "--workers", 1)
    assert done.exit_code == 3 and "1 file was set aside" in done.stderr
    report = json.loads(done.stdout)
    assert (report["annotated"], report["refused"], report["workers"]) == (2, 1, 1)
    assert json.loads((store / "annotations-quarantine.jsonl").read_text())["photo_id"] == 2


def test_what_is_not_understood_is_said_and_a_map_helps(run, store, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.json").write_text('{"headline": {"so.and.so": "hello"}}')
    done = run("annotations", "ingest", tmp_path / "a", "--store", store)
    assert done.exit_code == 0 and "In 1 file nothing was understood" in done.stderr
    (tmp_path / "map.json").write_text('{"title": "headline[\\"so.and.so\\"]"}')
    done = run("annotations", "ingest", tmp_path / "a", "--store", store, "--map", tmp_path / "map.json")
    assert done.exit_code == 0 and "understood" not in done.stderr
    (tmp_path / "map.json").write_text('{"titel": "headline"}')
    done = run("annotations", "ingest", tmp_path / "a", "--store", store, "--map", tmp_path / "map.json")
    assert done.exit_code == 1 and "field 'titel' is not of the annotations. They have title" in done.stderr


def test_inspect_shows_paths_and_nothing_that_moves_a_terminal(run, files):
    done = run("annotations", "inspect", files)
    assert done.exit_code == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()[1:] if line.strip()}
    assert "title" in lines["photo.title._content"].split()[3]
    assert lines['photo.headline["so.and.so"][]'].split()[1:4] == ["3", "3", "-"]
    assert "\x1b" not in done.stdout and "2 of them read" not in done.stdout
    found = json.loads(run("annotations", "inspect", files, "--json", "--files", 2).stdout)
    assert found["files"] == 2 and found["fields"] == {"title": 2}
    assert {path["path"]: path["understood"] for path in found["paths"]} == {
        "photo.title._content": True, 'photo.headline["so.and.so"][]': False, "stat": False,
    }  # fmt: skip


def test_inspect_of_damage_ends_with_three(run, tmp_path):
    (tmp_path / "1.json").write_text("{")
    done = run("annotations", "inspect", tmp_path)
    assert done.exit_code == 3 and "is no JSON" in done.stderr
    (tmp_path / "1.json").unlink()
    done = run("annotations", "inspect", tmp_path)
    assert done.exit_code == 1 and "no annotation files found" in done.stderr


def test_an_ingest_of_less_is_one_line_and_what_is_lost_is_said(run, store, files, tmp_path):
    run("annotations", "ingest", files, "--store", store)
    (tmp_path / "less").mkdir()
    (tmp_path / "less" / "3.json").write_text('{"title": "other", "views": "many"}')
    said = ("annotations", "ingest", tmp_path / "less", "--store", store)
    done = run(*said)
    assert done.exit_code == 1 and done.stdout == "" and len(done.stderr.strip().splitlines()) == 1
    assert "has annotations of 2 photos; 1 would lose some" in done.stderr and "--replace" in done.stderr
    assert "would lose" in json.loads(run(*said, "--json").stdout)["error"]
    done = run(*said, "--replace")
    assert done.exit_code == 0 and "before 2 annotated photos" in " ".join(done.stdout.split())
    assert "not readable and so left out: views in 1 file" in " ".join(done.stdout.split())
    assert "1 photo lost what these sources do not say: title of 1. 2 photos had annotations, now 1." in done.stderr
    assert "name all sources in one command" in done.stderr
    report = json.loads(run("annotations", "ingest", files, "--store", store, "--json").stdout)
    assert (report["annotated_before"], report["annotated"], report["lost"], report["dropped"]) == (1, 2, 0, {})


def test_a_table_that_has_vanished_is_damage(run, store, files):
    run("annotations", "ingest", files, "--store", store)
    (store / "annotations.parquet").unlink()
    done = run("verify", store)
    assert done.exit_code == 3 and "annotations.parquet: is absent" in done.stderr and "--repair" not in done.stdout
    assert "annotations.parquet is gone" in run("info", store).stdout
    assert run("annotations", "ingest", files, "--store", store).exit_code == 0
    assert run("verify", store).exit_code == 0


def test_paths_of_a_map_that_stand_nowhere_are_said(run, store, files, tmp_path):
    (tmp_path / "map.json").write_text('{"title": "photo.title", "tags": "photo.keywords[].x"}')
    for words in (("ingest", files, "--store", store), ("inspect", files)):
        done = run("annotations", *words, "--map", tmp_path / "map.json")
        assert done.exit_code == 0 and "Of --map, in no file: tags: photo.keywords[].x." in done.stderr


def test_a_store_that_has_grown_or_is_damaged_says_which_command_helps(run, store, files, tmp_path):
    run("annotations", "ingest", files, "--store", store)
    path = store / "annotations.parquet"
    whole = path.read_bytes()
    flip_bit(path, 8 * 40)
    done = run("verify", store)
    assert done.exit_code == 3 and "annotations ingest SOURCE" in done.stderr and "--repair" not in done.stdout
    path.write_bytes(whole)
    make_store(tmp_path / "t", {"fc7": np.ones((4, 8), np.float32)}, [1, 2, 3, 4])
    (tmp_path / "t" / "annotations.parquet").write_bytes(whole)
    done = run("verify", tmp_path / "t")
    assert done.exit_code == 0 and "annotations.parquet is of another state of the store" in done.stdout
    assert "unusable" in run("info", tmp_path / "t").stdout
