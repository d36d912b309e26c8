"""Normalised scores against their definition, by brute force."""

from pathlib import Path

import numpy as np
import pytest

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs.dedup import NORMALISED_BELOW, DedupSpec, find_duplicates
from engine.jobs.dedup_nearest import SAMPLE
from tests.builders import CPU, clustered, make_store

ROWS = 900


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    rows = clustered(ROWS, 24, seed=8).astype(np.float32)
    rows[800:] = rows[:100] + np.random.default_rng(0).standard_normal((100, 24)) * 0.1
    rows[300:320] = rows[300]  # copies of one photo are one neighbour of others, and none of each other
    store = make_store(tmp_path / "store", {"x": rows}, np.arange(ROWS))
    index = Index.open(build_index(store, IndexSpec(layer="x"), device=CPU).path, device=CPU)
    found = find_duplicates(index, DedupSpec(threshold=0.95, normalise=True))
    distinct = np.array([i for i in range(ROWS) if not 300 < i < 320])
    unit = rows[distinct].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1)[:, None]
    scores = unit @ unit.T
    tenth = -np.sort(-(scores - 3 * np.eye(len(unit))), axis=1)[:, 9]
    assert len(distinct) < SAMPLE  # so that the mean is of all
    normal = scores - (tenth[:, None] + tenth) / 2 + tenth.mean()
    wanted = (normal >= 0.95) & (scores >= 0.95 - NORMALISED_BELOW)
    a, b = np.nonzero(np.triu(wanted, 1))
    lowest = dict(found.copies.tolist())
    pairs = {
        (x, y): score
        for (x, y), score in zip(found.pairs.tolist(), found.scores.tolist(), strict=True)
        if x not in lowest and y not in lowest
    }
    assert len(a) > 50 and pairs.keys() == {(distinct[i], distinct[j]) for i, j in zip(a, b, strict=True)}
    place = {photo: at for at, photo in enumerate(distinct.tolist())}
    assert all(score == pytest.approx(normal[place[x], place[y]], abs=1e-5) for (x, y), score in pairs.items())
    assert found.normalised and found.threshold_choice is not None
    assert found.threshold_choice.typical == pytest.approx(tenth.mean(), abs=1e-6)
    exact = {tuple(pair): score for pair, score in zip(found.pairs.tolist(), found.scores.tolist(), strict=True)}
    assert exact[300, 301] == 1
