"""Writing a layer of a store in the formats of the field, with photo ids, queries and ground truth beside it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.jobs.export_truth import Questions, TruthWish, choose_questions, held_out
from engine.progress import Progress, silent
from engine.store.formats import texmex
from engine.store.formats.by_suffix import HDF5, aside, known, size_of, write_vectors
from engine.store.formats.from_store import stored_vectors
from engine.store.formats.ids import SUFFIXES as ID_SUFFIXES
from engine.store.formats.ids import write_ids
from engine.store.formats.room import check_room
from engine.store.outside import check_outside
from engine.store.store import Store
from kernels import Device, Metric


@dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """What to write where. Photos that are removed are left out; rows keep the order of the store.

    out: the vectors, in the format of its suffix. ids: their photo ids (.npy, .txt, .ivecs). query_file and truth
    (.ivecs): queries, and the rows of `out` that are their nearest neighbours; a `.hdf5` holds both.
    The queries are those that were imported with the layer; or, where there are none or `queries` says how many,
    photos chosen by the seed and left out of `out`. metric: of the truth, else that of the imported queries, else
    cosine. k: neighbours of the truth, else as many as were imported, else 100.
    """

    layer: str
    out: Path
    ids: Path | None = None
    query_file: Path | None = None
    truth: Path | None = None
    queries: int | None = None
    k: int | None = None
    metric: Metric | None = None
    seed: int = 0

    @property
    def wants_questions(self) -> bool:
        """Whether queries and their truth are to be written."""
        return self.out.suffix.lower() in HDF5 or self.query_file is not None or self.truth is not None


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote. rows: vectors in the first file. source: where the queries come from, "" for none."""

    files: list[Path]
    layer: str
    rows: int
    dim: int
    bytes: int
    queries: int
    k: int
    metric: str
    source: str
    seconds: float


def export(store: Store, spec: ExportSpec, *, device: Device | None, progress: Progress = silent) -> ExportReport:
    """Write a layer, its rows read against their checksums; each file is whole or not there at all.

    A file that is there is replaced when the new one is whole. device: where the truth is computed; None where none
    is asked for.

    InputError for a format that is not known or cannot hold the numbers, for no photos, and for queries that nothing
    would keep.
    """
    begun = time.perf_counter()
    data = store.layer(spec.layer)
    _check_files(spec, store)
    if not store.photos:
        raise InputError(f"{store.path}: holds no photos, there is nothing to export")
    least = store.photos - (held_out(spec.queries, store.photos) if spec.wants_questions else 0)
    check_room(spec.out, size_of(spec.out, (max(least, 0), data.shape[1])))
    rows, asked = store.present_rows, None
    if spec.wants_questions:
        if device is None:
            raise AssertionError("the truth is computed on a device")
        wish = TruthWish(queries=spec.queries, k=spec.k, metric=spec.metric, seed=spec.seed)
        asked = choose_questions(store, spec.layer, wish, device=device, progress=progress)
        rows = asked.rows
    ids, dim = store.photo_ids[rows], data.shape[1]
    # The vectors first: with them every row is read against its checksum, those of the queries and their truth too.
    write_vectors(
        spec.out, spec.layer, _blocks(store, spec.layer, rows, progress), photo_ids=ids, dim=dim,
        queries=asked.found if asked is not None else None,
    )  # fmt: skip
    if spec.ids is not None:
        with aside(spec.ids) as part:
            write_ids(part, spec.ids.suffix.lower(), ids)
    if asked is not None:
        _write_questions(spec, asked)
    files = [file for file in (spec.out, spec.ids, spec.query_file, spec.truth) if file is not None]
    count, k = asked.found.neighbors.shape if asked is not None else (0, 0)
    return ExportReport(
        files=files, layer=spec.layer, rows=len(rows), dim=dim, bytes=sum(file.stat().st_size for file in files),
        queries=count, k=k, metric=asked.found.metric if asked else "", source=asked.source if asked else "",
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def _check_files(spec: ExportSpec, store: Store) -> None:
    """InputError for names that cannot be written to, before anything is computed."""
    known(spec.out)
    expected: list[tuple[str, Path | None, Sequence[str]]] = [
        ("--ids", spec.ids, ID_SUFFIXES), ("--truth", spec.truth, (".ivecs",)),
    ]  # fmt: skip
    for option, file, suffixes in expected:
        if file is not None and file.suffix.lower() not in suffixes:
            raise InputError(f"{option} {file}: expected a file that ends in {' or '.join(suffixes)}")
    if spec.query_file is not None and known(spec.query_file) in HDF5:
        raise InputError(f"--query-file {spec.query_file}: expected a format of vectors alone, such as .fvecs")
    files = [file for file in (spec.out, spec.ids, spec.truth, spec.query_file) if file is not None]
    for number, file in enumerate(files):
        if file.absolute() in [other.absolute() for other in files[:number]]:
            raise InputError(f"{file}: is named for two things. Choose another file for one of them.")
        check_outside(store.path, file)
        if file.is_dir():
            raise InputError(f"{file}: is a folder, expected a file")
    if not spec.wants_questions and (spec.queries or spec.k or spec.metric):
        option = "--queries" if spec.queries else "-k" if spec.k else "--metric"
        raise InputError(
            f"{option}: {spec.out} holds vectors alone. Give --query-file and --truth, or a name that ends in .hdf5."
        )


def _blocks(
    store: Store, layer: str, rows: npt.NDArray[np.int64], progress: Progress
) -> Iterator[npt.NDArray[np.float32]]:
    done = 0
    for block in stored_vectors(store, layer, rows).blocks():
        yield block
        done += len(block)
        progress("export", done, len(rows))


def _write_questions(spec: ExportSpec, asked: Questions) -> None:
    found = asked.found
    if spec.query_file is not None:
        count, dim = found.queries.shape
        # Queries that came from elsewhere have no photo ids; those of the store have theirs.
        ids = np.arange(count) if asked.photo_ids is None else asked.photo_ids
        write_vectors(spec.query_file, spec.layer, [found.queries], photo_ids=ids, dim=dim)
    if spec.truth is not None:
        with aside(spec.truth) as part, part.open("wb") as file:
            texmex.write_ivecs(file, found.neighbors)
