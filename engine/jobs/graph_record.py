"""What a graph says of itself: the job it is of, and the checksums of its files; what else is there is left alone."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InputError, StoreError
from engine.index.parts import sum_file
from engine.store.durable import part_of
from engine.store.manifest import read_document
from engine.store.outside import check_outside

DOCUMENT, NEIGHBORS = "graph.json", "neighbors.npy"
PARQUET = "graph.parquet"  # while it is in the making
FILES = (".npy", ".parquet")  # what is one file; all else is a folder
FORMAT_VERSION = 2
ANOTHER = "Choose another place with --out, or remove this one."


def check_place(out: Path, store: Path) -> None:
    """InputError for a place in the store's folder, and for a file's name of no kind that a graph can have."""
    check_outside(store, out)
    if out.suffix and out.suffix.lower() not in FILES and not out.is_dir():
        raise InputError(
            f"--out {out}: ends in {out.suffix}, expected a name that ends in .npy or .parquet, or a folder's "
            "name without a suffix"
        )


def record_of(out: Path) -> Path:
    """What says of which graph `out` is: `graph.json` in a folder, `FILE.npy.json` beside a file."""
    return out.with_name(f"{out.name}.json") if out.suffix.lower() in FILES else out / DOCUMENT


def finished(out: Path, job: Mapping[str, Any]) -> int | None:
    """How many neighbours are absent in `out`, if it is this very graph, whole; None when there is nothing yet.

    All its bytes are read against their checksums. InputError when it is something that must not be replaced,
    StoreError when it is damaged.
    """
    record = _record(out)
    if record is None:
        return None
    document = read_record(record)
    if document["job"] != dict(job):
        raise InputError(f"{out}: holds {how_it_differs(document['job'], job)}. {ANOTHER}")
    check_files(document, {name: out if record.parent != out else out / name for name in document["files"]}, out)
    return int(document["absent"]) if record == record_of(out) else None


def _record(out: Path) -> Path | None:
    """The record of a graph that is there, the one in `OUT.part` where only it lacks its name; None for none."""
    record = record_of(out)
    if out.suffix.lower() not in FILES:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
        if not record.is_file():
            raise InputError(f"{out}: is there already, and no graph. {ANOTHER}")
        return record
    if out.is_dir():
        raise InputError(f"{out}: is a folder, expected the name of a file. {ANOTHER}")
    if not os.path.lexists(out):
        if os.path.lexists(record):
            read_record(record)  # of a graph that was taken away, or somebody's file
        return None
    begun = part_of(out)
    if (begun / DOCUMENT).is_file() and not (begun / product_of(out)).exists():
        return begun / DOCUMENT
    if not record.is_file():
        raise InputError(f"{out}: is there already, and no {record.name} says of which graph it is. {ANOTHER}")
    return record


def product_of(out: Path) -> str:
    """How the file is called in `OUT.part` that gets the name of the graph, where that is a file."""
    return NEIGHBORS if out.suffix.lower() == ".npy" else PARQUET


def read_record(path: Path) -> dict[str, Any]:
    """The job, how many neighbours are absent, checksums by file. InputError when it is damaged or of another kind."""
    try:
        document = read_document(path, ANOTHER, FORMAT_VERSION, lost=ANOTHER)
    except StoreError as error:
        raise InputError(str(error)) from error
    if not isinstance(document.get("job"), dict) or not isinstance(document.get("absent"), int):
        raise InputError(f"{path}: not of a graph. {ANOTHER}")
    if not isinstance(document.get("files"), dict):
        raise InputError(f"{path}: of an older mirsearch, without checksums of the graph. {ANOTHER}")
    return document


def check_files(document: Mapping[str, Any], places: Mapping[str, Path], out: Path) -> None:
    """StoreError unless each file is what the record's checksum is of."""
    for name, path in places.items():
        try:
            problem = "" if sum_file(path).model_dump() == document["files"][name] else "does not match its checksum"
        except OSError as error:
            problem = "is absent" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        if problem:
            raise StoreError(f"{path}: {problem}. Remove {out} and run the same command again.")


def how_it_differs(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What another job is, by the first thing in which it differs."""
    name = next((name for name in wanted if known.get(name) != wanted[name]), "settings")
    return f"a graph of another {name} ({known.get(name)}, this one: {wanted.get(name)})"
