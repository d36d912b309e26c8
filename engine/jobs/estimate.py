"""What a collection will take before any work is done: disk, memory, GPU memory, time. Each figure says its formula.

Sizes are arithmetic on the formats. Memory is arithmetic on what is held at once, and a process of its own. Times are
counts of operations by what `engine.jobs.calibrate` measured of this machine just now: on a machine that others use at
the same time they are as uncertain as that. The default specification is assumed, and what is read in the page cache,
but where the figure says otherwise.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from engine.errors import InputError
from engine.index.asked import kept
from engine.index.build import BLOCK_BYTES, BLOCK_ROWS
from engine.index.reduce import rows_wanted
from engine.index.sizes import index_bytes, total_bytes
from engine.index.spec import IndexSpec, default_probes, default_rerank
from engine.jobs.calibrate import FILE_BYTES, Machine
from engine.store.store import Store
from kernels.device import cpu_threads
from kernels.principal import columns

KNOWN = {"fc7": 4096, "fc8": 1000}
TRUTH_QUERIES, TRUTH_K = 1000, 100
MIB = 1 << 20
# Resident sets of whole commands on stores of 10,000 and 20,000 photos, less what the formulas count.
INGEST_PROCESS, BUILD_PROCESS, QUERY_PROCESS = 175 * MIB, 205 * MIB, 190 * MIB
INGEST_PHOTO = 100  # bytes of names and ids: benchmarks/results/ingest_scale.md
SQUARE = 12  # bytes for each of the dim² products: three matrices of float32
SAMPLES = 2  # copies of the reduced sample that are held at once
COARSE_ROUNDS = 10  # of k-means over the lists (faiss/IndexIVF.cpp, Level1Quantizer)
# Of the speed of large products: all eigenvectors, which read the matrix again and again; the leading ones alone;
# products of blocks of rows that come from a map; k-means; codes of rows and the search for their lists. Of the speed
# of copies: reading all rows against their checksums; rows here and there.
# From builds of 100,000 and 1,000,000 photos: benchmarks/results/estimates-100000.md.
EIGEN_SHARE, LEADING_SHARE, BLOCK_SHARE, MEANS_SHARE, CODE_SHARE = 0.15, 0.35, 0.55, 0.7, 0.45
CHECK_SHARE, ROWS_SHARE = 0.12, 0.7
COPIES = 8  # of a row, that making its codes, or adding it to a covariance, takes as long as
STARTING = 0.3  # seconds until an ingest reads its first file
BUILD_STARTING = 1.4  # seconds until a build reads its first row: it imports FAISS, SciPy and Numba
FAULT = 64 << 10  # bytes that come into a map together (Linux, mm/memory.c, fault_around_bytes)
GPU_SCRATCH = 1 << 30

Group = Literal["disk", "memory", "GPU memory", "time"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """value: bytes, or seconds in the group `time`. made_of: how it comes about."""

    group: Group
    name: str
    value: float
    made_of: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"unit": "seconds" if self.group == "time" else "bytes"}


def collection(store: Store | None, photos: int | None, layers: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """Photos and the dimensions of the layers: of a store, or of so many photos with the layers of the home collection.

    InputError for neither or both, and for a layer that is not known.
    """
    if (store is None) == (photos is None):
        raise InputError("estimate wants a store or --photos N: give one of them")
    if store is not None:
        known = {name: layer.dim for name, layer in store.manifest.layers.items()}
        count = len(store)
    else:
        known, count = KNOWN, photos or 0
    for name in layers:
        if name not in known:
            raise InputError(f"--layers {name}: expected some of {','.join(sorted(known))}")
    if not count:
        raise InputError("no photos: there is nothing to estimate")
    return count, {name: dim for name, dim in known.items() if not layers or name in layers}


def estimate(photos: int, dims: Mapping[str, int], machine: Machine) -> list[Figure]:
    """All figures for so many photos with layers of these dimensions."""
    row = 4 * sum(dims.values())
    figures = [
        Figure(
            group="disk", name="store", value=photos * (row + 8) + 128 * (len(dims) + 1),
            made_of=f"{row:,} bytes of layers and 8 of id, for each photo",
        ),
        Figure(
            group="memory", name="ingest", value=INGEST_PROCESS + INGEST_PHOTO * photos,
            made_of=f"the process, {INGEST_PHOTO} bytes a photo",
        ),
        Figure(
            group="time", name="ingest",
            value=STARTING + photos * (machine.file_seconds / cpu_threads() + FILE_BYTES / machine.write),
            made_of=f"{machine.file_seconds * 1e6:.0f} µs to read a file, on {cpu_threads()} cores, "
            f"{FILE_BYTES / machine.write * 1e6:.0f} to write its rows",
        ),
        Figure(
            group="time", name="ingest, files not in memory",
            value=STARTING + photos * (machine.cold_file_seconds + FILE_BYTES / machine.write),
            made_of=f"{machine.cold_file_seconds * 1e6:.0f} µs to read a file from the disk, as one of many, "
            f"{FILE_BYTES / machine.write * 1e6:.0f} to write its rows",
        ),
    ]  # fmt: skip
    for layer, dim in dims.items():
        spec = IndexSpec(layer=layer).resolved(rows=photos, dim=dim, device="cpu")
        figures += [*_layer_disk(spec, photos, dim), *_layer_memory(spec, photos, dim)]
        figures += [_build_time(spec, photos, dim, machine), _query_time(spec, photos, dim, machine)]
    order = get_args(Group)
    return sorted(figures, key=lambda figure: order.index(figure.group))


def _layer_disk(spec: IndexSpec, photos: int, dim: int) -> list[Figure]:
    figures = []
    for refine in get_args(IndexSpec.model_fields["refine"].annotation) if spec.lists else ("none",):
        parts = index_bytes(spec.model_copy(update={"refine": refine}), rows=photos, dim=dim)
        made_of = (
            ", ".join(f"{name} {value / MIB:,.1f} MiB" for name, value in parts.items()) or "exact search: no parts"
        )
        figures.append(
            Figure(
                group="disk", name=f"index {spec.layer}, refine {refine}", value=sum(parts.values()), made_of=made_of
            )
        )
    queries = min(TRUTH_QUERIES, photos)
    truth = queries * (8 + 12 * min(TRUTH_K, photos - 1 or 1))
    made_of = f"{queries:,} queries, ids and scores of {TRUTH_K} neighbours"
    return [*figures, Figure(group="disk", name=f"truth {spec.layer}", value=truth, made_of=made_of)]


def _layer_memory(spec: IndexSpec, photos: int, dim: int) -> list[Figure]:
    reduced, trained = spec.reduced or 1, spec.training_rows or 0
    parts = index_bytes(spec, rows=photos, dim=dim)
    shard = parts.get("shards", 0) * min(spec.rows_per_shard / photos, 1)
    mapped = 4 * dim * photos
    touched = mapped * _touched(spec, photos, dim) if spec.lists else mapped
    size = total_bytes(spec, rows=photos, dim=dim)
    # The axes are learned first, the quantizers then; a block of rows is mapped at a time.
    learned = max(SQUARE * dim * dim, SAMPLES * 4 * reduced * trained) if spec.lists else 0
    block = min(4 * dim * BLOCK_ROWS, BLOCK_BYTES)
    return [
        Figure(
            group="memory", name=f"build {spec.layer}", value=BUILD_PROCESS + learned + shard + block,
            made_of=f"the process, {learned / MIB:,.0f} MiB to learn from {trained:,} rows, a shard of "
            f"{shard / MIB:,.0f} MiB, and {block / MIB:,.0f} MiB of rows at a time",
        ),
        Figure(
            group="memory", name=f"query {spec.layer}", value=QUERY_PROCESS + size + touched,
            made_of=f"the process, {size / MIB:,.0f} MiB of index, and of 1,000 queries {touched / MIB:,.0f} MiB of "
            "mapped rows; these and the codes the system takes back",
        ),
        Figure(
            group="GPU memory", name=f"query {spec.layer}", value=GPU_SCRATCH + size,
            made_of="scratch of FAISS, and the index; by the formats, on no GPU measured",
        ),
    ]  # fmt: skip


def _kept(spec: IndexSpec, photos: int, dim: int) -> tuple[int, int, int]:
    """Candidates of a query for ten neighbours, and how many of them are compared by codes and by raw rows."""
    rerank = default_rerank(10, photos, spec.metric)
    return rerank, *kept(10, rerank, dim if spec.refine == "uint4" else None)


def _touched(spec: IndexSpec, photos: int, dim: int) -> float:
    """The share of the raw rows that 1,000 queries map, if those that they compare lie anywhere."""
    pieces = 1000 * _kept(spec, photos, dim)[2] * (4 * dim / FAULT + 1)  # a row may begin anywhere in one
    return -math.expm1(-pieces * FAULT / (4 * dim * photos))


def _build_time(spec: IndexSpec, photos: int, dim: int, machine: Machine) -> Figure:
    reduced, lists, trained = spec.reduced or 1, spec.lists or 0, spec.training_rows or 0
    phases: dict[str, float] = {}
    if lists:
        few = min(trained, rows_wanted(dim))
        phases = {
            "start": BUILD_STARTING + 4 * dim * photos / (CHECK_SHARE * machine.copy),
            "pca": few * dim * dim / machine.flops
            + COPIES * 4 * few * dim / machine.copy
            + _axes_time(dim, reduced, machine),
            "train": 2 * trained * dim * reduced / (BLOCK_SHARE * machine.flops)
            + 2 * COARSE_ROUNDS * trained * lists * reduced / (MEANS_SHARE * machine.flops)
            + machine.codebook_seconds * (spec.pq_m or 1),
            "reduce": 2 * (photos - trained) * dim * reduced / (BLOCK_SHARE * machine.flops)
            + 4 * dim * photos / machine.copy,
            "add": 2 * photos * reduced * (lists + 16) / (CODE_SHARE * machine.flops),
            "codes": COPIES * 4 * photos * dim / machine.copy,
            "write": total_bytes(spec, rows=photos, dim=dim) / machine.write,
        }
    made_of = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items()) or "exact search: nothing to do"
    return Figure(group="time", name=f"build {spec.layer}", value=sum(phases.values()), made_of=made_of)


def _axes_time(dim: int, count: int, machine: Machine) -> float:
    """Seconds to find so many axes: a space of some times as many columns, or all eigenvectors of a small matrix."""
    if searched := columns(dim, count):
        return float(2 * dim * dim * searched + 8 * dim * searched**2) / (LEADING_SHARE * machine.flops)
    return 4 / 3 * dim**3 / (EIGEN_SHARE * machine.flops)


def _query_time(spec: IndexSpec, photos: int, dim: int, machine: Machine) -> Figure:
    reduced, lists = spec.reduced or 1, spec.lists or 0
    name = f"1,000 queries {spec.layer}"
    if not lists:
        seconds = 1000 * 2 * photos * dim / machine.flops
        return Figure(group="time", name=name, value=seconds, made_of="a product of queries and rows, in batch")
    rerank, kept, compared = _kept(spec, photos, dim)
    probes = default_probes(lists, spec.metric)
    product = 2 * reduced * (lists + dim) / machine.flops
    scan = probes * photos / lists * (spec.pq_m or 1) * (spec.pq_bits or 4) / 8 / machine.copy
    again = (rerank * reduced + kept * dim / 2 + compared * 4 * dim) / (ROWS_SHARE * machine.copy)
    made_of = (
        f"in batch, at the defaults: {product * 1e6:.0f} µs a query for products, {scan * 1e6:.0f} for {probes} lists, "
        f"{again * 1e6:.0f} for {rerank} candidates"
    )
    return Figure(group="time", name=name, value=1000 * (product + scan + again), made_of=made_of)


def where(store: Path | None) -> Path:
    """The folder whose disk is measured: the store's, or the current one; the temporary one if that is read-only."""
    wanted = store or Path()
    for folder in (wanted, Path(tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return wanted
