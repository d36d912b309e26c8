"""A threshold from the data: the scores of photos with their nearest neighbours, and what they say of unrelated photos.

Unrelated photos. About a photo, the unrelated ones within a distance r, r² = 2 − 2 score, are expected to be
Λ(r) = k (r / r_k)^m, where r_k is the distance of the k-th neighbour and m the local dimension, estimated from the
distances r_j by 1/m = mean log(r_k / r_j): E. Levina and P. Bickel, "Maximum likelihood estimation of intrinsic
dimension", NIPS 17, 2004, equations 6 to 8. Here k = 16, and the nearest four, which may be copies, are taken as
censored (they lie within the fifth): 1/m = (Σ_{j=5..15} log(r_k / r_j) + 4 log(r_k / r_5)) / 11. Its mean over
many photos holds for all (so do D. MacKay and Z. Ghahramani, "Comments on 'Maximum likelihood estimation of intrinsic
dimension'", 2005), and rather expects too many. The floor is the least score at which the mean of Λ, halved since a
pair is seen from both sides, is the false-pair rate: unrelated pairs for each photo of the store.

Copies and what is merely alike. Above the floor lie bursts, which no statistic of unrelated photos knows. Where the
best scores of all photos leave a valley between the floor and the layer's own default, the threshold is its middle;
where they do not, it is that default; and never below the floor.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jobs.dedup_nearest import NEIGHBORS, TENTH, NearestScores
from engine.jobs.dedup_photos import Photos

# Between the near duplicates and the bursts of the sample collection: benchmarks/results/sample_statistics.md. Scores
# of unlike photos lie closer together in fc8 (to 0.966 by chance, bursts to 0.971), so its threshold is higher.
THRESHOLDS = {"fc7": 0.95, "fc8": 0.975}
OTHER_LAYERS = 0.95
# Of the floor, where no other rate is asked for. At it, 20,000 photos of the sample collection have a 30th of that.
FALSE_PAIRS = 0.01
CENSORED = 4  # of the nearest neighbours
FEWEST = 200  # photos of a sample below which nothing is said about the others
DEEPEST = 0.05  # below the default, no valley is looked for
HIGHEST = 0.9999
VALLEYS = (0.016, 0.008, 0.004)  # widths
STEEP, ENOUGH = 8, 16  # a valley has at most an eighth of what lies on either side, and there at least so many photos
BINS = 80


@dataclass(frozen=True, kw_only=True)
class ThresholdChoice:
    """How a threshold came about.

    how: given, false-pairs (the rate that was asked for), valley, default, or floor (the data lie above the default).
    floor: least score at which unrelated pairs are as rare as `false_pairs` for each photo; None where the sample is
    too small to say. expected: what that rate is at the threshold. knee: the valley's middle. sampled: photos. edges
    (b + 1,), counts (b,): the histogram of the sample's nearest scores. typical: mean score of the tenth neighbour.
    """

    threshold: float
    how: str
    reason: str
    default: float
    false_pairs: float
    floor: float | None = None
    expected: float | None = None
    knee: float | None = None
    sampled: int = 0
    typical: float | None = None
    edges: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def copies(self) -> float:
        """The score from which photos are as alike as copies: the threshold, unless somebody asked for less."""
        return max(self.threshold, self.default) if self.how in ("given", "false-pairs") else self.threshold

    def document(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return dict(self.__dict__)


def default_threshold(photos: Photos) -> float:
    """What holds for these layers where nothing else is known: the weighted mean of their defaults."""
    each = (THRESHOLDS.get(layer, OTHER_LAYERS) for layer in photos.layers)
    return float(sum(weight * one for weight, one in zip(photos.weights, each, strict=True)))


def expected_pairs(scores: npt.NDArray[np.float64], threshold: float) -> float:
    """Unrelated pairs for each photo that reach a threshold; scores: (s, 16), all finite. See this file's head."""
    apart = np.sqrt(np.maximum(2 - 2 * scores, 1e-12))
    last = apart[:, -1]
    logs = np.log(last[:, None] / apart[:, CENSORED:-1])
    total = float((logs.sum(axis=1) + CENSORED * logs[:, 0]).mean())
    dimension = logs.shape[1] / max(total, 1e-9)
    within = np.sqrt(max(2 - 2 * threshold, 0.0)) / np.maximum(last, 1e-9)
    with np.errstate(over="ignore"):
        return float(np.minimum(NEIGHBORS * within**dimension, 1e9).mean() / 2)


def false_pair_floor(scores: npt.NDArray[np.float64], rate: float) -> float:
    """The least threshold at which unrelated pairs are no more than `rate` for each photo, by halving; ≤ 0.9999."""
    low, high = 0.0, HIGHEST
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if expected_pairs(scores, middle) <= rate else (middle, high)
    return high


def usable(scores: npt.NDArray[np.float64], default: float) -> npt.NDArray[np.float64]:
    """The lines of a sample (s, 16) that show unrelated photos: at most four of their neighbours are near copies."""
    return scores[np.isfinite(scores).all(axis=1) & (scores[:, CENSORED] < default)]


def valley(best: npt.NDArray[np.float64], low: float, high: float) -> float | None:
    """The middle of the emptiest stretch between two scores that has far more photos on either side; None without one.

    best: (p,) the best score of each photo that has one of at least `low`.
    """
    ordered, found = np.sort(best), []
    for width in VALLEYS:
        starts = np.arange(low + width, high - width / 2, width / 4)
        if not len(starts):
            continue
        left, inside, right = (
            np.searchsorted(ordered, starts + (step + 1) * width) - np.searchsorted(ordered, starts + step * width)
            for step in (-1, 0, 1)
        )
        beside = np.minimum(left, right)
        deep = (beside >= ENOUGH) & (inside * STEEP <= beside)
        found += [
            (inside[i] / beside[i], -width, -int(beside[i]), float(starts[i] + width / 2)) for i in np.flatnonzero(deep)
        ]
    return min(found)[-1] if found else None


def histogram(scores: npt.NDArray[np.float64]) -> tuple[list[float], list[int]]:
    """Edges and counts of the nearest scores (s, 16) of a sample, from its lowest up to 1."""
    first = scores[:, 0][np.isfinite(scores[:, 0])] if scores.size else np.empty(0)
    low = float(np.floor(first.min() * 20) / 20) if len(first) else 0.0
    counts, edges = np.histogram(np.clip(first, low, 1), bins=BINS, range=(min(low, 0.95), 1.0))
    return edges.tolist(), counts.tolist()


def choose(nearest: NearestScores, default: float, *, given: float | None, rate: float | None) -> ThresholdChoice:
    """The choice before any pair is known: a threshold that was given, one of a rate, or where pairs are first wanted.

    Its `threshold` is then refined by `refine`, of all pairs that reach it.
    """
    edges, counts = histogram(nearest.scores)
    # Who asks for a rate says that what is near is not what counts as a copy.
    shown = usable(nearest.scores, default if rate is None else np.inf)
    tenth = nearest.scores[:, TENTH][np.isfinite(nearest.scores[:, TENTH])]
    facts: dict[str, Any] = {
        "default": default, "false_pairs": FALSE_PAIRS if rate is None else rate, "sampled": len(nearest.scores),
        "typical": float(tenth.mean()) if len(tenth) else None, "edges": edges, "counts": counts,
    }  # fmt: skip
    if given is not None:
        expected = expected_pairs(shown, given) if len(shown) >= FEWEST else None
        return ThresholdChoice(threshold=given, how="given", reason="as given", expected=expected, **facts)
    if len(shown) < FEWEST:
        reason = f"{len(shown):,} of the sampled photos show unrelated neighbours, too few to learn from: the default"
        return ThresholdChoice(threshold=default, how="default", reason=reason, **facts)
    floor = false_pair_floor(shown, facts["false_pairs"])
    facts |= {"floor": floor}
    if rate is not None:
        reason = f"unrelated pairs are expected to be at most {rate:g} for each photo"
        return ThresholdChoice(
            threshold=floor, how="false-pairs", reason=reason, expected=expected_pairs(shown, floor), **facts
        )
    if floor >= default:
        reason = f"below it unrelated pairs are expected to be more than {FALSE_PAIRS:g} for each photo"
        return ThresholdChoice(
            threshold=floor, how="floor", reason=reason, expected=expected_pairs(shown, floor), **facts
        )
    return ThresholdChoice(threshold=max(floor, default - DEEPEST), how="valley", reason="", **facts)


def refine(choice: ThresholdChoice, nearest: NearestScores, best: npt.NDArray[np.float64]) -> ThresholdChoice:
    """The choice when all pairs from its threshold on are known; best: (p,) the best score of each of their photos."""
    if choice.how != "valley":
        return choice
    knee = valley(best, choice.threshold, choice.default)
    threshold = choice.default if knee is None else knee
    shown = usable(nearest.scores, choice.default)
    return replace(
        choice, threshold=threshold, knee=knee, how="default" if knee is None else "valley",
        reason=(
            f"no valley among the best scores between {choice.threshold:.4f} and {choice.default:g}: the default"
            if knee is None
            else "the middle of the valley between photos that are merely alike and copies"
        ),
        expected=expected_pairs(shown, threshold),
    )  # fmt: skip
