"""What a verb does not need it does not import: a short job is over before the heavy libraries would be there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.app import VERBS
from tests.builders import write_photo

PROGRAM = """
import json, sys
from engine.cli.main import main
try:
    main()
finally:
    sys.stderr.write("\\n" + json.dumps(sorted(sys.modules)))
"""
HEAVY = {"PIL", "duckdb", "faiss", "h5py", "matplotlib", "pyarrow", "rich.progress"}
ARITHMETIC = {"cupy", "numba", "numpy", "scipy"}


def imported(*words: object) -> set[str]:
    """The modules that a run of the command has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_ingest_imports_nothing_that_only_others_need(tmp_path: Path) -> None:
    write_photo(tmp_path / "photos", 7)
    modules = imported("ingest", tmp_path / "photos", "--store", tmp_path / "store", "--device", "cpu")
    assert (tmp_path / "store" / "manifest.json").exists()
    assert {"engine.store.ingest", "engine.cli.collection"} <= modules
    others = {f"engine.cli.{home.split(':')[0]}" for home in VERBS.values()} - {"engine.cli.collection"}
    assert modules & (HEAVY | {"cupy", "engine.index.build", "engine.index.search"} | others) == set()


@pytest.mark.parametrize("words", [["--version"], ["doctor", "--help"], ["query", "--help"], ["dedup", "--help"]])
def test_what_computes_nothing_imports_no_arrays(words: list[str]) -> None:
    assert imported(*words) & (HEAVY | ARITHMETIC) == set()


def test_the_modules_are_seen_at_all() -> None:
    assert {"typer", "json", "engine.cli.app"} <= imported("--version")
