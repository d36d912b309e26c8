"""The script for GPU hosts, as far as it goes without a GPU: its checks pass, and fail, and it says what is missing."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu_check
from kernels import Codes, Device, reference
from tests.kernels.conftest import emulated_or_skip

ROOT = Path(gpu_check.__file__).parents[1]


def test_without_a_gpu_it_is_one_clear_line(tmp_path):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("gpu_check: --device cuda: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_it_refuses_to_check_the_cpu(tmp_path, capsys):
    assert gpu_check.main(["--out", str(tmp_path), "--device", "cpu"]) == 1
    assert "this checks a GPU" in capsys.readouterr().err


def test_emulated_cuda_agrees_and_a_wrong_kernel_does_not():
    emulated = emulated_or_skip()
    agrees = gpu_check.parity(emulated, reference, photos=60)
    assert [name for name, same in agrees.items() if not same] == [] and len(agrees) >= 33

    def rerank(queries, candidates, codes: Codes, metric, keep):
        rows, scores = emulated.rerank(queries, candidates, codes, metric, keep)
        return rows, scores * np.float32(1.001)

    wrong = types.SimpleNamespace(**{**vars(emulated), "rerank": rerank})
    assert not any(
        same for name, same in gpu_check.parity(wrong, reference, photos=60).items() if name.startswith("rerank")
    )


def test_the_index_part_on_the_cpu(tmp_path):
    pytest.importorskip("numba")
    found = gpu_check.index_check(tmp_path, Device(kind="cpu"), photos=1500, queries=50, dim=64, bits=4)
    assert max(setting["recall@10"] for setting in found["settings"]) > 0.9
    assert found["build_seconds"] > 0 and all(setting["queries_per_second"] > 0 for setting in found["settings"])
