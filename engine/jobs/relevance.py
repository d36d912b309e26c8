"""Which photos are relevant to a photo, and how much, by what people wrote of them: the ground truth of retrieval.

Sources of relevance, each a relation between photos (`engine.jobs.relevance_relation`):

- **tags**, **groups**, **albums**: photos that share at least `min_shared` of them. The grade is the share of the
  query's terms that the other has, each weighted by its inverse document frequency: in (0, 1]. Terms of more than
  `most_share` of the photos that have any, and tags that name the camera, are dropped (`engine.jobs.relevance_terms`).
- **geo**: photos taken within `radius_km`; grade 1.
- **combined**: a language model of tags, title, description and groups (`engine.jobs.relevance_text`); at least two
  shared terms and a grade of at least `threshold`, in (0, 1]. More reliable than any single tag.
- **labels**: labels of others, from a file; the grade is how many are shared.

A photo of which nothing is known by the source can be no query; whether it may be an answer, which then counts as not
relevant, is `candidates`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.errors import InputError
from engine.jobs.relevance_labels import read_labels
from engine.jobs.relevance_places import Near, SameTime
from engine.jobs.relevance_relation import F64, I64, Mask, Relation, SharedTerms, in_blocks
from engine.jobs.relevance_terms import (
    MOST_SHARE,
    Terms,
    camera_tags,
    ids_of,
    listed_terms,
    telling,
    values_of,
    words_of,
)
from engine.jobs.relevance_text import AT_LEAST, THRESHOLD, Fields, language_model
from engine.progress import Progress, silent
from engine.store.annotations.table import Annotations
from engine.store.store import Store

Source = Literal["tags", "groups", "albums", "geo", "combined", "labels"]
Same = Literal["owner", "album", "burst"]
SOURCES: tuple[Source, ...] = get_args(Source)
SAMES: tuple[Same, ...] = get_args(Same)
NAMED = 20  # stop terms that a report names


class RelevanceSpec(BaseModel):
    """What makes photos relevant to each other; see the module's text.

    min_shared: 1, and 2 for `combined`, unless given. candidates: photos that may be answers: all, or only those
    of which the source knows something; `labelled` for `labels` and `all` for the others unless given. exclude_same:
    photos of the same owner, album or burst (one owner, within `burst_seconds`) are left out: of answers, and of what
    is relevant.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: Source = "tags"
    labels: Path | None = None
    min_shared: Annotated[int, Field(ge=1, le=1000)] | None = None
    most_share: Annotated[float, Field(gt=0, le=1)] = MOST_SHARE
    threshold: Annotated[float, Field(ge=0, le=1)] = THRESHOLD
    radius_km: Annotated[float, Field(gt=0, le=20_100)] = 1.0
    candidates: Literal["all", "labelled"] | None = None
    exclude_same: tuple[Same, ...] = ()
    burst_seconds: Annotated[int, Field(ge=0, le=1 << 31)] = 60

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.source == "labels") != (self.labels is not None):
            raise ValueError("relevance by labels needs their file, --labels FILE, and only it")
        return self

    @property
    def only_labelled(self) -> bool:
        """Whether answers are made of labelled photos alone."""
        return (self.candidates or ("labelled" if self.source == "labels" else "all")) == "labelled"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What is relevant to some queries (q,), as row numbers.

    relevant: (q,) how many photos. ideal: (q, d) the greatest grades, best first, 0 after the last. left_out: (q,) how
    many photos that might be answers are not, for being of the same owner, album or burst.
    """

    rows: I64
    relevant: I64
    ideal: F64
    left_out: I64

    def some(self, at: npt.NDArray[Any]) -> "Judged":
        """The queries at these places."""
        parts = self.rows[at], self.relevant[at], self.ideal[at], self.left_out[at]
        return Judged(rows=parts[0], relevant=parts[1], ideal=parts[2], left_out=parts[3])


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """A source of relevance, ready for a store.

    allowed: (n,) rows that may be answers. facts: what it is made of, for a report.
    """

    spec: RelevanceSpec
    relation: Relation
    same: tuple[Relation, ...]
    allowed: Mask
    facts: dict[str, Any] = field(default_factory=dict)

    def judge(self, rows: I64, depth: int, progress: Progress = silent) -> Judged:
        """How many photos are relevant to the queries rows (q,), and the best `depth` grades there are."""
        relevant, left_out = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        ideal = np.zeros((len(rows), depth))
        sizes = self.relation.sizes(rows) + sum((same.sizes(rows) for same in self.same), np.zeros(len(rows), np.int64))
        for part in in_blocks(sizes):
            grades = self._possible(self.relation.block(rows[part]), rows[part])
            banned = self._banned_block(rows[part])
            if banned is not None:
                left_out[part] = np.diff(banned.indptr)
                grades = (grades - grades.multiply(banned)).tocsr()
                grades.eliminate_zeros()
            relevant[part] = np.diff(grades.indptr)
            ideal[part] = _greatest(grades, depth)
            progress("relevant photos", part.stop, len(rows), unit="queries")
        return Judged(rows=rows, relevant=relevant, ideal=ideal, left_out=left_out)

    def grades(self, rows: I64, answers: I64) -> F64:
        """The grade (q, d) of each answer (q, d; row numbers, −1 = none) to the queries rows (q,); 0 = not relevant."""
        return self._of_pairs(self.relation, rows, answers)

    def banned(self, rows: I64, answers: I64) -> Mask:
        """Whether each answer (q, d; −1 = none) is of the query's owner, album or burst."""
        found = np.zeros(answers.shape, np.bool_)
        for same in self.same:
            found |= self._of_pairs(same, rows, answers) > 0
        return found

    def _of_pairs(self, relation: Relation, rows: I64, answers: I64) -> F64:
        found = np.zeros(answers.shape)
        query, place = np.nonzero(answers >= 0)
        found[query, place] = relation.pairs(rows[query], answers[query, place])
        return found

    def _possible(self, block: Any, rows: I64) -> Any:
        """The entries of a block (q, n) that may be answers: allowed, and not the query itself."""
        query = np.repeat(np.arange(len(rows)), np.diff(block.indptr))
        block.data[~self.allowed[block.indices] | (block.indices == rows[query])] = 0
        block.eliminate_zeros()
        return block

    def _banned_block(self, rows: I64) -> Any:
        """Ones where an allowed photo is of the same owner, album or burst as the query; None without such rules."""
        blocks = [self._possible(same.block(rows), rows) for same in self.same]
        if not blocks:
            return None
        banned = sum(blocks[1:], blocks[0]).tocsr()
        banned.data[:] = 1
        return banned


def _greatest(block: Any, depth: int) -> F64:
    """The greatest `depth` entries of each row (q, depth), best first, 0 after the last."""
    found = np.zeros((block.shape[0], depth))
    for i, (start, stop) in enumerate(zip(block.indptr[:-1].tolist(), block.indptr[1:].tolist(), strict=True)):
        grades = block.data[start:stop]
        if len(grades) > depth:
            grades = np.partition(grades, len(grades) - depth)[-depth:]
        found[i, : len(grades)] = np.sort(grades)[::-1]
    return found


_COLUMNS: dict[Source, list[str]] = {
    "tags": ["tags", "camera"], "groups": ["groups"], "albums": ["albums"], "labels": [],
    "geo": ["latitude", "longitude"], "combined": ["tags", "camera", "title", "description", "groups"],
}  # fmt: skip
_SAME_COLUMNS: dict[Same, list[str]] = {
    "owner": ["owner"],
    "album": ["albums"],
    "burst": ["owner", "taken", "exif_taken"],
}


def open_relevance(store: Store, spec: RelevanceSpec, progress: Progress = silent) -> Relevance:
    """Relevance between the photos of a store.

    InputError when the store has no annotations that are needed, or no two photos have anything in common to go by.
    """
    progress("read annotations", 0, 0)
    columns = list(
        dict.fromkeys([*_COLUMNS[spec.source], *(c for same in spec.exclude_same for c in _SAME_COLUMNS[same])])
    )
    table = Annotations.open(store).table(columns) if columns else None
    relation, facts = _relation(store, spec, table)
    same = tuple(_same(kind, spec, table) for kind in dict.fromkeys(spec.exclude_same))
    allowed = np.ones(len(store), np.bool_) if store.removed is None else ~store.removed
    labelled = int((relation.known & allowed).sum())
    if not labelled:
        what = "labels" if spec.source == "labels" else f"annotations for {spec.source}"
        raise InputError(f"{store.path}: no photo has {what} that another has too. Choose another --relevance.")
    if spec.only_labelled:
        allowed = allowed & relation.known
    facts = {"photos": store.photos, "labelled": labelled, "candidates": int(allowed.sum())} | facts
    return Relevance(spec=spec, relation=relation, same=same, allowed=allowed, facts=facts)


def _relation(store: Store, spec: RelevanceSpec, table: Any) -> tuple[Relation, dict[str, Any]]:
    if spec.source == "geo":
        degrees = [np.asarray(table.column(name).to_numpy(), np.float64) for name in ("latitude", "longitude")]
        return Near.of_degrees(degrees[0], degrees[1], spec.radius_km), {"radius_km": spec.radius_km}
    if spec.source == "labels":
        assert spec.labels is not None
        labels = read_labels(spec.labels, store)
        facts = {"terms": len(labels.terms.names), "labelled_elsewhere": labels.elsewhere}
        return counted_terms(labels.terms, spec.min_shared or 1), facts
    if spec.source == "combined":
        return _combined(spec, table)
    if spec.source == "tags":
        terms, facts = useful_tags(table, spec.most_share)
    else:
        terms, stop = telling(
            listed_terms(ids_of(table.column(spec.source)), tidy=False).once(), most_share=spec.most_share
        )
        facts = _stop_facts(terms, stop)
    return weighted_terms(terms, spec.min_shared or 1), facts


def useful_tags(table: Any, most_share: float) -> tuple[Terms, dict[str, Any]]:
    """The tags of a table with the columns `tags` and `camera` that tell what is on a photo, and what was dropped."""
    tags = listed_terms(table.column("tags")).once()
    camera = camera_tags(tags, table.column("camera"))
    terms, stop = telling(tags.only(~camera), most_share=most_share)
    frequency = tags.frequency()[camera]
    cameras = tags.names[camera][np.argsort(-frequency, kind="stable")].tolist()
    return terms, _stop_facts(terms, stop) | {"camera_tags": len(cameras), "camera_tags_most": cameras[:NAMED]}


def _stop_facts(terms: Terms, stop: list[str]) -> dict[str, Any]:
    return {"terms": len(terms.names), "stop_terms": len(stop), "stop_terms_most": stop[:NAMED]}


def _combined(spec: RelevanceSpec, table: Any) -> tuple[Relation, dict[str, Any]]:
    tags, facts = useful_tags(table, spec.most_share)
    title, _ = telling(words_of(table.column("title")), most_share=spec.most_share)
    description, _ = telling(words_of(table.column("description")), most_share=spec.most_share)
    groups, _ = telling(listed_terms(ids_of(table.column("groups")), tidy=False).once(), most_share=spec.most_share)
    fields = Fields(tags=tags, title=title, description=description, groups=groups)
    sizes = {name: len(getattr(fields, name).names) for name in ("tags", "title", "description", "groups")}
    relation = language_model(fields, at_least=spec.min_shared or AT_LEAST, threshold=spec.threshold)
    return relation, facts | {"terms": sizes, "threshold": spec.threshold}


def weighted_terms(terms: Terms, at_least: int) -> SharedTerms:
    """Graded by the share of the first photo's terms that the second has, by inverse document frequency."""
    from scipy import sparse

    weights = sparse.csr_array(terms.counts @ sparse.diags_array(terms.idf()))
    total = np.asarray(weights.sum(axis=1)).ravel()
    asked = sparse.csr_array(sparse.diags_array(1 / np.where(total > 0, total, 1)) @ weights)
    asked.sort_indices()
    return SharedTerms(asked=asked, given=terms.counts, known=terms.known, at_least=at_least)


def counted_terms(terms: Terms, at_least: int) -> SharedTerms:
    """Graded by how many terms are shared."""
    return SharedTerms(asked=terms.counts, given=terms.counts, known=terms.known, at_least=at_least)


def _same(kind: Same, spec: RelevanceSpec, table: Any) -> Relation:
    if kind == "album":
        return counted_terms(listed_terms(ids_of(table.column("albums")), tidy=False).once(), 1)
    owner = values_of(table.column("owner"))
    if kind == "owner":
        zeros = np.zeros(len(owner), np.int64)
        return SameTime(owner=owner, taken=zeros, known=owner >= 0, seconds=0)
    import pyarrow.compute as pc

    # Parquet has no times in whole seconds: they come back as milliseconds.
    taken = (
        pc.coalesce(table.column("taken"), table.column("exif_taken")).cast("timestamp[s]", safe=False).cast("int64")
    )
    known = (owner >= 0) & np.asarray(pc.is_valid(taken).to_numpy(zero_copy_only=False), np.bool_)
    seconds = np.asarray(pc.fill_null(taken, 0).to_numpy(), np.int64)
    return SameTime(owner=owner, taken=seconds, known=known, seconds=spec.burst_seconds)
