"""What tuning found: search settings of an index with their measured recall and speed, and which one a recall wants."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.errors import InputError

TUNED_K = 10
# What was measured is dropped where an index holds more than so many times the rows it had then. Of the sample
# (fc8, and 512 dimensions of fc7) 4,000 rows in an index made for 2,000 lost no recall at any of five settings.
MOST_GROWTH = 2.0
_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


class TunedPoint(BaseModel):
    """One setting that was tried.

    recall: recall@10, the mean over the queries. least: recall less its sampling error, which the true recall falls
    below one time in twenty. qps: queries a second, all in one call. p50_ms, p99_ms: of single queries; None where the
    setting was only looked at and found no better than others. pareto: none is as good in recall and qps and better
    in one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    probes: Annotated[int, Field(ge=1)]
    rerank: Annotated[int, Field(ge=1)]
    recall: _Share
    least: _Share
    qps: _Positive
    p50_ms: _Positive | None = None
    p99_ms: _Positive | None = None
    pareto: bool = False

    @property
    def options(self) -> str:
        """The setting as it is typed."""
        return f"--probes {self.probes} --rerank {self.rerank}"


class Tuned(BaseModel):
    """The result of `mirsearch tune`.

    device: on which it was measured. rows: of the index then; None where that was not kept. queries: photos held out,
    chosen by the seed. chosen: the number of the point that a search uses which names neither probes nor candidates
    nor a recall.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    device: str
    rows: Annotated[int, Field(ge=1)] | None = None
    queries: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    measured_at: str
    points: Annotated[tuple[TunedPoint, ...], Field(min_length=1)]
    chosen: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _names_a_point(self) -> "Tuned":
        if self.chosen >= len(self.points):
            raise ValueError(f"point {self.chosen} of {len(self.points)} is chosen")
        return self

    @property
    def default(self) -> TunedPoint:
        """The chosen point."""
        return self.points[self.chosen]

    def grown(self, before: int, now: int) -> "Tuned | None":
        """What holds for an index that grew from `before` to `now` rows of the same kind; None when it is too many."""
        rows = self.rows or before
        return self.model_copy(update={"rows": rows}) if now <= MOST_GROWTH * rows else None

    def reaching(self, recall: float) -> TunedPoint | None:
        """The fastest point whose recall, less its sampling error, is at least this; None if there is none."""
        good = [point for point in timed(self.points) if point.least >= recall]
        return max(good, key=lambda point: point.qps, default=None)

    def choose(self, recall: float) -> TunedPoint:
        """As `reaching`; InputError names the nearest point where none reaches it."""
        found = self.reaching(recall)
        if found is None:
            raise InputError(f"{not_reached(recall, best_recall(self.points))} Or `--exact`, which misses nothing.")
        return found


def timed(points: tuple[TunedPoint, ...]) -> list[TunedPoint]:
    """Those that were timed in several rounds."""
    return [point for point in points if point.p99_ms is not None]


def best_recall(points: tuple[TunedPoint, ...]) -> TunedPoint:
    """The point of the highest recall; of equal ones the fastest."""
    return max(timed(points), key=lambda point: (point.least, point.recall, point.qps))


def not_reached(recall: float, best: TunedPoint) -> str:
    """The line about a recall that no point reached."""
    error = best.recall - best.least
    return f"--recall {recall:g} was not reached: the best is {best.recall:.4f} (± {error:.4f}) with {best.options}."
