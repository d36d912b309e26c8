"""The last part of writing a store: its small files, and the steps that make everything valid at once."""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from engine.errors import StoreError
from engine.store import commit, npy
from engine.store.durable import PART, part_of
from engine.store.manifest import Manifest, QuerySet, digest

IDS = "photo_ids"
QUARANTINE = "quarantine.jsonl"
_QUERY_FILES = ("queries", "neighbors", "distances")
_PIECE = 1 << 20


def write_part(path: Path, data: bytes) -> None:
    """Write and flush the part of a small file."""
    with part_of(path).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def quarantine_damage(store: Path, manifest: Manifest) -> str:
    """Why `quarantine.jsonl` is not what the manifest's checksum is of; nothing, when it is. In bounded memory."""
    found = xxhash.xxh3_64()
    try:
        with (store / QUARANTINE).open("rb") as file:
            while data := file.read(_PIECE):
                found.update(data)
    except FileNotFoundError:
        return "is absent"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if found.hexdigest() == manifest.quarantine_xxh3 else "does not match its checksum"


def check_quarantine(store: Path, manifest: Manifest) -> None:
    """StoreError when `quarantine.jsonl` is damaged: who writes it anew would give the damage a checksum."""
    if problem := quarantine_damage(store, manifest):
        raise StoreError(
            f"{store / QUARANTINE}: {problem}. Nothing was changed. Restore it, or start it anew with "
            f"`mirsearch verify {shlex.quote(str(store))} --repair`, then run this again."
        )


def quarantine_lines(store: Path, base: Manifest | None, new: Sequence[bytes]) -> list[bytes]:
    """The lines of `quarantine.jsonl` that were there, and the new ones. StoreError when the file is damaged."""
    before: list[bytes] = []
    if base:
        check_quarantine(store, base)
        before = (store / QUARANTINE).read_bytes().splitlines(keepends=True)
    return list(dict.fromkeys([*before, *new]))


def query_set(
    store: Path, layer: str, arrays: Mapping[str, npt.NDArray[Any]], metric: str, header_bytes: int
) -> QuerySet:
    """Write the parts of queries, neighbors and distances, as far as they are given; state is yet to be filled in."""
    files = {kind: f"{kind}-{layer}.npy" for kind in arrays}
    sums = {}
    for kind, array in arrays.items():
        data = np.ascontiguousarray(array)
        sums[files[kind]] = digest(data)
        write_part(store / files[kind], npy.header(data.shape, data.dtype.str, header_bytes) + data.tobytes())
    count, k = arrays["neighbors"].shape
    return QuerySet.model_validate({"count": count, "k": k, "metric": metric, "state": "0" * 16, "xxh3": sums, **files})


def steps(manifest: Manifest, query_sets: Mapping[str, QuerySet], *, grown: bool, in_order: bool) -> list[commit.Step]:
    """What makes the parts of a store valid, the manifest last.

    grown: the row files were there and hold the new rows already. in_order: the rows came in their order; else they
    stand in `NAME.sorted.part`.
    """
    found: list[commit.Step] = []
    for name, layer in manifest.layers.items():
        if grown:
            header = manifest.header_bytes
            found.append(commit.Header(file=layer.file, rows=manifest.rows, dim=layer.dim, header_bytes=header))
        else:
            found.append(_rename(name, in_order=in_order))
    found.append(_rename(IDS, in_order=in_order))
    for known in query_sets.values():
        files = (known.queries, known.neighbors, known.distances)
        found += [commit.Rename(file=file) for file in files if file]
    found += [commit.Rename(file=QUARANTINE), commit.Rename(file="manifest.json")]
    unordered = [] if in_order else [*manifest.layers, IDS]
    return [*found, *(commit.Delete(file=f"{name}.npy{PART}") for name in unordered)]


def _rename(name: str, *, in_order: bool) -> commit.Rename:
    return commit.Rename(file=f"{name}.npy", part=None if in_order else f"{name}.sorted{PART}")


def leftovers(store: Path, layers: Iterable[str]) -> list[Path]:
    """Everything that a writer may have left aside."""
    parts = [part_of(store / file) for file in (QUARANTINE, "manifest.json", commit.NAME)]
    for name in (*layers, IDS):
        parts += [part_of(store / f"{name}.npy"), store / f"{name}.sorted{PART}"]
        parts += [part_of(store / f"{kind}-{name}.npy") for kind in _QUERY_FILES]
    return parts
