"""What a GPU host runs needs neither Numba nor SciPy, nor anything that draws, prints or stores tables."""

import subprocess
import sys

import pytest

HEAVY = ["PIL", "duckdb", "matplotlib", "numba", "pyarrow", "rich", "scipy"]
CUDA_PATH = [
    "engine",
    "engine.index.build",
    "engine.index.device",
    "engine.index.exact",
    "engine.index.search",
    "engine.store.ingest",
    "engine.store.store",
    "engine.store.verify",
    "kernels",
    "kernels.cuda",
    "kernels.reference",
]
PROGRAM = """
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
for module in {modules}:
    importlib.import_module(module)
assert not [name for name in {heavy} if name in sys.modules]
print("imported")
"""


def run(modules: list[str]) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(heavy=HEAVY, modules=modules)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize("module", CUDA_PATH)
def test_imports_without_heavy_packages(module):
    if module == "kernels.cuda":
        pytest.importorskip("cupy", reason="CuPy is not installed")
    done = run([module])
    assert done.stdout == "imported\n", done.stderr


def test_a_heavy_import_is_noticed():
    done = run(["kernels.cpu"])
    assert "No module named 'numba'" in done.stderr
