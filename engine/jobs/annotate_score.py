"""How good predicted tags are: held-out photos, the tags that their owners gave them, and what chance would give.

- **precision@n**, **recall@n**: of the n tags given to a photo, the share that it has; of those that it has, the share
  that is among the n; means over the photos.
- **AP of a tag**: the held-out photos for which it has a vote, by its score; AP divided by all that have the tag, those
  without a vote among them. **mean AP**: over the tags that at least `min_photos` of the held-out photos have.
- **precision** and **recall** of a tag: over the photos that were given it, and those that have it.

Beside the neighbours: as many photos at random, which vote the same way, and the most frequent tags for everyone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.index.searcher import Searcher
from engine.jobs.annotate import AnnotateSpec, Voter
from engine.jobs.evaluate import Asked, EvaluateSpec, choose_queries
from engine.jobs.evaluate_ways import Layer, Ranker, Way
from engine.jobs.relevance import RelevanceSpec, Same, open_relevance
from engine.jobs.relevance_relation import F64, I64
from engine.jobs.retrieval_metrics import Bootstrap, Interval
from engine.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Which photos tags are predicted for, and who may not vote. min_photos: see the module's text."""

    queries: int = 1000
    seed: int = 0
    min_photos: int = 5
    exclude_same: tuple[Same, ...] = ()
    burst_seconds: int = 60
    resamples: int = 2000


@dataclass(frozen=True, kw_only=True)
class TagScore:
    """How well one tag is predicted. photos: of the store that have it; held_out: of the held-out ones; given: to how
    many it was given; hits: of those, how many have it.
    """

    tag: str
    photos: int
    held_out: int
    given: int
    hits: int
    precision: float | None
    recall: float
    average_precision: float


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one way to predict is worth. mean_ap: None for the most frequent tags, which rank no photos."""

    name: str
    precision: Interval
    recall: Interval
    mean_ap: float | None


@dataclass(frozen=True, kw_only=True)
class AnnotateScore:
    """The evaluation of predicted tags; see the module's text. evaluated: tags that mean AP is over."""

    photos: int
    queries: int
    passed_over_untagged: int
    tags: int
    evaluated: int
    methods: tuple[Method, ...]
    difference: dict[str, Interval]
    by_tag: list[TagScore] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def score_annotation(
    searcher: Searcher, spec: AnnotateSpec, held_out: HeldOut, progress: Progress = silent
) -> AnnotateScore:
    """Predict the tags of photos from their neighbours and compare them with their own.

    InputError when the store has no annotations, or no photo has a tag that another has too.
    """
    store = searcher.store
    truth = RelevanceSpec(
        source="tags", most_share=spec.most_share, candidates="labelled", exclude_same=held_out.exclude_same,
        burst_seconds=held_out.burst_seconds,
    )  # fmt: skip
    relevance = open_relevance(store, truth, progress)
    depth = min(spec.neighbours + 1, max(int(relevance.allowed.sum()), 1))
    wanted = EvaluateSpec(queries=held_out.queries, seed=held_out.seed, depth=depth, k=1)
    asked = choose_queries(store, relevance, wanted, progress)
    voter = Voter.of_store(store, spec.votes, spec.most_share)
    scored = _Scored(voter, asked, spec.tags, held_out.min_photos)
    layer = Layer(name=searcher.layer, store=store, exact=searcher, index=searcher)
    ways = {
        "neighbours": (layer, Way(kind="index", layer=searcher.layer, probes=spec.probes, rerank=spec.rerank)),
        "random photos": (None, Way(kind="random")),
    }
    found: dict[str, _Result] = {}
    for done, (name, (through, way)) in enumerate(ways.items()):
        progress("predict", done, len(ways), unit="ways", detail=name)
        ranker = Ranker(
            way=way, layer=through, relevance=relevance, judged=asked.judged, depth=depth, seed=held_out.seed
        )
        found[name] = scored.of_votes(*ranker.rank())
    found["most frequent tags"] = scored.of_popular()
    return _report(scored, found, Bootstrap(len(asked.judged.rows), resamples=held_out.resamples, seed=held_out.seed))


@dataclass(frozen=True, kw_only=True)
class _Result:
    """precision, recall: (q,). given, hits: (tags,) counts. average: (evaluated,); None where nothing is ranked."""

    precision: F64
    recall: F64
    given: I64
    hits: I64
    average: F64 | None


class _Scored:
    """The held-out photos with their own tags, beside which predictions are put."""

    def __init__(self, voter: Voter, asked: Asked, most: int, min_photos: int) -> None:
        self.voter, self.asked, self.most = voter, asked, most
        self.own = voter.tags.counts[asked.judged.rows].tocsr()
        self.positives = np.bincount(self.own.indices, minlength=self.own.shape[1])
        self.evaluated = np.flatnonzero(self.positives >= min_photos)
        if not len(self.evaluated):
            raise InputError(
                f"no tag is of {min_photos:,} of the {len(asked.judged.rows):,} held-out photos: give more --queries, "
                "or fewer --min-photos"
            )

    def of_votes(self, rows: I64, scores: Any) -> _Result:
        """By the votes of neighbours (q, k); random ones score alike, and weigh the same."""
        graded = self.voter.scores(self.voter.shares(rows, scores))
        given = _best(graded, self.voter.frequency, self.most)
        return self._compared(given, self._average(graded.tocsc()))

    def of_popular(self) -> _Result:
        """The same tags for every photo: the most frequent ones."""
        from scipy import sparse

        best = np.argsort(-self.voter.frequency, kind="stable")[: self.most]
        rows = np.repeat(np.arange(self.own.shape[0]), len(best))
        cells = (np.ones(len(rows)), (rows, np.tile(best, self.own.shape[0])))
        return self._compared(sparse.csr_array(cells, shape=self.own.shape), None)

    def _compared(self, given: Any, average: F64 | None) -> _Result:
        hits = given.multiply(self.own).tocsr()
        hits.eliminate_zeros()
        per_photo = np.diff(hits.indptr)
        return _Result(
            precision=per_photo / self.most, recall=per_photo / np.maximum(np.diff(self.own.indptr), 1),
            given=np.bincount(given.indices, minlength=given.shape[1]),
            hits=np.bincount(hits.indices, minlength=given.shape[1]), average=average,
        )  # fmt: skip

    def _average(self, by_tag: Any) -> F64:
        """The AP (evaluated,) of each tag over the held-out photos."""
        own = self.own.tocsc()
        found = np.zeros(len(self.evaluated))
        for place, tag in enumerate(self.evaluated.tolist()):
            part = slice(by_tag.indptr[tag], by_tag.indptr[tag + 1])
            photos = by_tag.indices[part]
            order = photos[np.lexsort((photos, -by_tag.data[part]))]
            hits = np.isin(order, own.indices[own.indptr[tag] : own.indptr[tag + 1]])
            places = np.flatnonzero(hits) + 1
            found[place] = (np.arange(1, len(places) + 1) / places).sum() / self.positives[tag]
        return found


def _best(graded: Any, frequency: I64, most: int) -> Any:
    """Ones for the tags of the greatest scores above 0 of each photo, a SciPy CSR array (q, tags)."""
    kept: list[I64] = []
    counts = []
    for start, stop in zip(graded.indptr[:-1].tolist(), graded.indptr[1:].tolist(), strict=True):
        tags, values = graded.indices[start:stop], graded.data[start:stop]
        order = np.lexsort((tags, -frequency[tags], -values))[:most]
        best = tags[order[values[order] > 0]]
        kept.append(np.sort(best))
        counts.append(len(best))
    indices = np.concatenate(kept)
    return type(graded)((np.ones(len(indices)), indices, np.concatenate([[0], np.cumsum(counts)])), shape=graded.shape)


def _report(scored: _Scored, found: dict[str, _Result], bootstrap: Bootstrap) -> AnnotateScore:
    asked, voter = scored.asked, scored.voter
    values = {name: {"precision": one.precision, "recall": one.recall} for name, one in found.items()}
    means = {name: bootstrap.intervals(part) for name, part in values.items()}
    methods = tuple(
        Method(
            name=name, precision=means[name]["precision"], recall=means[name]["recall"],
            mean_ap=None if one.average is None else float(one.average.mean()),
        )
        for name, one in found.items()
    )  # fmt: skip
    best = found["neighbours"]
    return AnnotateScore(
        photos=int(voter.tags.known.sum()), queries=len(asked.judged.rows), passed_over_untagged=asked.unlabelled,
        tags=len(voter.tags.names), evaluated=len(scored.evaluated), methods=methods,
        difference=bootstrap.differences(values["neighbours"], values["most frequent tags"]),
        by_tag=_by_tag(scored, best),
    )  # fmt: skip


def _by_tag(scored: _Scored, best: _Result) -> list[TagScore]:
    """The evaluated tags, those of most held-out photos first."""
    assert best.average is not None
    positives, voter = scored.positives, scored.voter
    places: Sequence[int] = np.argsort(-positives[scored.evaluated], kind="stable").tolist()
    found = []
    for place in places:
        tag = int(scored.evaluated[place])
        given, hits = int(best.given[tag]), int(best.hits[tag])
        found.append(TagScore(
            tag=voter.tags.names[tag], photos=int(voter.frequency[tag]), held_out=int(positives[tag]), given=given,
            hits=hits, precision=round(hits / given, 6) if given else None, recall=round(hits / int(positives[tag]), 6),
            average_precision=round(float(best.average[place]), 6),
        ))  # fmt: skip
    return found
