"""The house of the design, held by reading every import: floors, the two doors, heavy libraries, names, printing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A file imports only from lower floors or its own folder. engine's root files are the ground floor of the house;
# engine/__init__.py is its front door and may name everything.
FLOORS = {
    "kernels": 0, "engine": 1, "engine.store": 2, "engine.index": 3, "engine.serve": 4, "engine.cluster": 4,
    "engine.jobs": 5, "engine.cli": 6, "benchmarks": 7,
}  # fmt: skip
# Libraries that a GPU host may lack or that are slow to import: the only files that may import them at module level,
# which in turn are imported by name when they are needed.
HEAVY = {
    "numba": {
        "kernels/cpu.py", "kernels/cpu_compare.py", "kernels/cpu_rerank.py", "kernels/cpu_scores.py",
        "kernels/paging.py", "kernels/prefetch.py", "engine/store/loops.py",
        "engine/store/archives/walk.py", "engine/store/archives/bits.py", "engine/store/archives/bzip2.py",
    },
    "PIL": {"engine/store/synth_pictures.py"},
    "scipy": set(), "matplotlib": set(), "pyarrow": set(), "cupy_backends": set(), "duckdb": set(), "orjson": set(),
    "cupy": {
        "kernels/cuda.py", "kernels/cuda_arrays.py", "kernels/cuda_exact.py", "kernels/cuda_lanes.py",
        "kernels/cuda_products.py", "kernels/cuda_rerank.py",
    },
    "fastapi": set(), "ray": set(),
}  # fmt: skip
FAISS_HOME = "engine/index/ivfpq.py"
FORBIDDEN_NAMES = {"util", "utils", "helper", "helpers", "common", "core", "manager", "misc"}
MAY_PRINT = ("engine/cli/", "benchmarks/")


def sources(root: Path) -> list[Path]:
    return [file for top in ("engine", "kernels", "benchmarks") for file in sorted((root / top).rglob("*.py"))]


def imports(tree: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported with the module) of every import, also by importlib and __import__."""
    late = {node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef
            | ast.Lambda) for node in ast.walk(function)}  # fmt: skip
    typing_only = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in branch.body
        for node in ast.walk(inner)
    }
    for node in ast.walk(tree):
        now = node not in late and node not in typing_only
        if isinstance(node, ast.Import):
            yield from ((alias.name, now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module or ""]))
            # `from engine.store import dat` imports engine.store.dat as much as engine.store.
            yield from ((f"{module}.{alias.name}", now) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module", "import_module", "__import__",
        ) and node.args:  # fmt: skip
            yield from ((name, now) for name in constant_start(node.args[0]))


def constant_start(argument: ast.expr) -> list[str]:
    """The module a dynamic import names: a constant, or the constant beginning of an f-string."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    return [argument.value] if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else []


def floor_of(module: str) -> str | None:
    """The folder of ours that a dotted name lies in."""
    folders = [folder for folder in FLOORS if f"{module}.".startswith(f"{folder}.")]
    return max(folders, key=len) if folders else None


def violations(root: Path) -> list[str]:
    """Every breach of the table below `root`, as 'file: what'."""
    found = []
    for file in sources(root):
        name = file.relative_to(root).as_posix()
        package = ".".join(file.relative_to(root).parent.parts)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        parent = floor_of(package)
        if package not in FLOORS and parent and parent != "engine":
            package = parent  # a folder within a folder is a part of it
        if package not in FLOORS:
            found.append(f"{name}: folder {package} is on no floor of the table")
            continue
        if file.stem in FORBIDDEN_NAMES or file.parent.name in FORBIDDEN_NAMES:
            found.append(f"{name}: a name that says nothing")
        for module, now in imports(tree, package):
            found += [f"{name}: {breach}" for breach in breaches(name, package, module, now=now)]
        if not name.startswith(MAY_PRINT):
            found += [f"{name}: prints" for node in ast.walk(tree)
                      if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                          "print", "sys.stdout.write", "sys.stderr.write")]  # fmt: skip
    return found


def breaches(name: str, package: str, module: str, *, now: bool) -> Iterator[str]:
    top = module.split(".")[0]
    if top == "tests":
        yield "imports the tests"
    if top == "faiss" and name != FAISS_HOME:
        yield "imports faiss"
    if now and top in HEAVY and name not in HEAVY[top]:
        yield f"imports {top} with the module"
    if now and name not in {home for homes in HEAVY.values() for home in homes}:
        homes = {home.removesuffix(".py").replace("/", ".") for homes in HEAVY.values() for home in homes}
        yield from (f"imports {home} with the module" for home in homes if f"{module}.".startswith(f"{home}."))
    target = floor_of(module)
    if target is None or target == package or name == "engine/__init__.py":
        return
    if target == "engine" and package != "benchmarks" and module.split(".")[1][:1].isupper():
        yield f"imports {module} through the front door"
    if FLOORS[target] >= FLOORS[package]:
        yield f"imports {module}, which is not below {package}"


def test_every_import_goes_down():
    assert violations(ROOT) == []


def test_the_house_is_read_at_all():
    names = {file.relative_to(ROOT).as_posix() for file in sources(ROOT)}
    assert {"engine/errors.py", "engine/store/dat.py", "engine/index/ivfpq.py", "kernels/cpu.py"} <= names
    for file in sources(ROOT):
        text = file.read_text(encoding="utf-8")
        if file.relative_to(ROOT).as_posix() == FAISS_HOME:
            assert ("faiss", False) in set(imports(ast.parse(text), "engine.index"))


PLANTED = {
    "sideways": ("engine/serve/api.py", "from engine.cluster.nodes import Node", "not below"),
    "up": ("engine/store/bad.py", "from engine.index.search import Index", "not below"),
    "up, as a module": ("engine/store/bad.py", "import engine.index.search", "not below"),
    "up, relative": ("engine/store/bad.py", "from ..index import search", "not below"),
    "up, in a function": ("engine/store/bad.py", "def f():\n    from engine.jobs import bench", "not below"),
    "up, for types": ("engine/store/bad.py", "if TYPE_CHECKING:\n    from engine.cli import app", "not below"),
    "up, by name": ("engine/store/bad.py", "importlib.import_module('engine.index.build')", "not below"),
    "kernels know no engine": ("kernels/bad.py", "from engine.errors import EngineError", "not below"),
    "errors at the bottom": ("engine/errors.py", "from engine.store import dat", "not below"),
    "front door": ("engine/jobs/bad.py", "from engine import Store", "front door"),
    "benchmarks": ("engine/jobs/bad.py", "import benchmarks.reduction", "not below"),
    "tests": ("engine/jobs/bad.py", "from tests.builders import make_store", "tests"),
    "faiss": ("engine/index/search.py", "import faiss", "faiss"),
    "faiss in a function": ("engine/jobs/bench.py", "def f():\n    import faiss", "faiss"),
    "faiss in a part": ("kernels/bad.py", "from faiss.contrib import evaluation", "faiss"),
    "faiss by name": ("engine/index/search.py", "from importlib import import_module\nimport_module('faiss')", "faiss"),
    "faiss by dunder": ("engine/cli/doctor.py", "__import__('faiss')", "faiss"),
    "numba": ("kernels/dense.py", "import numba", "numba"),
    "numba's home": ("engine/store/reader.py", "from engine.store.loops import sort_out", "loops"),
    "scipy": ("kernels/cpu.py", "from scipy.linalg import eigh", "scipy"),
    "pictures": ("engine/jobs/report.py", "from PIL import Image", "PIL"),
    "parquet in a class": ("engine/jobs/report.py", "class A:\n    import pyarrow.parquet", "pyarrow"),
    "print": ("engine/jobs/report.py", "print('done')", "prints"),
    "stdout": ("kernels/bad.py", "import sys\nsys.stdout.write('done')", "prints"),
    "name": ("engine/store/utils.py", "", "says nothing"),
    "folder": ("engine/helpers/__init__.py", "", "no floor"),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_breach_is_caught(tmp_path, case):
    name, text, expected = PLANTED[case]
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    found = violations(tmp_path)
    assert len(found) >= 1
    assert all(breach.startswith(f"{name}: ") for breach in found)
    assert any(expected in breach for breach in found)


def test_what_is_allowed_passes(tmp_path):
    for name, text in {
        "engine/jobs/a.py": "from engine.index.search import Index\nfrom engine.jobs import b\nimport kernels",
        "engine/store/loops.py": "import numba\nfrom kernels.cpu import row_not_finite",
        "engine/store/reader.py": "import importlib\n\ndef f():\n    importlib.import_module('engine.store.loops')",
        "engine/store/archives/tar.py": "from engine.store import dat",
        "engine/store/sources.py": "from engine.store.archives import tar",
        "kernels/cpu.py": "import numba\n\ndef f():\n    from scipy.linalg import eigh",
        "engine/cli/app.py": "from engine.jobs import a\nprint('hello')",
        "benchmarks/a.py": "from engine.jobs import a\nfrom engine import Store",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []


def test_the_floors_import_nothing_heavy():
    """In a real process: what a GPU host may lack is not imported by anything below the command line."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in sources(ROOT)
        if file.parts[len(ROOT.parts)] != "benchmarks"
        and not file.relative_to(ROOT).as_posix().startswith("engine/cli/")
        and file.relative_to(ROOT).as_posix() not in {home for homes in HEAVY.values() for home in homes}
    ]
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module.removesuffix(".__init__"))
print(sorted(set({[*HEAVY, "faiss"]!r}) & set(sys.modules)))
"""
    run = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=False)
    run([sys.executable, "-c", code])  # in a fresh checkout the machine code is made first, which takes Numba
    done = run([sys.executable, "-c", code])
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
