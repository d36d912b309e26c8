"""`bench` as it is typed: what is refused before anything is measured."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from engine.index.build import build_index
from engine.index.spec import IndexSpec
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
