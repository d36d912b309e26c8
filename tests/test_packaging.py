"""What is installed is what is here: package data, packages, public names; and nothing of one machine in the files."""

import fnmatch
import importlib
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]


def uncovered(root: Path, packages: list[str], patterns: dict[str, list[str]]) -> list[str]:
    """Files below engine/ and kernels/ that an installation would lack."""
    missing = []
    for top in ("engine", "kernels"):
        for path in sorted((root / top).rglob("*")):
            relative = path.relative_to(root / top).as_posix()
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            if path.suffix == ".py":
                covered = ".".join(path.relative_to(root).parent.parts) in packages
            else:  # as setuptools matches: a star does not cross folders
                covered = any(
                    fnmatch.fnmatch(relative, pattern) and relative.count("/") == pattern.count("/")
                    for pattern in patterns.get(top, [])
                )
            if not covered:
                missing.append(f"{top}/{relative}")
    return missing


def test_every_file_of_the_packages_is_installed():
    assert uncovered(ROOT, SETUPTOOLS["packages"], SETUPTOOLS["package-data"]) == []
    for package in SETUPTOOLS["packages"]:
        assert (ROOT / package.replace(".", "/") / "__init__.py").exists()
    for top, patterns in SETUPTOOLS["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / top).glob(pattern)), f"{top}: {pattern} matches nothing"


@pytest.mark.parametrize(
    "name", ["kernels/new/a.cu", "engine/jobs/page.svg", "engine/new/__init__.py", "engine/a.html"]
)
def test_a_file_that_would_be_left_out_is_seen(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).touch()
    (tmp_path / "kernels").mkdir(exist_ok=True)
    (tmp_path / "kernels" / "b.cu").touch()
    assert uncovered(tmp_path, SETUPTOOLS["packages"], SETUPTOOLS["package-data"]) == [name]


def test_both_packages_say_that_they_are_typed():
    assert (ROOT / "engine" / "py.typed").exists() and (ROOT / "kernels" / "py.typed").exists()


def test_every_public_name_is_there():
    assert engine.__all__ == sorted(engine.__all__)
    for name in engine.__all__:
        found = getattr(engine, name)
        assert found.__name__ == name
        assert found.__module__.startswith("engine.")
    assert dir(engine) == engine.__all__
    with pytest.raises(AttributeError, match="no attribute 'Stroe'"):
        _ = engine.Stroe
    namespace: dict[str, object] = {}
    exec("from engine import *", namespace)
    assert set(engine.__all__) <= set(namespace)


def test_the_command_leads_to_a_function():
    for target in PYPROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_builds_of_faiss_exclude_each_other():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for name in ("cpu", "cuda12", "cuda13"):
        assert sum(requirement.startswith("faiss") for requirement in extras[name]) == 1
    assert not any(
        "faiss" in requirement or "cupy" in requirement for requirement in PYPROJECT["project"]["dependencies"]
    )
    for name in set(extras) - {"cpu", "cuda12", "cuda13"}:
        assert not any("faiss" in requirement for requirement in extras[name])


# Paths of somebody's machine, and package registries other than by name. Written so that this file does not match.
MACHINE = re.compile(
    r"(?<![\w.<>{}*])/(?:home|Users|root|work|mnt|workspace|private|var/folders)/[\w.-]+"
    r"|[A-Z]:\\Users\\"
    r"|--(?:extra-)?index-url|(?:extra_)?index[-_]url\s*="
    r"|https?://[^\s/]*(?:pypi|pythonhosted|artifactory|nexus|devpi)[^\s/]*/"
    r"|https?://(?:localhost|10\.\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\."
)
PLANTED = ["/ho" + "me/ada/x", "see /wo" + "rk/main", "--index" + "-url x", "http" + "://10.1.2.3/simple",
           "https" + "://py" + "pi.example.org/simple", "C:" + "\\Users\\ada"]  # fmt: skip


@pytest.mark.parametrize("text", PLANTED)
def test_a_planted_path_is_seen(text):
    assert MACHINE.search(text)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_file_names_a_machine_or_a_registry():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert len(names) > 30
    found = []
    for name in names:
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{name}: {match[0]}" for match in MACHINE.finditer(text)]
    assert found == []
