"""Numba where nothing can be kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels import compiled_cache

# A file where a folder should be cannot be written to, not even by root.
PROGRAM = """
import sys, tempfile
from pathlib import Path
from kernels import compiled_cache
compiled_cache.settle(Path(sys.argv[1]))
import numba, numpy as np, os
exec(compile(open(sys.argv[2]).read(), sys.argv[2], "exec"))
print(os.environ["NUMBA_CACHE_DIR"], add(2, 3), os.listdir(os.environ["NUMBA_CACHE_DIR"]) != [])
"""
CODE = "@numba.njit(cache=True)\ndef add(a, b):\n    return a + b\n"


def test_compiles_where_neither_installation_nor_home_can_be_written(tmp_path: Path) -> None:
    wall = tmp_path / "wall"
    wall.touch()
    (tmp_path / "code.py").write_text(CODE)
    env = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    env |= {"HOME": str(wall), "NUMBA_DISABLE_JIT": "0"}
    command = [sys.executable, "-c", PROGRAM, str(wall), str(tmp_path / "code.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder, five, kept = done.stdout.split()
    assert (five, kept) == ("5", "True")
    assert not Path(folder).exists()  # gone with the process


def test_a_place_of_its_own_is_left_to_numba(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "numba"})
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    compiled_cache.settle(tmp_path)
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "wall").touch()
    compiled_cache.settle(tmp_path / "wall")
    assert "NUMBA_CACHE_DIR" not in os.environ and (tmp_path / ".cache" / "numba").is_dir()
