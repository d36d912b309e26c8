"""Answers as tables, CSV, JSON or Parquet; each takes a stream, so that any number fits in memory."""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.cli.console import out as console
from engine.cli.console import say_json, say_table
from engine.errors import DependencyError, InputError
from engine.index.searcher import Answer
from engine.store.dat import relative_path
from engine.store.durable import disk_errors, part_of, publish

_ASIDE_IN_MEMORY = 64 << 20  # bytes of answers that wait in memory, more of them in a temporary file


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What all answers of one call share; images: the folder of the pictures; weights: of several layers."""

    layer: str
    metric: str
    device: str
    images: Path | None
    weights: tuple[float, ...] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What a document says of all its answers."""
        facts: dict[str, Any] = {"layer": self.layer, "metric": self.metric, "device": self.device}
        return facts if self.weights is None else facts | {"weights": list(self.weights)}

    def picture(self, photo_id: int) -> str | None:
        """The path of a photo's picture."""
        return str(self.images / relative_path(photo_id, ".jpg")) if self.images else None


def _name(answer: Answer, i: int) -> dict[str, Any]:
    ids = answer.questions.photo_ids
    at = answer.start + i
    return {"source": answer.questions.source(at)} if ids is None else {"photo_id": int(ids[at])}


def _neighbors(answer: Answer, i: int, heading: Heading) -> list[dict[str, Any]]:
    found = []
    for photo_id, score in zip(answer.result.photo_ids[i].tolist(), answer.result.scores[i].tolist(), strict=True):
        if photo_id >= 0:
            picture = heading.picture(photo_id)
            found.append({"photo_id": photo_id, "score": score} | ({"picture": picture} if picture else {}))
    return found


def _each(stream: Iterator[Answer], heading: Heading) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for answer in stream:
        for i in range(len(answer.result)):
            yield _name(answer, i), _neighbors(answer, i, heading)


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
    sys.stdout.write("query,rank,photo_id,score" + (",picture" if heading.images else "") + "\n")
    for name, neighbors in _each(stream, heading):
        query = _quoted(str(next(iter(name.values()))))
        for rank, neighbor in enumerate(neighbors, 1):
            picture = "," + _quoted(neighbor["picture"]) if heading.images else ""
            sys.stdout.write(f"{query},{rank},{neighbor['photo_id']},{neighbor['score']:.9g}{picture}\n")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\n\r') else text


def print_tables(stream: Iterator[Answer], heading: Heading) -> None:
    """A table for each query."""
    columns = ["rank", "photo", "score", *(["path"] if heading.images else [])]
    for name, neighbors in _each(stream, heading):
        kind, value = next(iter(name.items()))
        title = f"{'photo ' if kind == 'photo_id' else ''}{value} · {heading.layer}, {heading.metric}, {heading.device}"
        rows = [
            [rank, found["photo_id"], f"{found['score']:.4f}", *([found["picture"]] if heading.images else [])]
            for rank, found in enumerate(neighbors, 1)
        ]
        console.print(title, style="bold")
        if rows:
            say_table(columns, rows)
        else:
            console.print("no other photo")
        console.print()


def write_parquet(stream: Iterator[Answer], heading: Heading, out: Path, *, as_json: bool) -> None:
    """A row for each neighbour: query_photo_id or query_source, rank, photo_id, score. Renamed when whole."""
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
    ]
    metadata = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in heading.facts.items()}
    schema = pa.schema(fields).with_metadata(metadata)
    queries = written = 0
    with disk_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            with parquet.ParquetWriter(part_of(out), schema) as writer:
                for answer in stream:
                    table = pa.table(_columns(answer), schema=schema)
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
