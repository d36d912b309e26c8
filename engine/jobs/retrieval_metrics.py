"""How good rankings are by graded relevance: one figure for each query, means, and how sure they are.

Everything is of the first R photos of a ranking (R: `depth`). With rel(i) = 1 where the photo at place i is relevant,
P(i) the share of relevant ones among the first i, and `relevant` all that are in the collection:

- `map_found`, mAP@R of the hashing literature: AP = Σ P(i) rel(i) / hits found, over i ≤ R; 0 where nothing is found
  (`CalcTopMap` of DeepHash-pytorch and its descendants). It does not see how many relevant photos were missed.
- `map`, mAP@R: AP = Σ P(i) rel(i) / min(R, relevant): 1 means that the first places hold nothing but relevant photos.
- `precision`: hits among the first k, by k. `recall`: the same by `relevant`.
- `ndcg`: Σ gain(i) / log2(i + 1) over i ≤ k, by that of the best order there is (K. Järvelin and J. Kekäläinen,
  "Cumulated gain-based evaluation of IR techniques", ACM TOIS 20, 2002; discount of C. Burges et al., ICML 2005). The
  gain is the grade (`linear`) or 2^grade − 1 (`exponential`).
- `r_precision`: hits among the first min(R, relevant) places, by their number.

Intervals are percentiles of the bootstrap over queries (B. Efron and R. Tibshirani, 1993, chapter 13): 95 of 100
resamples have their mean in it. Differences are paired: of the same queries in the same resamples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

Gain = Literal["linear", "exponential"]
METRICS = ("map", "map_found", "precision", "recall", "ndcg", "r_precision")
RESAMPLES_AT_ONCE = 1 << 20  # numbers of the resamples that are held in memory


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over queries, and between what it lies with the confidence asked for."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON-able."""
        return asdict(self)


def per_query(grades: F64, relevant: I64, ideal: F64, k: int, gain: Gain = "linear") -> dict[str, F64]:
    """All metrics, by their names in `METRICS`, of each query (q,).

    grades: (q, R) of the ranked photos, best first; 0 = not relevant, or no photo. relevant: (q,) in all, at least 1.
    ideal: (q, ≥ k) the greatest grades there are, best first, 0 after the last.
    """
    hits = grades > 0
    return {
        "map": average_precision(hits, np.minimum(relevant, grades.shape[1])),
        "map_found": average_precision(hits, hits.sum(axis=1)),
        "precision": hits[:, :k].sum(axis=1) / k,
        "recall": hits[:, :k].sum(axis=1) / np.maximum(relevant, 1),
        "ndcg": ndcg(grades, ideal, k, gain),
        "r_precision": r_precision(hits, relevant),
    }


def average_precision(hits: npt.NDArray[np.bool_], by: I64) -> F64:
    """Σ P(i) rel(i) over the places of hits (q, R), divided by `by` (q,); 0 where that is 0."""
    places = np.arange(1, hits.shape[1] + 1)
    total = (np.cumsum(hits, axis=1) / places * hits).sum(axis=1)
    return np.asarray(total / np.maximum(by, 1), np.float64)


def ndcg(grades: F64, ideal: F64, k: int, gain: Gain = "linear") -> F64:
    """nDCG@k (q,) of grades (q, R) beside the best ones (q, ≥ k); 0 where nothing is relevant."""
    best = _dcg(ideal, k, gain)
    return np.asarray(np.divide(_dcg(grades, k, gain), best, out=np.zeros(len(grades)), where=best > 0))


def _dcg(grades: F64, k: int, gain: Gain) -> F64:
    first = grades[:, :k]
    gains = first if gain == "linear" else np.exp2(first) - 1
    return np.asarray((gains / np.log2(np.arange(2, first.shape[1] + 2))).sum(axis=1), np.float64)


def r_precision(hits: npt.NDArray[np.bool_], relevant: I64) -> F64:
    """Hits (q, R) among the first min(R, relevant) places, by their number."""
    last = np.minimum(relevant, hits.shape[1])
    counted = hits & (np.arange(hits.shape[1]) < last[:, None])
    return np.asarray(counted.sum(axis=1) / np.maximum(last, 1), np.float64)


def _digits(value: float) -> float:
    """Ten digits after the point: what follows depends on the order in which a machine adds."""
    return round(float(value), 10) + 0.0


class Bootstrap:
    """Resamples of some queries, the same for everything that is measured of them.

    confidence: share of the resamples whose mean the intervals hold.
    """

    def __init__(self, queries: int, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95) -> None:
        self.queries, self.resamples, self.seed, self.confidence = queries, resamples, seed, confidence

    def intervals(self, values: Mapping[str, F64]) -> dict[str, Interval]:
        """The mean of each of several figures (queries,) and its interval."""
        names = list(values)
        if not names:
            return {}
        table = np.column_stack([values[name] for name in names])
        means = np.concatenate([weights @ table for weights in self._weights()])
        rest = (1 - self.confidence) / 2 * 100
        low, high = np.percentile(means, (rest, 100 - rest), axis=0)
        exact = table.mean(axis=0)
        return {
            name: Interval(mean=_digits(exact[i]), low=_digits(low[i]), high=_digits(high[i]))
            for i, name in enumerate(names)
        }

    def differences(self, values: Mapping[str, F64], others: Mapping[str, F64]) -> dict[str, Interval]:
        """The mean of values − others, query by query, for the figures that both have, and its interval."""
        return self.intervals({name: values[name] - others[name] for name in values if name in others})

    def _weights(self) -> Iterator[F64]:
        """How often each query is in a resample, by the number of queries: (some resamples, queries)."""
        random = np.random.default_rng(self.seed)
        together = max(RESAMPLES_AT_ONCE // self.queries, 1)
        even = np.full(self.queries, 1 / self.queries)
        for start in range(0, self.resamples, together):
            times = random.multinomial(self.queries, even, size=min(together, self.resamples - start))
            yield times / self.queries
