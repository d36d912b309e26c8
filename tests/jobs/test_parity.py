"""`doctor --parity`: devices that agree, one whose kernels are wrong, ties, and what is not there."""

import json
import types
from typing import Any

import numpy as np
import pytest

from engine.jobs import parity
from engine.jobs.parity import CPU, Side, check_parity
from engine.jobs.parity_kernels import Pair, kernels_agree
from engine.store.synth import features
from kernels import load
from tests.cli.conftest import run_verb

pytest.importorskip("numba")
ROWS = 1_000


def changed(**functions: Any) -> Any:
    """The kernels of the CPU, some of them others."""
    return types.SimpleNamespace(**{**vars(load("cpu")), **functions})


def shifted(queries, candidates, codes, metric, keep):
    """Scores that are a thousandth too large."""
    rows, scores = load("cpu").rerank(queries, candidates, codes, metric, keep)
    return rows, scores * np.float32(1.001)


def swapped(candidates, steps, metric):
    """The best answer lost, and the second named in its place."""
    rows, scores = load("cpu").cascade(candidates, steps, metric)
    rows[:, 0] = rows[:, 1]
    return rows, scores


def deaf(blocks, threshold, metric, most=0):
    """A join that finds nothing."""
    return np.empty((0, 2), np.int64), np.empty(0, np.float32)


@pytest.fixture(scope="module")
def sample():
    return features(0, 60, seed=0)[0]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(parity, "KERNEL_ROWS", 60)
    monkeypatch.setattr(parity, "SEARCHED", ("fc8",))


def sides(kernels: Any) -> list[Side]:
    return [Side(name="reference", device=CPU, kernels=load("reference"), builds=False),
            Side(name="wrong", device=CPU, kernels=kernels)]  # fmt: skip


def differing(kernels: Any, sample: Any) -> set[str]:
    pair = Pair(ours=kernels, oracle=load("reference"))
    return {check.what for check in kernels_agree(pair, sample) if not check.agrees}


def test_kernels_that_agree_and_that_do_not(sample):
    assert differing(load("cpu"), sample) == set()
    wrong = changed(
        rerank=shifted, cascade=swapped, normalize=lambda rows: rows, join=deaf,
        non_finite=lambda rows: np.zeros(len(rows), bool),
    )  # fmt: skip
    found = differing(wrong, sample)
    assert {"cascade", "normalize", "non_finite", "join: pairs lost"} <= found
    assert sum(name.startswith("rerank") for name in found) == 24 and len(found) == 28


def test_the_whole_report_with_a_wrong_search(small):
    report = check_parity(sides(changed(cascade=swapped)), rows=ROWS)
    failed = {check.what for check in report.differing}
    assert not report.agrees and "fc8 index of wrong" in failed
    assert not any("exact search" in what for what in failed)  # which has no cascade
    wrong = next(check for check in report.checks if check.what == "fc8 index of wrong")
    assert wrong.differing > wrong.allowed * wrong.compared and wrong.against == "reference"


def test_doctor_says_it_and_ends_with_3_or_0(small, monkeypatch):
    monkeypatch.setattr(check_parity, "__kwdefaults__", {**(check_parity.__kwdefaults__ or {}), "rows": ROWS})
    result = run_verb("doctor", "--parity", "--json")
    document = json.loads(result.stdout)["parity"]
    assert result.exit_code == 0 and document["agrees"] and document["checks"]
    assert document["tolerance"]["score"] == parity.SCORE_TOLERANCE
    assert document["devices"][:2] == ["reference", "cpu"]
    monkeypatch.setattr(parity, "sides_here", lambda: (sides(changed(rerank=shifted)), "no GPU was there"))
    result = run_verb("doctor", "--parity")
    assert result.exit_code == 3
    assert "the devices differ" in result.stdout and "no GPU was there" in result.stdout
    assert "wrong differs from reference" in result.stderr and "tolerance" in result.stderr


def test_ties_are_fair():
    mine, theirs = np.array([[0.9, 0.8, 0.7]]), np.array([[0.9, 0.7, 0.7]])
    assert not parity._behind(mine, theirs).any()
    assert parity._behind(np.array([[0.9, 0.7, 0.6]]), theirs)[0, 2] == pytest.approx(0.1)
    assert parity._behind(np.array([[0.9, 0.7, -np.inf]]), theirs)[0, 2] == np.inf
