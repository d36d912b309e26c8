"""The k-nearest-neighbour graph of a whole store: each photo's neighbours, block by block, to be continued at will."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.index.filter import Filter
from engine.index.result import SearchResult
from engine.index.searcher import Searcher
from engine.index.spec import SearchSpec
from engine.jobs import graph_files, graph_record
from engine.jobs.finite import check_finite
from engine.progress import Progress, silent
from engine.store.durable import disk_errors

BLOCK_LINES, BLOCK_NEIGHBORS, BLOCK_BYTES = 1024, 1 << 20, 64 << 20


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """What a graph is, and what was done for it.

    photos: lines, one for each photo that is not removed. neighbors: in all lines together; absent: how many fewer
    than k a line, since there are no more photos or none was found. resumed: lines that an interrupted run had
    written. reused: the graph was there already.
    """

    out: Path
    layer: str
    metric: str
    k: int
    probes: int | None
    rerank: int | None
    exact: bool
    photos: int
    neighbors: int
    absent: int
    resumed: int
    reused: bool
    bytes: int
    seconds: float


def neighbor_graph(
    searcher: Searcher, spec: SearchSpec, out: Path, *, device: str, progress: Progress = silent
) -> GraphReport:
    """The k nearest of each photo of the store, itself left out; removed photos are in no line and are no line.

    out: a folder, which gets `neighbors.npy` (n, k) int64 photo ids, `scores.npy` (n, k) float32, best first, absent
    = −1 and −inf, `photo_ids.npy` (n,) int64, whose line i is, in order of the store's rows, and `graph.json`; or
    FILE.npy, the neighbours alone; or FILE.parquet: photo_id, rank, neighbor, score; with FILE.npy.json beside it.
    device: cpu or cuda, which a run must not change, as scores may differ in their last bits.

    Blocks are collected in `OUT.part` and all get their name in one step. The same call goes on with those that are
    there, and a whole graph is read against its checksums. Memory is bounded by one block. InputError for a place in
    the store, and where another graph or something else is; StoreError names the photo of a damaged row, or a damaged
    file of the graph; DiskFullError.
    """
    started = time.perf_counter()
    store = searcher.store
    graph_record.check_place(out, store.path)
    if not store.photos:
        raise InputError(f"{store.path}: holds no photos, so there is no graph")
    job = _job(searcher, spec, device, out)
    resumed = 0
    if out.exists():
        progress("look at what is there", 0, 0)
    absent = graph_record.finished(out, job)
    reused = absent is not None
    if absent is None:
        with disk_errors(out.parent):
            files = graph_files.GraphFiles(out, job, (store.photos, spec.k), job["lines_together"])
            try:
                resumed = _fill(files, searcher, spec, progress)
                progress("write the graph", 0, 0)
                files.finish(store.photo_ids[store.present_rows])
                absent = files.absent
            finally:
                files.close()
    return GraphReport(
        out=out, **{name: job[name] for name in ("layer", "metric", "k", "probes", "rerank", "exact")},
        photos=store.photos, neighbors=store.photos * spec.k - absent, absent=absent, resumed=resumed, reused=reused,
        bytes=sum(file.stat().st_size for file in ([out] if out.is_file() else out.iterdir())),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _job(searcher: Searcher, spec: SearchSpec, device: str, out: Path) -> dict[str, Any]:
    """What the graph depends on: only a run that means the same may go on with the blocks of another."""
    store, index = searcher.store, searcher.index
    probes, rerank = index.settings(spec, Filter.of_store(store)) if index else (None, None)
    dim = store.layer(searcher.layer).shape[1]
    removed = store.manifest.removed
    return {
        "layer": searcher.layer,
        "metric": searcher.metric,
        "k": spec.k,
        "exact": index is None,
        "probes": probes,
        "rerank": rerank,
        "store": store.manifest.state,
        "removed": removed.xxh3 if removed else None,
        "index": index.manifest.digest if index else None,
        "device": device,
        "kind": out.suffix.lower() if out.suffix.lower() in graph_record.FILES else "folder",
        "lines_together": max(min(BLOCK_LINES, BLOCK_NEIGHBORS // spec.k, BLOCK_BYTES // (4 * dim)), 1),
    }


def _fill(files: graph_files.GraphFiles, searcher: Searcher, spec: SearchSpec, progress: Progress) -> int:
    """Write the blocks that are not there; how many lines were."""
    if files.whole:
        return files.shape[0]
    found = files.found(progress)
    wanted = [block for block in range(files.blocks) if block not in found]
    lines = [files.lines(block) for block in wanted]
    total, done = sum(part.stop - part.start for part in lines), 0
    for block, part in zip(wanted, lines, strict=True):
        progress("graph", done, total, unit="photos")
        files.write(block, _block(searcher, searcher.store.present_rows[part], spec))
        done += part.stop - part.start
    progress("graph", done, total, unit="photos")
    return int(files.shape[0] - total)


def _block(searcher: Searcher, rows: npt.NDArray[np.int64], spec: SearchSpec) -> SearchResult:
    store = searcher.store
    ids, vectors = store.photo_ids[rows], store.layer(searcher.layer)[rows]
    check_finite(store, searcher.layer, ids, vectors)
    found = searcher.search(vectors, spec, exclude=ids)
    past = (found.photo_ids >= 0) & ~np.isfinite(found.scores)
    if past.any():
        raise InputError(
            f"photo {ids[int(past.any(axis=1).argmax())]}: scores by {searcher.metric} past the range of float32. "
            "Scale the vectors, or use an index by cosine."
        )
    return found
