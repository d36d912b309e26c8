"""A GPU host that lacks what the CPU's ways need: the command and the benchmark work there, in their form for CUDA."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.kernels import emulated
from tests.light_host import LACKING


def there(*words: object) -> subprocess.CompletedProcess[str]:
    """The output of `python -m tests.light_host`."""
    command = [sys.executable, "-m", "tests.light_host", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("what", "done"),
    [
        ("verbs", ["synth", "ingest", "build", "query", "query", "info", "verify", "doctor"]),
        ("benchmark", ["parity", "decode", "build", "exact", "search", "latency", "join", "peers"]),
    ],
)
def test_it_works_with_what_a_gpu_host_has(tmp_path, what, done):
    if emulated.NEEDS:
        pytest.skip(emulated.NEEDS)
    ran = there(what, tmp_path)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stderr.splitlines()[-1]) == done


def test_what_is_lacking_is_all_that_the_project_needs_but_for_a_few():
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {word.split(">")[0].split(";")[0].strip().split(".")[0] for word in wanted}
    names = {"PIL" if name == "pillow" else name for name in names}
    assert names - set(LACKING) == {"numpy", "pydantic", "typer", "xxhash"}
