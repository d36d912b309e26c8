"""Which layer and which index are meant, in stores of any layers."""

from pathlib import Path

import numpy as np
import pytest

from engine.cli.app import VERBS
from engine.cli.options import index_folder, known_layer, refuse_empty_words
from engine.errors import EngineError, InputError
from engine.index.build import build_index
from engine.index.spec import IndexSpec
from tests.builders import CPU, make_store
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("layers", "meant"), [(["fc7", "fc8"], "fc7"), (["fc8"], "fc8"), (["sift"], "sift"), (["a", "fc7"], "fc7")]
)
def test_the_layer_that_goes_without_saying(tmp_path: Path, layers: list[str], meant: str) -> None:
    store = make_store(tmp_path / "store", {layer: np.ones((3, 2), np.float32) for layer in layers}).path
    assert known_layer(store, None) == meant
    assert index_folder(store, None, None) == (meant, store / "indices" / meant)
    for layer in layers:
        assert index_folder(store, layer, None) == (layer, store / "indices" / layer)
    with pytest.raises(InputError, match=f"layer 'fc6': this store has {', '.join(layers)}"):
        index_folder(store, "fc6", None)


def test_several_layers_must_be_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"glove": np.ones((3, 2)), "clip": np.ones((3, 5))}).path
    with pytest.raises(InputError, match=r"^--layer: which\? This store has clip, glove$"):
        index_folder(store, None, None)


def test_a_name_brings_its_layer(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"glove": np.ones((3, 2)), "clip": np.ones((3, 5))})
    build_index(store, IndexSpec(layer="clip"), device=CPU, name="other")
    assert index_folder(store.path, None, "other") == ("clip", store.path / "indices" / "other")
    with pytest.raises(InputError, match="index other is over clip"):
        index_folder(store.path, "glove", "other")


def test_an_index_that_is_not_over_the_layer_it_is_named_after_answers_for_no_verb(run: Run, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"glove": np.eye(4), "clip": np.eye(4, 5)})
    for layer in ("glove", "clip"):
        build_index(store, IndexSpec(layer=layer), device=CPU, name=f"of_{layer}")
    (store.path / "indices" / "of_clip").rename(store.path / "indices" / "glove")
    (store.path / "indices" / "of_glove").rename(store.path / "indices" / "clip")
    photo = store.photo_ids[0]
    (tmp_path / "labels.csv").write_text(f"{photo},a\n")
    for words in (
        ("query", store.path, "--layer", "glove", "--photo", photo),
        ("query", store.path, "--layer", "glove", "--photo", photo, "--exact"),
        ("query", store.path, "--layer", "clip+glove", "--photo", photo),
        ("dedup", store.path, "--layer", "glove", "--out", tmp_path / "out"),
        ("graph", store.path, "--layer", "glove", "--out", tmp_path / "out"),
        ("tune", store.path, "--layer", "glove"),
        ("bench", store.path, "--layer", "glove", "--out", tmp_path / "out"),
        ("evaluate", store.path, "--layer", "glove", "--labels", tmp_path / "labels.csv"),
        ("build", store.path, "--layer", "glove", "--update"),
    ):
        result = run(*words, "--device", "cpu")
        assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1, words
        assert ": is over " in result.stderr and "Build it again: mirsearch build" in result.stderr, words
    assert not (tmp_path / "out").exists()
    for layer in ("glove", "clip"):
        assert run("build", store.path, "--layer", layer, "--device", "cpu").exit_code == 0
    assert run("query", store.path, "--layer", "glove", "--photo", photo, "--device", "cpu").exit_code == 0


def test_where_there_is_no_store_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"manifest\.json: absent"):
        index_folder(tmp_path / "none", None, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("info", ""), "STORE '': an empty word"),
        (("build", "--layer", "v", ""), "STORE"),
        (("verify", "", "x"), "STORE or [SOURCE]... '': an empty word"),
        (("ingest", "x", "--store", ""), "--store '': an empty word"),
        (("import", "x.npy", "--store=", "--layer", "v"), "--store '': an empty word"),
        (("export", "x", "--out", ""), "--out '': an empty word"),
        (("demo", ""), "DIR '': an empty word"),
    ],
)
def test_an_empty_word_is_not_the_current_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    make_store(tmp_path, {"v": np.ones((3, 2), np.float32)})
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == 1 and result.stdout == ""
    assert says in result.stderr and len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("query", "-k", 0), "Invalid value for -k: Input should be greater than or equal to 1"),
        (("query", "--recall", 2), "--recall"),
        (("query", "--layer", "a+b", "--weights", "a,b"), "--weights: 'a,b': expected numbers"),
        (("graph", "--out", "g", "--probes", 0), "--probes"),
        (("build", "--rows-per-shard", 5), "--rows-per-shard"),
        (("build", "--bits", 5), "--bits: Input should be 4 or 8"),
        (("build", "--metric", "far"), "--metric"),
        (("tune", "--recall", 1.5), "--recall"),
        (("query", "-k", 20, "--rerank", 5), "--rerank: rerank 5 is less than k 20"),
        (("bench", "--rerank", "5,50"), "--rerank: rerank 5 is less than k 10"),
        (("query", "--device", "gpu"), "--device: 'gpu': expected auto, cpu, cuda"),
        *((("dedup", "--out", "d", f"--threshold={value}"), "--threshold") for value in ("2", "-1", "0", "nan")),
        (("dedup", "--out", "d", "--false-pairs", 1), "--false-pairs"),
        (("tune", "--memory", "5XB"), "--memory: '5XB': expected a size"),
        (("tune", "--queries", 0), "--queries"),  # this one is Typer's own
    ],
)
def test_a_value_that_no_store_could_make_right_is_wrong_usage(
    run: Run, tmp_path: Path, words: tuple[object, ...], says: str
) -> None:
    store = make_store(tmp_path / "s", {"a": np.ones((3, 2), np.float32), "b": np.ones((3, 2), np.float32)})
    result = run(words[0], store.path, *(("--photo", store.photo_ids[0]) if words[0] == "query" else ()), *words[1:])
    assert result.exit_code == 2 and result.stdout == ""
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_collection_of_no_photos_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    assert run("synth", tmp_path / "s", "--photos", 0).exit_code == 2
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("words", [("query", "--photo", 1000, "--exact"), ("dedup", "--out", "d", "--exhaustive")])
def test_a_folder_of_pictures_that_is_not_there_is_noticed(run: Run, tmp_path: Path, words: tuple[object, ...]) -> None:
    store = make_store(tmp_path / "s", {"a": np.eye(3, dtype=np.float32)})
    result = run(words[0], store.path, *words[1:], "--images", tmp_path / "none")
    assert result.exit_code == 1 and result.stdout == ""
    assert f"--images {tmp_path / 'none'}: not a folder" in result.stderr


def test_every_verb_refuses_empty_words(run: Run) -> None:
    for verb in VERBS:
        result = run(verb, "")
        assert result.exit_code == 1 and "'': an empty word, expected a name or value" in result.stderr
    assert run("info", "--help").exit_code == 0


def test_a_sign_of_equality_belongs_to_its_value() -> None:
    refuse_empty_words(["x=", "--out", "=", "--a=b=", "-k", "3"], ["STORE"])
