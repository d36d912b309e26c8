"""Walking the settings of an index from the cheapest to those that find everything, and measuring the good ones.

The walk begins with few lists and few candidates. It doubles one of the two, that which wins more recall for the time
it costs, until all is found, or until exact search is faster by far. Around the points where a wanted recall is
reached it tries the settings half a step lower. What no other beats, or nearly, is then timed in rounds that go round
all points in turn, so a slow spell of the machine falls on all of them.
"""

import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.index.exact import exact_search
from engine.index.ivfpq import most_candidates, most_probes
from engine.index.search import Index
from engine.index.spec import SearchSpec
from engine.index.tuned import TUNED_K, TunedPoint
from engine.jobs.measure import EXACT_QUERIES, Run, Setting
from engine.jobs.truth import Truth, shares_of_answers
from engine.progress import Progress

LEVELS = (0.9, 0.95, 0.98, 0.99, 0.995)  # recalls that are refined, whatever is asked for
SLACK = 1.15  # a setting is timed if none of at least its recall took less than its time by so much
STEPS = 40  # of the walk
DEARER = 4  # than exact search in batch: not looked at, but up to that single queries may still be quicker
CHEAP = 1.0  # seconds of all queries in one call: no setting is too dear below that, whatever exact search takes
ONE_SIDED = 1.645  # standard errors: the true mean lies lower one time in twenty
SINGLES = 100

Place = tuple[int, int]


def least_recall(shares: npt.NDArray[np.float64], k: int) -> float:
    """The mean of shares (q,) less its sampling error: below it the true recall lies one time in twenty.

    The normal approximation over queries, whose misses are not independent of each other; where nothing was missed,
    the rule of three over all q · k neighbours.
    """
    q = len(shares)
    error = ONE_SIDED * float(shares.std(ddof=1)) / math.sqrt(q) if q > 1 else 1.0
    return max(float(shares.mean()) - max(error, 3 / (q * k)), 0.0)


@dataclass
class Trial:
    """A setting that was looked at: recall, its lower bound, and the seconds of all queries in one call."""

    place: Place
    recall: float
    least: float
    seconds: float
    run: Run
    rounds: int = 0

    def point(self) -> TunedPoint:
        """What is kept of it, not yet compared with the others."""
        measured = self.run.point() if self.rounds else None
        latency = measured.latency_ms if measured else None
        return TunedPoint(
            probes=self.place[0], rerank=self.place[1], recall=round(self.recall, 6), least=round(self.least, 6),
            qps=measured.qps.median if measured else float(f"{self.run.batch / self.seconds:.5g}"),
            p50_ms=latency.p50 if latency else None, p99_ms=latency.p99 if latency else None,
        )  # fmt: skip


@dataclass
class Walk:
    """The trials of one index with one set of queries."""

    index: Index
    truth: Truth
    progress: Progress
    trials: dict[Place, Trial] = field(default_factory=dict)

    @property
    def ladders(self) -> tuple[list[int], list[int]]:
        """Numbers of lists and of candidates, doubling, up to all that there are or that the device takes."""
        lists, photos, device = self.index.manifest.spec.lists or 1, self.index.photos, self.index.device
        probes = most_probes(device, lists)
        least = min(2 * TUNED_K, photos)
        return _doubling(max(lists // 256, 1), probes), _doubling(least, max(most_candidates(device, photos), least))

    def look(self, place: Place) -> Trial:
        """The trial of a setting; one search for its recall, which also warms up, and a second by the clock."""
        if place in self.trials:
            return self.trials[place]
        truth, index = self.truth, self.index
        spec = SearchSpec(k=TUNED_K, probes=place[0], rerank=place[1])
        found = index.search(truth.queries, spec, exclude=truth.query_ids)
        shares = shares_of_answers(index.store, truth, found.photo_ids, TUNED_K, device=index.device)
        setting = Setting(kind="index", probes=place[0], rerank=place[1])
        run = Run(index, truth, setting, k=TUNED_K, singles=SINGLES)
        seconds = self._seconds(place)
        trial = Trial(place, float(shares.mean()), least_recall(shares, TUNED_K), seconds, run)
        self.trials[place] = trial
        self.progress("look", len(self.trials), 0, unit="settings", detail=run.name)
        return trial

    def up(self, goal: float | None = None) -> None:
        """From the cheapest setting to one that finds all; see the module's text. goal: a recall to be reached.

        Short of the goal the walk goes on to DEARER times what else would be too dear.
        """
        probes, rerank = self.ladders
        limit = max(DEARER * self._exact_seconds(), CHEAP)
        i = j = 0
        here = self.look((probes[0], rerank[0]))
        for _ in range(STEPS):
            steps = [(a, b) for a, b in ((i + 1, j), (i, j + 1)) if a < len(probes) and b < len(rerank)]
            if here.recall >= 1 or not steps or self._too_dear(here, limit, goal):
                return
            looked = [(self.look((probes[a], rerank[b])), (a, b)) for a, b in steps]
            gains = [(_slope(here, trial), at) for trial, at in looked]
            best, at = max(gains)
            if best <= 0 and i + 1 < len(probes) and j + 1 < len(rerank):
                at = i + 1, j + 1  # neither helps alone
            i, j = at
            here = self.look((probes[i], rerank[j]))

    def _too_dear(self, trial: Trial, limit: float, goal: float | None) -> bool:
        """Whether the walk ends here; timed again first, since the machine may have been busy with something else."""
        most = limit * (DEARER if goal is not None and trial.least < goal else 1)
        if trial.seconds >= most:
            trial.seconds = min(trial.seconds, self._seconds(trial.place))
        return trial.seconds >= most

    def _seconds(self, place: Place) -> float:
        """Of all queries in one call with a setting."""
        spec = SearchSpec(k=TUNED_K, probes=place[0], rerank=place[1])
        started = time.perf_counter()
        self.index.search(self.truth.queries, spec, exclude=self.truth.query_ids)
        return max(time.perf_counter() - started, 1e-9)

    def refine(self, recalls: Iterable[float]) -> None:
        """Half a step below the cheapest settings that reach these recalls; two rounds, as long as it helps."""
        for recall in recalls:
            for _ in range(2):
                best = self._cheapest(recall)
                if best is None:
                    break
                p, r = best.place
                lower_p, lower_r = _lower(p, 1), _lower(r, min(2 * TUNED_K, r))
                for place in ((lower_p, r), (p, lower_r), (lower_p, lower_r)):
                    self.look(place)
                if self._cheapest(recall) is best:
                    break

    def _cheapest(self, recall: float) -> Trial | None:
        good = [trial for trial in self.trials.values() if trial.least >= recall]
        return min(good, key=lambda trial: trial.seconds, default=None)

    def _exact_seconds(self) -> float:
        """Of as many queries as the truth has, by comparing with all rows."""
        index, few = self.index, min(len(self.truth), EXACT_QUERIES)
        started = time.perf_counter()
        exact_search(
            index.store, index.layer, self.truth.queries[:few], TUNED_K, metric=index.manifest.spec.metric,
            kernels=index.kernels,
        )  # fmt: skip
        return (time.perf_counter() - started) * len(self.truth) / few

    def contenders(self) -> list[Trial]:
        """Settings that no other beats clearly, by what was seen so far; cheapest first."""
        trials = sorted(self.trials.values(), key=lambda trial: trial.seconds)

        def beaten(trial: Trial) -> bool:
            return any(other.least >= trial.least and other.seconds * SLACK < trial.seconds for other in trials) or any(
                other.least > trial.least and other.seconds < trial.seconds / 2 for other in trials
            )

        return [trial for trial in trials if not beaten(trial)]

    def time(self, trials: list[Trial], rounds: int) -> None:
        """Time these settings in turn, so many times."""
        for number in range(rounds):
            for done, trial in enumerate(trials):
                self.progress(
                    "timing", number * len(trials) + done, rounds * len(trials), unit="settings", detail=trial.run.name
                )
                trial.run.time_once()
                trial.rounds += 1
                trial.seconds = statistics.median(trial.run.seconds)

    def points(self) -> tuple[TunedPoint, ...]:
        """All trials by number of lists and candidates, those on the Pareto front of the timed ones marked."""
        points = [self.trials[place].point() for place in sorted(self.trials)]
        timed = [point for point in points if point.p99_ms is not None]

        def free(point: TunedPoint) -> bool:
            return point.p99_ms is not None and not any(
                (other.recall, other.qps) != (point.recall, point.qps)
                and other.recall >= point.recall
                and other.qps >= point.qps
                for other in timed
            )

        return tuple(point.model_copy(update={"pareto": free(point)}) for point in points)


def _slope(here: Trial, there: Trial) -> float:
    return (there.recall - here.recall) / max(there.seconds - here.seconds, here.seconds * 0.02)


def _lower(number: int, least: int) -> int:
    return max(round(number / math.sqrt(2)), least)


def _doubling(least: int, most: int) -> list[int]:
    """least, twice of it, and so on; most is the last."""
    found = []
    while least < most:
        found.append(least)
        least *= 2
    return [*found, most]
