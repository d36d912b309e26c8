"""Answers as tables, CSV, JSON or Parquet; each takes a stream, so that any number fits in memory."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.cli.console import out as console
from engine.cli.console import say_json, say_table
from engine.errors import DependencyError, InputError
from engine.index.searcher import Answer
from engine.store.dat import relative_path
from engine.store.durable import disk_errors, part_of, publish

if TYPE_CHECKING:
    from engine.store.annotations.fields import PhotoFields

_CELL = 48  # characters of an annotation in a table
_TOGETHER = 10_000  # photos whose annotations are read at once
_ASIDE_IN_MEMORY = 64 << 20  # bytes of answers that wait in memory, more of them in a temporary file


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What all answers of one call share.

    images: the folder of the pictures. weights: of several layers. fields: what is said of each photo. where: the
    condition that the photos fit, and how many of the store's do.
    """

    layer: str
    metric: str
    device: str
    images: Path | None
    weights: tuple[float, ...] | None = None
    fields: "PhotoFields | None" = None
    where: tuple[str, int] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a document says of all its answers."""
        facts: dict[str, Any] = {"layer": self.layer, "metric": self.metric, "device": self.device}
        if self.weights is not None:
            facts["weights"] = list(self.weights)
        if self.where is not None:
            facts["where"], facts["photos"] = self.where
        return facts

    @property
    def columns(self) -> tuple[str, ...]:
        """What is said of each photo."""
        return self.fields.names if self.fields else ()

    def picture(self, photo_id: int) -> str | None:
        """The path of a photo's picture."""
        return str(self.images / relative_path(photo_id, ".jpg")) if self.images else None


def _name(answer: Answer, i: int, known: "_Known") -> dict[str, Any]:
    ids = answer.questions.photo_ids
    at = answer.start + i
    if ids is None:
        return {"source": answer.questions.source(at)}
    photo_id = int(ids[at])
    return {"photo_id": photo_id} | ({"annotations": known[photo_id]} if photo_id in known else {})


def _neighbors(answer: Answer, i: int, heading: Heading, known: "_Known") -> list[dict[str, Any]]:
    found = []
    for photo_id, score in zip(answer.result.photo_ids[i].tolist(), answer.result.scores[i].tolist(), strict=True):
        if photo_id >= 0:
            picture = heading.picture(photo_id)
            more = {"annotations": known[photo_id]} if photo_id in known else {}
            found.append({"photo_id": photo_id, "score": score} | ({"picture": picture} if picture else {}) | more)
    return found


_Known = dict[int, dict[str, Any]]  # what is said of photos, by id
_Pair = tuple[dict[str, Any], list[dict[str, Any]]]


def _each(stream: Iterator[Answer], heading: Heading) -> Iterator[_Pair]:
    """Each query and its neighbours; what is said of the photos is read for many queries at once."""
    for answer in stream:
        together = (
            max(_TOGETHER // max(answer.result.photo_ids.shape[1], 1), 1) if heading.fields else len(answer.result)
        )
        for start in range(0, len(answer.result), max(together, 1)):
            some = range(start, min(start + together, len(answer.result)))
            known = _known(answer, some, heading)
            for i in some:
                yield _name(answer, i, known), _neighbors(answer, i, heading, known)


def _known(answer: Answer, some: range, heading: Heading) -> _Known:
    if heading.fields is None:
        return {}
    ids = answer.result.photo_ids[some.start : some.stop].ravel()
    if answer.questions.photo_ids is not None:
        asked = answer.questions.photo_ids[answer.start + some.start : answer.start + some.stop]
        ids = np.concatenate([ids, asked])
    return heading.fields.of(ids[ids >= 0])


def print_json(stream: Iterator[Answer], heading: Heading) -> None:
    """One JSON document; `score` is higher-is-better. Kept aside until it is whole: an error must not follow a half."""
    head, separator = json.dumps(heading.facts)[:-1] + ', "queries": [', "\n"
    with tempfile.SpooledTemporaryFile(_ASIDE_IN_MEMORY, "w+", encoding="utf-8") as aside:
        for name, neighbors in _each(stream, heading):
            aside.write(head + separator + json.dumps(name | {"neighbors": neighbors}, allow_nan=False))
            head, separator = "", ",\n"
        aside.write(head + "\n]}\n")
        aside.seek(0)
        shutil.copyfileobj(aside, sys.stdout)


def print_csv(stream: Iterator[Answer], heading: Heading) -> None:
    """A line for each neighbour."""
    more = [*(["picture"] if heading.images else []), *heading.columns]
    sys.stdout.write(",".join(["query", "rank", "photo_id", "score", *more]) + "\n")
    for name, neighbors in _each(stream, heading):
        query = _quoted(str(next(iter(name.values()))))
        for rank, neighbor in enumerate(neighbors, 1):
            cells = [neighbor["picture"]] if heading.images else []
            cells += [_cell(neighbor["annotations"][column]) for column in heading.columns]
            rest = "".join("," + _quoted(cell) for cell in cells)
            sys.stdout.write(f"{query},{rank},{neighbor['photo_id']},{neighbor['score']:.9g}{rest}\n")


def _cell(value: Any) -> str:
    """A value in CSV: lists and structures as JSON, nothing for what is not known."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text


def print_tables(stream: Iterator[Answer], heading: Heading) -> None:
    """A table for each query; annotations are cut to what a line can take."""
    texts = [*(["path"] if heading.images else []), *heading.columns]
    for name, neighbors in _each(stream, heading):
        kind, value = next(iter(name.items()))
        title = f"{'photo ' if kind == 'photo_id' else ''}{value} · {heading.layer}, {heading.metric}, {heading.device}"
        rows = [
            [rank, found["photo_id"], f"{found['score']:.4f}", *([found["picture"]] if heading.images else []),
             *_shown(found, heading)]
            for rank, found in enumerate(neighbors, 1)
        ]  # fmt: skip
        console.print(title, style="bold")
        if "annotations" in name:
            pairs = zip(heading.columns, _shown(name, heading), strict=True)
            console.print(" · ".join(f"{column}: {text}" for column, text in pairs if text) or "nothing known of it")
        if rows:
            say_table(["rank", "photo", "score", *texts], rows, texts)
        else:
            console.print("no other photo")
        console.print()


def _shown(photo: dict[str, Any], heading: Heading) -> list[str]:
    """What is said of a photo, in cells; its classes and its attribution are never cut."""
    from engine.store.annotations.fields import ATTRIBUTION, CLASSES, shown_value

    return [
        shown_value(photo["annotations"][column], 0 if column in (ATTRIBUTION, CLASSES) else _CELL)
        for column in heading.columns
    ]


def write_parquet(stream: Iterator[Answer], heading: Heading, out: Path, *, as_json: bool) -> None:
    """A row for each neighbour: query_photo_id or query_source, rank, photo_id, score, and what is said of the photo.

    Renamed when whole.
    """
    if out.suffix != ".parquet":
        raise InputError(f"--out {out}: expected a name that ends in .parquet")
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise DependencyError("--out needs PyArrow: pip install pyarrow") from error
    fields: list[Any] = [
        pa.field("query_photo_id", pa.int64()),
        pa.field("query_source", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("photo_id", pa.int64()),
        pa.field("score", pa.float32()),
        *(heading.fields.arrow_fields() if heading.fields else []),
    ]
    metadata = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in heading.facts.items()}
    schema = pa.schema(fields).with_metadata(metadata)
    queries = written = 0
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with parquet.ParquetWriter(part_of(out), schema) as writer:
                for answer in stream:
                    columns = _columns(answer)
                    if heading.fields:
                        columns |= heading.fields.columns(columns["photo_id"])
                    table = pa.table(columns, schema=schema)
                    writer.write_table(table)
                    queries, written = queries + len(answer.result), written + len(table)
            publish(out)
        finally:
            part_of(out).unlink(missing_ok=True)
    if as_json:
        say_json(heading.facts | {"out": str(out), "queries_answered": queries, "rows": written})
    else:
        console.print(f"{written:,} neighbours of {queries:,} queries in {out}")


def _columns(answer: Answer) -> dict[str, Any]:
    there = answer.result.photo_ids >= 0
    query, rank = np.nonzero(there)
    ids = answer.questions.photo_ids
    at = query + answer.start
    return {
        "query_photo_id": [None] * len(at) if ids is None else ids[at],
        "query_source": [answer.questions.source(i) if ids is None else None for i in at.tolist()],
        "rank": (rank + 1).astype(np.int32),
        "photo_id": answer.result.photo_ids[there],
        "score": answer.result.scores[there],
    }
