"""`bench` as it is typed: what is refused before anything is measured, and what is said of its queries."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from engine.index.build import build_index
from engine.index.spec import IndexSpec
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, clustered, make_store

Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = make_store(tmp_path / "store", {"x": clustered(60, 8)})
    build_index(store, IndexSpec(layer="x", refine="none"), device=CPU)
    return store.path


@pytest.mark.parametrize("there", [False, True])
def test_bench_of_a_store_that_cannot_be_written_to_names_out(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Before an hour is spent on measuring; root may write anywhere, so the system is made to say no."""
    if there:
        (store / "bench" / "x").mkdir(parents=True)
    make, may = Path.mkdir, os.access

    def read_only(path: Path, *args: Any, **named: Any) -> None:
        if store in path.parents and not path.is_dir():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *args, **named)

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(os, "access", lambda path, mode: store not in Path(path).parents and may(path, mode))
    result = run("bench", store, "--queries", 5, "--device", "cpu")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert f"{store / 'bench' / 'x'}: cannot be written (" in result.stderr
    assert result.stderr.rstrip().endswith("Give another folder with --out.")
    words = ("--queries", 5, "--repeats", 1, "--device", "cpu", "--out", tmp_path / "results")
    assert run("bench", store, *words).exit_code == 0
    assert (tmp_path / "results" / "bench.json").is_file()


def test_queries_that_came_for_another_metric_are_named_where_they_are_not_used(run: Run, tmp_path: Path) -> None:
    data, store = clustered(60, 8), tmp_path / "other"
    with StoreWriter(store, {"x": 8}) as writer:
        writer.write(writer.reserve(60), np.arange(60), {"x": data})
        writer.query_set("x", data[:5], np.arange(50).reshape(5, 10), None, "l2")
        writer.finish([])
    build_index(Store.open(store), IndexSpec(layer="x", refine="none"), device=CPU)
    words = ("bench", store, "--queries", 5, "--repeats", 1, "--device", "cpu", "--json")
    (warning,) = json.loads(run(*words).stdout)["warnings"]
    assert "The 5 imported queries of layer x are for l2, this index is for cosine: not used." in warning
    assert json.loads(run(*words, "--held-out").stdout)["warnings"] == []
    said = run("info", store).stdout
    assert warning in said
    assert "5 queries imported with layer x, 10 neighbours of each by l2" in said
