"""What a GPU host runs needs neither Numba nor SciPy, nor anything that draws, prints or stores tables."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.light_host import LACKING as HEAVY

CUDA_PATH = [
    "benchmarks.gpu",
    "benchmarks.gpu_check",
    "benchmarks.gpu_peers",
    "engine",
    "engine.cli.app",
    "engine.index.build",
    "engine.index.device",
    "engine.index.exact",
    "engine.index.search",
    "engine.index.stream",
    "engine.jobs.parity",
    "engine.store.ingest",
    "engine.store.stages",
    "engine.store.store",
    "engine.store.synth",
    "engine.store.verify",
    "kernels",
    "kernels.cuda",
    "kernels.reference",
]
FOLDERS = ["tests/index", "tests/kernels"]  # of the tests that need a GPU
WITHOUT = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
IMPORT = """
for module in {modules}:
    importlib.import_module(module)
assert not [name for name in {heavy} if name in sys.modules]
print("imported")
"""
COLLECT = """
import pytest
sys.exit(pytest.main(["-m", "gpu", "--collect-only", "-p", "no:cacheprovider", *{folders}]))
"""


def run(modules: list[str]) -> subprocess.CompletedProcess[str]:
    return python((WITHOUT + IMPORT).format(heavy=HEAVY, modules=modules))


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("module", CUDA_PATH)
def test_imports_without_heavy_packages(module):
    if module == "kernels.cuda":
        pytest.importorskip("cupy", reason="CuPy is not installed")
    done = run([module])
    assert done.stdout == "imported\n", done.stderr


def test_a_heavy_import_is_noticed():
    done = run(["kernels.cpu"])
    assert "No module named 'numba'" in done.stderr


def test_tests_for_a_gpu_are_found_where_little_is_installed():
    done = python((WITHOUT + COLLECT).format(heavy=HEAVY, folders=FOLDERS))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "test_stream.py" in done.stdout and "test_contract.py" in done.stdout


def test_all_tests_for_a_gpu_lie_there():
    marks = "ON_GPU", "mark.gpu"
    files = [path for path in (ROOT / "tests").rglob("*.py") if any(mark in path.read_text() for mark in marks)]
    here = {path.relative_to(ROOT).as_posix() for path in files if path != Path(__file__)}
    assert here and all(name.startswith((*FOLDERS, "tests/conftest.py")) for name in here)
