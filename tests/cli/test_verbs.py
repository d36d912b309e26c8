"""Every verb on real files, through the application that the command runs."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

from engine import Store
from engine.store.dat import write_dat

Run = Callable[..., Result]


def document(result: Result) -> Any:
    assert result.exit_code in (0, 3), result.output
    return json.loads(result.stdout)


def test_query_by_photo_gives_the_contract_document(run: Run, collection: Path) -> None:
    found = document(
        run("query", collection / "store", "--photo", 7, "--photo", 8, "-k", 5, "--device", "cpu", "--json")
    )
    assert found["layer"] == "fc7" and found["metric"] == "cosine" and found["device"] == "cpu"
    assert [query["photo_id"] for query in found["queries"]] == [7, 8]
    for query in found["queries"]:
        scores = [neighbor["score"] for neighbor in query["neighbors"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
        assert query["photo_id"] not in [neighbor["photo_id"] for neighbor in query["neighbors"]]


def test_a_list_of_photos_is_a_filter_and_a_score_a_limit(run: Run, collection: Path, tmp_path: Path) -> None:
    store = Store.open(collection / "store")
    (tmp_path / "some.txt").write_text("\n".join(map(str, [*range(0, 900, 3), 10**9])))
    np.save(tmp_path / "others.npy", np.arange(0, 900, 2))
    words = ("query", collection / "store", "--photo", 7, "--within", tmp_path / "some.txt", "--json")
    result = run(*words, "--without", tmp_path / "others.npy", "-k", 150)
    neighbors = document(result)["queries"][0]["neighbors"]
    allowed = [photo for photo in range(0, 900, 3) if photo % 2 and photo != 7]
    assert sorted(found["photo_id"] for found in neighbors) == allowed
    assert "does not have them: 1 photo id of the filter" in result.stderr
    rows = np.asarray(store.fc7, np.float64)
    scores = rows @ rows[7] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[7])
    least = float(np.sort(scores)[-60]) - 1e-6
    above = document(run("query", collection / "store", "--photo", 7, "--min-score", least, "--exact", "--json"))
    ids = [found["photo_id"] for found in above["queries"][0]["neighbors"]]
    assert sorted(ids) == sorted(set(store.photo_ids[scores >= least].tolist()) - {7}) and len(ids) == 59


def test_include_self_puts_the_photo_first(run: Run, collection: Path) -> None:
    found = document(run("query", collection / "store", "--photo", 7, "-k", 3, "--include-self", "--json"))
    first = found["queries"][0]["neighbors"][0]
    assert first["score"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("layer", ["fc7", "fc8"])
def test_dat_vectors_and_exact_agree(run: Run, collection: Path, tmp_path: Path, layer: str) -> None:
    store = Store.open(collection / "store")
    np.save(tmp_path / "v.npy", store.layer(layer)[[100, 101]])
    dat = collection / "sample" / "features" / "0" / "100.dat"
    base = ("query", collection / "store", "--layer", layer, "-k", 4, "--json")
    by_dat = document(run(*base, "--dat", dat))["queries"][0]
    by_vector = document(run(*base, "--vectors", tmp_path / "v.npy"))["queries"]
    exact = document(run(*base, "--exact", "--dat", dat))["queries"][0]
    assert by_dat["source"] == str(dat) and by_vector[1]["source"] == f"{tmp_path / 'v.npy'}[1]"
    assert by_dat["neighbors"] == by_vector[0]["neighbors"]
    assert by_dat["neighbors"][0] == exact["neighbors"][0]


def test_csv_and_parquet_hold_the_same_answers(run: Run, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("3  # a comment\n\n12\n900\n")
    base = ("query", collection / "store", "--ids-file", tmp_path / "ids.txt", "-k", 6)
    lines = list(csv.DictReader(io.StringIO(run(*base, "--csv").stdout)))
    result = run(*base, "--out", tmp_path / "new" / "answers.parquet")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "new" / "answers.parquet").to_pylist()
    assert len(rows) == len(lines) == 18
    assert [int(line["photo_id"]) for line in lines] == [row["photo_id"] for row in rows]
    assert [int(line["query"]) for line in lines] == [row["query_photo_id"] for row in rows]
    assert np.allclose([float(line["score"]) for line in lines], [row["score"] for row in rows])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["answers.parquet"]


def test_table_shows_the_picture_of_each_neighbour(run: Run, collection: Path) -> None:
    images = collection / "sample" / "images"
    result = run("query", collection / "store", "--photo", 7, "-k", 2, "--images", images)
    shown = [word for word in result.stdout.split() if word.endswith(".jpg")]
    assert len(shown) == 2 and all(Path(path).is_file() for path in shown)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--photo", 5000), "photo 5000: not in"),
        ((), "nothing to look for"),
        (("--photo", 1, "--layer", "fc9"), "layer 'fc9': this store has fc7, fc8"),
        (("--photo", 1, "--name", "other"), "no such index"),
        (("--photo", 1, "--layer", "fc9", "--exact"), "layer 'fc9': this store has fc7, fc8"),
        (("--photo", 1, "--json", "--csv"), "choose one"),
        (("--photo", 1, "--out", "x.txt"), "ends in .parquet"),
        (("--dat", "absent.dat"), "absent.dat: cannot be read"),
        (("--vectors", "absent.npy"), "absent.npy: cannot be read"),
        (("--ids-file", "absent.txt"), "absent.txt: cannot be read"),
        (("--photo", 1, "--within", "absent.txt"), "absent.txt: cannot be read"),
    ],
)
def test_a_wrong_query_is_one_line_and_exit_1(run: Run, collection: Path, words: tuple[object, ...], says: str) -> None:
    result = run("query", collection / "store", *words)
    assert result.exit_code == 1
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_an_error_with_json_is_a_document_too(run: Run, tmp_path: Path) -> None:
    result = run("info", tmp_path / "nothing", "--json")
    assert result.exit_code == 1
    assert "manifest.json" in json.loads(result.stdout)["error"]


def test_an_error_after_many_answers_leaves_one_document(run: Run, collection: Path, tmp_path: Path) -> None:
    rows = np.tile(Store.open(collection / "store").layer("fc8"), (4, 1))
    rows[4500, 7] = np.nan
    np.save(tmp_path / "late.npy", rows)
    result = run("query", collection / "store", "--layer", "fc8", "--vectors", tmp_path / "late.npy", "--json")
    assert result.exit_code == 1
    assert f"{tmp_path / 'late.npy'}[4500]" in json.loads(result.stdout)["error"]


def test_scores_past_float32_are_an_error_not_an_answer(run: Run, collection: Path, tmp_path: Path) -> None:
    assert run("build", collection / "store", "--layer", "fc8", "--metric", "l2", "--name", "far").exit_code == 0
    np.save(tmp_path / "far.npy", Store.open(collection / "store").layer("fc8")[:2] * np.float32(1e30))
    result = run("query", collection / "store", "--name", "far", "--vectors", tmp_path / "far.npy", "--json")
    assert result.exit_code == 1 and "range of float32" in json.loads(result.stdout)["error"]


def test_a_name_brings_its_layer_and_another_layer_is_refused(run: Run, collection: Path) -> None:
    assert run("build", collection / "store", "--layer", "fc8", "--metric", "ip", "--name", "other").exit_code == 0
    assert document(run("query", collection / "store", "--name", "other", "--photo", 1, "--json"))["layer"] == "fc8"
    for verb in (("query", "--photo", 1), ("bench",), ("dedup", "--out", "never")):
        result = run(verb[0], collection / "store", "--name", "other", "--layer", "fc7", *verb[1:])
        assert result.exit_code == 1 and "index other is over fc8" in result.stderr
    result = run("query", collection / "store", "--photo", 1, "--name", "../fc7")
    assert result.exit_code == 1 and "letters, digits" in result.stderr


def test_bench_refuses_a_file_as_folder_before_it_measures(run: Run, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("bench", collection / "store", "--out", tmp_path / "file")
    assert result.exit_code == 1 and "is a file" in result.stderr


def test_ids_file_names_the_bad_line(run: Run, collection: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("1\n2\n-3\n")
    result = run("query", collection / "store", "--ids-file", tmp_path / "ids.txt")
    assert result.exit_code == 1 and "line 3" in result.stderr


def test_an_ids_array_names_the_place_of_what_is_none(run: Run, collection: Path, tmp_path: Path) -> None:
    for ids, says in (([1, 2, -3], "[2]: -3 is not"), (np.array([1, 1 << 63], np.uint64), f"[1]: {1 << 63} is not")):
        np.save(tmp_path / "ids.npy", ids)
        result = run("query", collection / "store", "--photo", 1, "--within", tmp_path / "ids.npy")
        assert result.exit_code == 1 and f"{tmp_path / 'ids.npy'}{says}" in result.stderr


def test_vectors_of_another_dimension_or_with_nan_are_refused(run: Run, collection: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 7), np.float32))
    np.save(tmp_path / "b.npy", np.full((2, 4096), np.nan, np.float32))
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], object), allow_pickle=True)
    for name, says in (("a", "expected (n, 4096)"), ("b", "NaN"), ("c", "cannot be read")):
        result = run("query", collection / "store", "--vectors", tmp_path / f"{name}.npy")
        assert result.exit_code == 1 and says in result.stderr


def test_cuda_without_a_gpu_is_an_error_and_never_the_cpu(run: Run, collection: Path) -> None:
    from kernels.device import cupy_gpus

    if cupy_gpus()[0]:
        pytest.skip("there is a GPU here")
    result = run("query", collection / "store", "--photo", 1, "--device", "cuda")
    assert result.exit_code == 1 and "--device cuda" in result.stderr


def test_ingest_with_damage_ends_with_3_and_strict_with_1(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for photo in range(5):
        write_dat(tmp_path / f"{photo}.dat", rng.random(4096, np.float32), rng.random(1000, np.float32))
    (tmp_path / "3.dat").write_bytes(b"short")
    result = run("ingest", tmp_path, "--store", tmp_path / "store", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["photos"] == 4 and json.loads(result.stdout)["refused"] == 1
    entry = json.loads((tmp_path / "store" / "quarantine.jsonl").read_text())
    assert entry["photo_id"] == 3 and "5 bytes, expected 20,400" in entry["reason"]
    result = run("ingest", tmp_path, "--store", tmp_path / "other", "--strict")
    assert result.exit_code == 1 and "3.dat" in result.stderr
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_info_and_build_say_what_there_is(run: Run, collection: Path) -> None:
    found = document(run("info", collection / "store", "--json"))
    assert found["rows"] == 1200 and {"fc7", "fc8"} <= set(found["indices"])
    assert found["layers"]["fc7"] == {"dim": 4096, "bytes": 1200 * 4096 * 4}
    again = document(run("build", collection / "store", "--layer", "fc8", "--device", "cpu", "--json"))
    assert again["indices"][0]["reused"] is True
    assert "Index fc7" in run("info", collection / "store").stdout


def test_verify_finds_a_flipped_bit_in_store_and_index(run: Run, collection: Path, tmp_path: Path) -> None:
    store = shutil.copytree(collection / "store", tmp_path / "store")
    assert document(run("verify", store, "--json"))["intact"] is True
    for name, at in (("fc8.npy", 128 + 4000 * 700), ("indices/fc7/refine.npy", 5000)):
        data = bytearray((store / name).read_bytes())
        data[at] ^= 4
        (store / name).write_bytes(data)
    result = run("verify", store, "--json")
    assert result.exit_code == 3
    damage = json.loads(result.stdout)["damage"]
    assert [Path(item["path"]).name for item in damage] == ["fc8.npy", "refine.npy"]
    assert damage[0]["rows"] == [512, 768] and damage[0]["photo_ids"] == [512, 767]
    assert run("verify", store).exit_code == 3


def test_verify_of_damaged_ids_ends_with_3_and_a_build_over_damaged_rows_is_refused(
    run: Run, collection: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(collection / "store", tmp_path / "store")
    data = bytearray((store / "fc8.npy").read_bytes())
    data[128 + 4000 * 300] ^= 1
    (store / "fc8.npy").write_bytes(data)
    result = run("build", store, "--layer", "fc8", "--force")
    assert result.exit_code == 1 and "rows 256 to 511" in result.stderr
    (store / "photo_ids.npy").write_bytes(b"nothing")
    result = run("verify", store, "--json")
    assert result.exit_code == 3 and json.loads(result.stdout)["damage"][0]["file"] == "photo_ids.npy"


def test_bench_writes_its_document_and_pictures(run: Run, collection: Path, tmp_path: Path) -> None:
    words = ("--queries", 40, "--repeats", 1, "--probes", "4,8", "--rerank", "60", "--out", tmp_path, "--json")
    found = document(run("bench", collection / "store", "--layer", "fc8", *words))
    kinds = [(point["kind"], point["probes"], point["rerank"]) for point in found["points"]]
    assert ("index", 4, 60) in kinds and ("index", 8, 60) in kinds and any(kind == "exact" for kind, _, _ in kinds)
    assert (tmp_path / "recall_qps.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "recall_qps.svg").read_text()
    assert "recall@10" in run("bench", collection / "store", "--layer", "fc8", *words[:-1]).stdout
    assert run("bench", collection / "store", "--probes", "a,b").exit_code == 2
    assert run("bench", collection / "store", "--rerank", "0,5").exit_code == 2


def test_dedup_finds_what_was_planted(run: Run, collection: Path, tmp_path: Path) -> None:
    words = (
        "--out",
        tmp_path,
        "--images",
        collection / "sample" / "images",
        "--truth",
        collection / "sample" / "truth.jsonl",
    )
    found = document(run("dedup", collection / "store", *words, "--json"))
    kinds = found["truth"]["kinds"]
    assert kinds["exact"]["recall"] == 1.0 and kinds["near-strong"]["recall"] == 1.0 and kinds["burst"]["found"] == 0
    groups = [json.loads(line) for line in (tmp_path / "groups.jsonl").read_text().splitlines()]
    assert groups and all(group["representative"] in group["photo_ids"] for group in groups)
    assert "<html" in (tmp_path / "report.html").read_text()
    shown = run("dedup", collection / "store", *words)
    assert shown.exit_code == 0 and "exact" in shown.stdout
    every = document(run("dedup", collection / "store", *words, "--exhaustive", "--json"))
    assert every["method"] == "exhaustive" and found["method"] == "index" and every["pairs"] == found["pairs"]


def test_demo_runs_and_reuses(run: Run, tmp_path: Path) -> None:
    first = document(run("demo", tmp_path / "demo", "--photos", 1100, "--device", "cpu", "--json"))
    assert [step["name"] for step in first["steps"]] == [
        "synth", "ingest", "build fc7", "build fc8", "query", "bench", "dedup"
    ]  # fmt: skip
    again = run("demo", tmp_path / "demo", "--photos", 1100, "--device", "cpu")
    assert again.exit_code == 0 and again.stdout.count("there already") == len(first["steps"]) - 1
    shown = again.stdout
    assert "report.html" in shown and "recall_qps.png" in shown and "Next:" in shown


def test_demo_of_very_few_photos(run: Run, tmp_path: Path) -> None:
    result = run("demo", tmp_path / "demo", "--photos", 5, "--device", "cpu")
    assert result.exit_code == 0, result.output
    result = run("demo", tmp_path / "demo", "--photos", 6, "--device", "cpu")
    assert result.exit_code == 1 and "another sample" in result.stderr
    assert len(list((tmp_path / "demo" / "sample" / "features").rglob("*.dat"))) == 5  # nothing was overwritten


def test_doctor_names_faiss_and_the_choice_of_auto(run: Run) -> None:
    found = json.loads(run("doctor", "--json").stdout)
    assert found["facts"]["faiss"][0].isdigit() and "--device auto" in found["facts"]


def test_doctor_without_faiss_ends_with_1_and_the_install_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from engine.index import ivfpq

    monkeypatch.setitem(sys.modules, "faiss", None)
    ivfpq.faiss.cache_clear()
    try:
        result = run("doctor")
    finally:
        ivfpq.faiss.cache_clear()
    assert result.exit_code == 1 and "pip install 'mirsearch[cpu]'" in result.stderr


def test_doctor_sees_two_builds_of_faiss(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.index import ivfpq

    monkeypatch.setattr(ivfpq, "installed_builds", lambda: {"faiss-cpu": "1.15.1", "faiss-gpu": "1.15.1"})
    result = run("doctor")
    assert result.exit_code == 1 and "pip uninstall -y faiss-cpu faiss-gpu" in result.stderr
