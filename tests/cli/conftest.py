from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from engine.cli.app import app

Run = Callable[..., Any]


def run_verb(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def run() -> Callable[..., Result]:
    return run_verb


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of 1,200 photos with pictures, its store and its indices, made by the command line itself."""
    folder = tmp_path_factory.mktemp("collection")
    steps = [
        ("synth", folder / "sample", "--photos", 1200, "--seed", 5, "--images"),
        ("ingest", folder / "sample" / "features", "--store", folder / "store", "--device", "cpu"),
        ("build", folder / "store", "--device", "cpu"),
    ]
    for step in steps:
        result = run_verb(*step)
        assert result.exit_code == 0, result.output
    return folder
