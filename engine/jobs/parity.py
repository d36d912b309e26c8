"""Do the devices of this machine give the same answers? Kernels, search, filters and exact search, side by side.

A few thousand rows of the sample's model are put into a temporary store. Every kernel is compared with the reference.
An index is built on each device and its file opened on all of them; the answers of one are held against those of
another, ties treated fairly: an answer counts when its exact score is at least the other's last one, less a tolerance.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from engine.errors import DependencyError
from engine.index import ivfpq
from engine.index.build import build_index
from engine.index.exact import exact_search
from engine.index.filter import Filter
from engine.index.manifest import read_index_manifest
from engine.index.opening import open_codes, open_reduction
from engine.index.result import SearchResult
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.jobs.parity_kernels import Check, Pair, kernels_agree
from engine.progress import Progress, silent
from engine.store.dat import LAYERS
from engine.store.store import Store
from engine.store.synth import features
from engine.store.writer import StoreWriter
from kernels import Device, Kernels, load
from kernels.device import cupy_gpus

ROWS, QUERIES, KERNEL_ROWS, BLOCK, K = 4_000, 200, 120, 500, 10
# Cosines are sums in float64 rounded to float32; the exact ones here are taken in float64 throughout.
SCORE_TOLERANCE: Final = 1e-6
# Of the answers of an index: lookup tables differ in their last bits, so a candidate at the border may.
ANSWERS_ALLOWED, RECALL_ALLOWED = 0.005, 0.1
# 8-bit codes, which both devices open; few of them, since FAISS takes a second for the codebook of each on two cores.
SPEC: Final = {"pq_bits": 8, "reduced": 64, "pq_m": 16, "lists": 64, "training_rows": 1024}
FILTERS: Final = {"every third photo": 3, "every fiftieth photo": 50}
SEARCHED: Final = tuple(LAYERS)
CPU: Final = Device(kind="cpu", why="parity")


@dataclass(frozen=True, kw_only=True)
class Side:
    """Something that answers: its name, the device that FAISS runs on, its kernels. builds: an index of its own."""

    name: str
    device: Device
    kernels: Kernels
    builds: bool = True

    def chosen(self) -> "Side":
        """The same, with its GPU the one that the kernels run on from now on."""
        if self.device.gpus:
            getattr(self.kernels, "use_gpu")(self.device.gpus[0])  # noqa: B009 - CUDA's kernels alone have it
        return self


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What was compared. devices: that took part. note: what was not there. rows: of the sample."""

    devices: list[str]
    note: str
    rows: int
    checks: list[Check]
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every check does."""
        return all(check.agrees for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; an infinite difference is null."""
        return {
            "agrees": self.agrees, "devices": self.devices, "note": self.note, "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "tolerance": {"score": SCORE_TOLERANCE, "answers": ANSWERS_ALLOWED, "recall": RECALL_ALLOWED},
            "checks": [
                asdict(check) | {"agrees": check.agrees, "worst": check.worst if np.isfinite(check.worst) else None}
                for check in self.checks
            ],
        }  # fmt: skip

    @property
    def differing(self) -> list[Check]:
        """The checks that do not agree."""
        return [check for check in self.checks if not check.agrees]


def sides_here() -> tuple[list[Side], str]:
    """What this machine has, the most trusted first: the reference, the CPU, each GPU. And what it has not."""
    sides, notes = [Side(name="reference", device=CPU, kernels=load("reference"), builds=False)], []
    try:
        sides.append(Side(name="cpu", device=CPU, kernels=load(CPU)))
    except ImportError as error:  # a GPU host may be without Numba
        notes.append(f"no kernels for the CPU here ({error}): the reference stands for them")
    gpus, problem = cupy_gpus()
    count = 0 if problem else min(gpus, ivfpq.gpu_count()[0])
    for number in range(count):
        device = Device(kind="cuda", gpus=(number,), why="parity")
        sides.append(Side(name=str(device), device=device, kernels=load(device)))
    if not count:
        notes.append(f"no GPU was there ({problem or ivfpq.gpu_count()[1]}): the CPU was compared with the reference")
    if len(sides) == 1:
        raise DependencyError("parity: neither Numba nor a GPU is here. pip install 'mirsearch[cpu]'")
    return sides, "; ".join(notes)


def check_parity(
    sides: Sequence[Side] | None = None, *, rows: int = ROWS, note: str = "", progress: Progress = silent
) -> ParityReport:
    """Compare the sides, those of this machine unless given, the first of which is believed.

    Takes about a minute at most and a few hundred megabytes; what it writes is in the temporary folder and removed.
    DependencyError without FAISS.
    """
    started = time.perf_counter()
    if sides is None:
        sides, note = sides_here()
    checks: list[Check] = []
    sample, _ = features(0, KERNEL_ROWS, seed=0)
    for side in sides[1:]:
        progress("kernels", 0, 0, unit="checks", detail=side.name)
        pair = Pair(ours=side.chosen().kernels, oracle=sides[0].kernels, device=side.name, against=sides[0].name)
        checks += kernels_agree(pair, sample)
    with tempfile.TemporaryDirectory(prefix="mirsearch-parity-") as folder:
        store = _sample_store(Path(folder) / "store", rows)
        for layer in SEARCHED:
            checks += _Layer(store, layer, sides, progress).checks()
    return ParityReport(
        devices=[side.name for side in sides], note=note, rows=rows, checks=checks,
        seconds=time.perf_counter() - started,
    )  # fmt: skip


def _sample_store(path: Path, rows: int) -> Store:
    with StoreWriter(path, LAYERS) as writer:
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            fc7, fc8 = features(start, count, seed=0)
            ids = np.arange(start, start + count, dtype=np.int64)
            writer.write(writer.reserve(count), ids, {"fc7": fc7, "fc8": fc8})
        writer.finish(["rows of the sample's model, for a comparison of devices"])
    return Store.open(path)


class _Layer:
    """The searches of one layer by all sides."""

    def __init__(self, store: Store, layer: str, sides: Sequence[Side], progress: Progress) -> None:
        self.store, self.layer, self.sides, self.progress = store, layer, sides, progress
        data = np.asarray(store.layer(layer))
        self.queries = np.ascontiguousarray(data[:: max(len(data) // QUERIES, 1)])
        wide, asked = data.astype(np.float64), self.queries.astype(np.float64)
        lengths = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
        # (q, n) float64: no kernel takes part in what is held to be true.
        self.true = np.divide(asked @ wide.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        self.filters = {name: Filter.of_ids(store, within=store.photo_ids[::step]) for name, step in FILTERS.items()}

    def checks(self) -> Iterator[Check]:
        """All of them, exact search first."""
        for side in self.sides[1:]:
            self._say(f"exact search on {side.name}")
            yield from self._exact(side.chosen())
        for builder in self.sides:
            if builder.builds:
                self._say(f"build on {builder.name}")
                spec = IndexSpec.model_validate({"layer": self.layer} | SPEC)
                path = build_index(self.store, spec, device=builder.chosen().device, name=self.layer, force=True).path
                yield from self._index(path, builder)

    def _say(self, what: str) -> None:
        self.progress("parity", 0, 0, unit="checks", detail=f"{self.layer}, {what}")

    def _exact(self, side: Side) -> Iterator[Check]:
        for name, within in {"": None, **self.filters}.items():
            found = exact_search(
                self.store, self.layer, self.queries, K, metric="cosine", kernels=side.kernels, within=within
            )
            truth = self._best(within)
            what = f"{self.layer} exact search{f' in {name}' if name else ''}"
            yield from self._compare(what, (side.name, found), ("float64", truth), within, allowed=0)

    def _index(self, path: Path, builder: Side) -> Iterator[Check]:
        """The index of one side, opened by all: each is held against the one before it."""
        answers: list[tuple[str, dict[str, SearchResult]]] = []
        for side in self.sides:
            self._say(f"the index of {builder.name} on {side.name}")
            answers.append((side.name, self._ask(_opened(path, self.store, side.chosen()))))
        for (before, expected), (name, found) in pairwise(answers):
            for question, within in {"": None, **self.filters}.items():
                what = f"{self.layer} index of {builder.name}{f' in {question}' if question else ''}"
                one, other = (name, found[question]), (before, expected[question])
                yield from self._compare(what, one, other, within, allowed=ANSWERS_ALLOWED)
        good = self._of(answers[-1][1][""].photo_ids) >= self._kth(self._best(None)) - SCORE_TOLERANCE
        pair = Pair(ours=builder.kernels, oracle=builder.kernels, device=builder.name, against="float64")
        lost = np.where(good, 0.0, 1.0)
        yield pair.check(f"{self.layer} recall@10 of the index", lost, SCORE_TOLERANCE, allowed=RECALL_ALLOWED)

    def _ask(self, index: Index) -> dict[str, SearchResult]:
        return {
            name: index.search(self.queries, SearchSpec(k=K), within=within)
            for name, within in {"": None, **self.filters}.items()
        }

    def _compare(
        self, what: str, one: tuple[str, SearchResult], other: tuple[str, SearchResult], within: Filter | None,
        *, allowed: float,
    ) -> Iterator[Check]:  # fmt: skip
        (name, found), (against, expected) = one, other
        pair = Pair(ours=load("reference"), oracle=load("reference"), device=name, against=against)
        mine, theirs = self._of(found.photo_ids, within), self._of(expected.photo_ids, within)
        behind = np.concatenate([_behind(mine, theirs), _behind(theirs, mine)])
        yield pair.check(what, behind, SCORE_TOLERANCE, allowed=allowed)
        here = found.photo_ids >= 0
        yield pair.check(f"{what}: scores", (found.scores - self._of(found.photo_ids))[here], SCORE_TOLERANCE)

    def _of(self, ids: npt.NDArray[np.int64], within: Filter | None = None) -> npt.NDArray[np.float64]:
        """Exact scores (q, k) of answers; −inf for what is absent, named twice, or not in the filter."""
        rows = np.where(ids >= 0, ids, 0)  # photo ids of this store are its row numbers
        scores = np.take_along_axis(self.true, rows, axis=1)
        again = np.tril(ids[:, :, None] == ids[:, None, :], k=-1).any(axis=2)
        foreign = np.zeros_like(again) if within is None else ~within.mask[rows]
        return np.asarray(np.where((ids < 0) | again | foreign, -np.inf, scores))

    def _best(self, within: Filter | None) -> SearchResult:
        true = self.true if within is None else np.where(within.mask, self.true, -np.inf)
        best = np.argsort(-true, axis=1, kind="stable")[:, :K]
        return SearchResult(photo_ids=best, scores=np.take_along_axis(true, best, axis=1).astype(np.float32))

    def _kth(self, result: SearchResult) -> npt.NDArray[np.float64]:
        return np.asarray(self._of(result.photo_ids).min(axis=1, keepdims=True))


def _behind(mine: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far each exact score (q, k) lies below the other's last one: 0 where it is as good."""
    last = theirs.min(axis=1, keepdims=True)
    return np.asarray(np.where(mine >= last, 0.0, np.where(np.isinf(mine), np.inf, last - mine)))


def _opened(path: Path, store: Store, side: Side) -> Index:
    """An index as this side reads it, whatever kernels its device has elsewhere."""
    manifest = read_index_manifest(path)
    kernels: Any = side.kernels
    codes: Callable[[str], Any] = lambda name: open_codes(path, name, manifest, kernels)  # noqa: E731
    return Index(
        path=path, store=store, manifest=manifest, device=side.device, kernels=kernels,
        reduction=open_reduction(path, manifest, kernels), sketch=codes("sketch"), refine=codes("refine"),
        shards=ivfpq.load_all([path / shard.file for shard in manifest.shards], side.device),
    )  # fmt: skip
