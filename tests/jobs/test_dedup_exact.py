"""Every pair above a cosine, of the rows that are asked for and no others."""

import numpy as np
import pytest

from engine.jobs import dedup_exact
from engine.jobs.dedup_exact import every_pair
from kernels import load
from kernels.contract import TooManyPairsError
from tests.kernels.conftest import emulated_or_skip


@pytest.mark.parametrize("where", ["reference", "cpu", "emulated"])
@pytest.mark.parametrize("chosen", [slice(None), slice(3, 40), slice(None, None, 3), slice(0, 1), slice(0, 0)])
def test_pairs_of_some_rows(where, chosen, monkeypatch):
    if where == "cpu":
        pytest.importorskip("numba")
    kernels = emulated_or_skip() if where == "emulated" else load(where)
    monkeypatch.setattr(dedup_exact, "BLOCK_ROWS", 16)
    monkeypatch.setattr(dedup_exact, "BLOCK_PAIRS", 7)
    random = np.random.default_rng(2)
    data = random.standard_normal((12, 24))[random.integers(0, 12, 60)] + 0.3 * random.standard_normal((60, 24))
    data = data.astype(np.float32)
    data[20] = 0
    rows = np.arange(60)[chosen]
    wide = data.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1), 1e-30)[:, None]
    true = unit @ unit.T
    wanted = [(a, b) for a in rows.tolist() for b in rows.tolist() if a < b and true[a, b] >= 0.85]
    pairs, scores = every_pair(data, rows, 0.85, kernels, most=10_000)
    assert pairs.tolist() == [list(pair) for pair in wanted] and (scores >= 0.85).all()
    np.testing.assert_allclose(scores, [true[pair] for pair in wanted], atol=1e-6)
    if len(wanted) > 2:
        with pytest.raises(TooManyPairsError):
            every_pair(data, rows, 0.85, kernels, most=1)
