"""Spreads and percentiles by hand; what a run measures is tested with the whole benchmark."""

import numpy as np

from engine.jobs.measure import Spread, latency, spread


def test_spread_and_percentiles_by_hand():
    assert spread([30.0, 10.0, 20.0, 100.0]) == Spread(median=25.0, min=10.0, max=100.0)
    hundred = np.arange(100, 0, -1.0)
    got = latency([hundred, hundred * 10, hundred * 2])
    assert (got.p50, got.p95, got.p99, got.queries) == (100.0, 190.0, 198.0, 100)
    one = latency([np.array([0.123456789])])
    assert (one.p50, one.p95, one.p99) == (0.12346, 0.12346, 0.12346)
