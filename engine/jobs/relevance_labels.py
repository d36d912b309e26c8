"""Labels of photos from files of others: a table of photo and labels, or a folder with a list of photos per label.

- `.csv`, `.tsv`: photo id, then its labels, one or more fields; a photo may have several lines, and the first line of
  the file may be a heading.
- `.jsonl`: `{"photo_id": 5, "labels": ["sky", "sea"]}`, or `"label": "sky"`.
- `.parquet`: a column `photo_id`, and a column `labels` of lists of text or `label` of text.
- a folder: `sky.txt` holds the ids of the photos with the label `sky`, one a line, as the annotations of
  MIRFLICKR-25000 do; a `README` is passed over.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.jobs.relevance_relation import I64, Mask, rows_to_csr
from engine.jobs.relevance_terms import Terms
from engine.store.store import Store

Pair = tuple[int, str]


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a store's photos. elsewhere: how many labelled photos the store does not have."""

    terms: Terms
    elsewhere: int


def read_labels(path: Path, store: Store) -> Labels:
    """The labels of the photos of a store; InputError for a file that is none, and where no photo of it is here."""
    if path.is_dir():
        pairs = _folder(path)
    elif path.is_file():
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            kinds = ", ".join(_READERS)
            raise InputError(f"{path}: labels in a file of this kind are not known, expected {kinds} or a folder")
        pairs = reader(path)
    else:
        raise InputError(f"{path}: no such file, expected the labels of photos")
    ids, names = _collect(pairs, path)
    rows, here = _rows(store, ids)
    elsewhere = len(np.unique(ids[~here]))
    if not here.any():
        raise InputError(f"{path}: none of its {elsewhere:,} photos is in {store.path}, or is not removed from it")
    labels, numbers = np.unique(names[here], return_inverse=True)
    counts = rows_to_csr(rows[here], numbers.astype(np.int64), np.ones(int(here.sum())), (len(store), len(labels)))
    return Labels(terms=Terms(counts=counts, names=labels.astype(object)).once(), elsewhere=elsewhere)


def _collect(pairs: Iterator[Pair], path: Path) -> tuple[I64, Any]:
    try:
        found = list(pairs)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as labels of photos ({error})") from error
    if not found:
        raise InputError(f"{path}: holds no labels")
    ids, names = zip(*found, strict=True)
    return np.array(ids, np.int64), np.array(names, str)


def _rows(store: Store, ids: I64) -> tuple[I64, Mask]:
    """The row of each id (m,), and whether the store has it."""
    order = np.argsort(store.photo_ids, kind="stable")
    if not len(order):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    at = np.minimum(np.searchsorted(store.photo_ids, ids, sorter=order), len(order) - 1)
    rows = order[at]
    here = store.photo_ids[rows] == ids
    if store.removed is not None:
        here &= ~store.removed[rows]
    return rows, np.asarray(here)


def _photo_id(value: object, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError(f"{where}: {text[:40]!r} is not a photo id")
    return int(text)


def _separated(path: Path, delimiter: str) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, fields in enumerate(csv.reader(file, delimiter=delimiter), 1):
            if not any(field.strip() for field in fields):
                continue
            if number == 1 and not fields[0].strip().isdigit():
                continue
            photo = _photo_id(fields[0], f"{path}, line {number}")
            yield from ((photo, field.strip()) for field in fields[1:] if field.strip())


def _json_lines(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: is no JSON ({error})") from error
            labels = entry.get("labels", entry.get("label")) if isinstance(entry, dict) else None
            labels = [labels] if isinstance(labels, str) else labels
            if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
                raise InputError(f'{where}: expected {{"photo_id": 5, "labels": ["sky"]}}')
            photo = _photo_id(entry.get("photo_id"), where)
            yield from ((photo, label) for label in labels)


def _parquet(path: Path) -> Iterator[Pair]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        column = next((name for name in ("labels", "label") if name in names), None)
        if column is None or "photo_id" not in names:
            raise InputError(f"{path}: has {', '.join(names)}, expected photo_id and labels, or photo_id and label")
        table = pq.read_table(path, columns=["photo_id", column])
    except pa.ArrowException as error:
        raise InputError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    for number, (photo, labels) in enumerate(
        zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True), 1
    ):
        found: Iterable[Any] = [labels] if isinstance(labels, str) else labels or []
        checked = _photo_id(photo, f"{path}, row {number:,}")
        yield from ((checked, str(label)) for label in found if label is not None)


def _folder(path: Path) -> Iterator[Pair]:
    files = sorted(file for file in path.glob("*.txt") if not file.stem.lower().startswith("readme"))
    if not files:
        raise InputError(f"{path}: holds no .txt files, expected one for each label with the ids of its photos")
    for file in files:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _photo_id(line, f"{file}, line {number}"), file.stem


_READERS: dict[str, Callable[[Path], Iterator[Pair]]] = {
    ".csv": lambda path: _separated(path, ","),
    ".tsv": lambda path: _separated(path, "\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
