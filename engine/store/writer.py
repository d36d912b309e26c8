"""Writing a store: blocks of rows at their place, checksums beside, everything made valid in one step at the end."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.progress import Progress, silent
from engine.store import commit, journal, npy, publish
from engine.store.arrays import Arrays, Written
from engine.store.claim import Claim
from engine.store.durable import disk_errors
from engine.store.manifest import Layer, Manifest, QuerySet, digest, document_bytes, read_manifest, row_state
from engine.version import VERSION
from kernels.device import cpu_threads


@dataclass(frozen=True)
class Place:
    """Room for a block: its number and its first row."""

    block: int
    start: int


class StoreWriter:
    """A store in the making, or one that grows.

    Blocks are reserved in order (`reserve`) and may then be written from any thread (`write`): their bytes, and so
    the whole store, do not depend on who wrote when. Nothing that can be opened changes before `finish`. Leaving the
    `with` without it keeps the blocks that have a key, and the next writer of the same store has them in `found`;
    without any, nothing is left.

    append: a store that is there gets new rows at its end; else it is an error that there is one.
    """

    def __init__(
        self, path: Path, layers: Mapping[str, int], *, append: bool = False, progress: Progress = silent
    ) -> None:
        self.path = path
        self.dims = dict(layers)
        self.append = append
        self.base: Manifest | None = None
        self.rows = self.resumed = 0
        self.found: dict[str, Written] = {}
        self.marks: dict[str, dict[str, Any]] = {}
        self._progress = progress
        self._blocks: list[Written | None] = []
        self._starts: list[int] = []
        self._quarantine: list[bytes] = []
        self._query_sets: dict[str, QuerySet] = {}
        self._sorted = self._done = self._discarded = self._keyed = False

    def __enter__(self) -> Self:
        """Take the folder for this process alone, open the files, and see what an interrupted run left."""
        with disk_errors(self.path), ExitStack() as taken:
            self._claim = Claim(self.path, self.dims, append=self.append)
            taken.callback(self._claim.release)
            self.base = self._claim.base
            self.rows = self.base.rows if self.base else 0
            self._journal = journal.Journal(self.path, self._job())
            taken.callback(self._journal.close)
            self._arrays = Arrays(self.path, self.dims, self.base)
            taken.callback(self._arrays.close)
            self._find()
            self._taken = taken.pop_all()
        return self

    def _job(self) -> dict[str, Any]:
        """What a journal is of: only a run that means the same may go on with it."""
        return {"layers": self.dims, "base": self.base.state if self.base else ""}

    def _find(self) -> None:
        """Read every block of the journal against its checksums: what matches need not be written again."""
        blocks = {line["key"]: line for line in self._journal.entries if isinstance(line.get("key"), str)}
        self.marks = {line["mark"]: line for line in self._journal.entries if isinstance(line.get("mark"), str)}
        with ThreadPoolExecutor(cpu_threads()) as pool:
            for done, (key, line) in enumerate(zip(blocks, pool.map(self._intact, blocks.values()), strict=True), 1):
                self._progress("look at what is there", done, len(blocks), unit="blocks")
                if line:
                    self.found[key] = line

    def _intact(self, line: Mapping[str, Any]) -> Written | None:
        try:
            found = Written(start=line["start"], rows=line["rows"], sums=dict(line["sums"]), refused=line["refused"])
            return found if self._arrays.has(found) else None
        except (KeyError, TypeError, ValueError):  # a line of another program, its checksum right
            return None

    def reserve(self, rows: int) -> Place:
        """Take the next `rows` rows. Call in the order of the rows."""
        place = Place(len(self._blocks), self.rows)
        self._blocks.append(None)
        self._starts.append(self.rows)
        self.rows += rows
        return place

    @property
    def written(self) -> int:
        """How many new rows are on the disk."""
        return sum(block.rows for block in self._blocks if block)

    def keep(self, written: Written) -> None:
        """Take over the next block as an interrupted run left it, which `found` says. Call in the order of the rows."""
        if written.start != self.rows:
            raise AssertionError(f"block at row {written.start}, expected {self.rows}")
        self._blocks.append(written)
        self._starts.append(self.rows)
        self.rows += written.rows
        self.resumed += written.rows

    def rewind(self, rows: int) -> None:
        """Take back the blocks from row `rows` on, where one of them began. Call when no other is being written."""
        while self.rows > rows:
            self.rows = self._starts.pop()
            self._blocks.pop()

    def write(
        self,
        place: Place,
        photo_ids: npt.NDArray[np.int64],
        layers: Mapping[str, npt.NDArray[np.float32]],
        *,
        key: str = "",
        refused: Sequence[Any] = (),
    ) -> None:
        """Write one reserved block: ids (r,) int64 and each layer (r, dim) float32, C order.

        key: the name under which `found` has the block when the job is interrupted, with what was refused beside it.
        """
        sums = self._arrays.write(place.start, photo_ids, layers)
        self._blocks[place.block] = Written(start=place.start, rows=len(photo_ids), sums=sums)
        if key:
            line = {"key": key, "start": place.start, "rows": len(photo_ids), "sums": sums, "refused": list(refused)}
            self._journal.add(line)
            self._keyed = True

    def mark(self, name: str, facts: Mapping[str, Any]) -> None:
        """Note that a part of the job is done, for `marks` of the next run should this one be interrupted."""
        self._journal.add({"mark": name, **facts})

    def ids(self) -> npt.NDArray[np.int64]:
        """The ids (rows,) of all rows so far, written ones and those that were there before."""
        return self._arrays.ids(self.rows)

    def row(self, layer: str, number: int) -> npt.NDArray[np.float32]:
        """One row (dim,) that was written or was there before."""
        return self._arrays.row(layer, number)

    def quarantine(self, line: bytes) -> None:
        """Add one JSON line to `quarantine.jsonl`."""
        self._quarantine.append(line)

    def discard(self) -> None:
        """Leave nothing behind when the `with` ends without `finish`."""
        self._discarded = True

    def query_set(
        self,
        layer: str,
        queries: npt.NDArray[np.float32],
        neighbors: npt.NDArray[np.int64],
        distances: npt.NDArray[np.float32] | None,
        metric: str,
    ) -> None:
        """Keep queries (q, dim) of a layer with the photo ids (q, k) of their true neighbours, nearest first.

        distances: (q, k) as they were given, or None. metric: cosine, ip or l2.
        """
        arrays: dict[str, Any] = {"queries": np.asarray(queries, "<f4"), "neighbors": np.asarray(neighbors, "<i8")}
        if distances is not None:
            arrays["distances"] = np.asarray(distances, "<f4")
        with disk_errors(self.path):
            self._query_sets[layer] = publish.query_set(self.path, layer, arrays, metric, self._arrays.header_bytes)

    def sort(self) -> None:
        """Put the rows of a new store in ascending order of photo id, if they are not: one more copy of them all."""
        ids = self.ids()
        if self.base or (np.diff(ids) > 0).all():
            return
        with disk_errors(self.path):
            self._blocks = [*self._arrays.sort(ids, self._progress)]
        self._sorted = True

    def finish(self, sources: Sequence[str]) -> Manifest:
        """Flush everything and make it valid in one step. With nothing new, a store that was there stays as it is."""
        blocks = [block for block in self._blocks if block is not None]
        if len(blocks) != len(self._blocks):
            raise AssertionError("a block was reserved and never written")
        with disk_errors(self.path):
            lines = publish.quarantine_lines(self.path, self.base, self._quarantine)
            if self.base and not blocks and not self._query_sets and len(lines) == self.base.quarantined:
                self._discarded = True
                return self.base
            manifest = self._manifest(blocks, lines, sources)
            self._arrays.complete(self.rows)
            publish.write_part(self.path / publish.QUARANTINE, b"".join(lines))
            publish.write_part(self.path / "manifest.json", document_bytes(manifest.model_dump(mode="json")))
            steps = publish.steps(manifest, self._query_sets, grown=self.base is not None, in_order=not self._sorted)
            commit.commit(self.path, [*steps, commit.Delete(file=journal.NAME)])
            self._done = True
        return read_manifest(self.path)

    def _manifest(self, blocks: Sequence[Written], lines: Sequence[bytes], sources: Sequence[str]) -> Manifest:
        base, ids_sum = self.base, digest(self.ids())
        block_rows = [*(base.block_rows if base else ()), *(block.rows for block in blocks)]
        layers = {}
        for name, dim in self.dims.items():
            before = base.layers[name].xxh3 if base else []
            layers[name] = Layer(file=f"{name}.npy", dim=dim, xxh3=[*before, *(block.sums[name] for block in blocks)])
        state = row_state(ids_sum, block_rows, layers) if blocks or not base else base.state
        sets = {name: known.model_copy(update={"state": state}) for name, known in self._query_sets.items()}
        return Manifest(
            engine_version=VERSION,
            rows=self.rows,
            layers=layers,
            block_rows=block_rows,
            photo_ids_xxh3=ids_sum,
            sources=list(dict.fromkeys([*(base.sources if base else ()), *sources])),
            quarantined=len(lines),
            quarantine_xxh3=digest(b"".join(lines)),
            header_bytes=4096 if self._arrays.header_bytes == npy.PAGE else 128,
            state=state,
            removed=base.removed if base else None,
            query_sets={**(base.query_sets if base else {}), **sets},
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the folder. Not finished: what was written stays for the next run, unless there is nothing."""
        given_up = not self._done and (self._discarded or not (self._keyed or self.found))
        if given_up and not (self.path / commit.NAME).exists():
            self._clean()
            self._claim.leave_nothing()
        self._taken.close()

    def _clean(self) -> None:
        """Remove what was begun, and leave the store that was there as it was."""
        self._arrays.cut_back()
        for part in publish.leftovers(self.path, self.dims):
            part.unlink(missing_ok=True)
        (self.path / journal.NAME).unlink(missing_ok=True)
