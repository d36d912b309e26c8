"""Rows of photos that a store has, rewritten where the sources hold other content now."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, StoreError
from engine.progress import Progress, silent
from engine.store import commit, publish
from engine.store.blocks import DiskFile, in_order
from engine.store.copy import BLOCK_FILES
from engine.store.dat import LAYERS, examine_bytes
from engine.store.doubles import one_per_photo
from engine.store.hold import held, sweep, write_change, write_manifest
from engine.store.listed import Refused
from engine.store.manifest import FORMAT_VERSION, Layer, Manifest, digest, row_state
from engine.store.reread import REREADERS, Layers, Reread, Stream, refuse_other_layers
from engine.store.sources import Listing
from engine.store.stage import Stage
from engine.store.store import Store
from engine.version import VERSION
from kernels import Device


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What rows are to be compared with: records in any order first, then archives that are streams.

    Of a photo that occurs twice the first good record counts. sources: what the manifest names them.
    only: ids (m,), if no others are meant; the photos that were there before an ingest, say.
    """

    records: Listing
    streams: list[bytes] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    only: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class ReplaceReport:
    """Photos whose rows were rewritten, or held the same; records of removed photos; what was no good, set aside."""

    replaced: int
    unchanged: int
    removed: int
    refused: list[Refused]


def replace_rows(
    path: Path, given: Replacement, *, device: Device, strict: bool = False, progress: Progress = silent
) -> ReplaceReport:
    """Rewrite the rows of a store that differ from `given`, in one step. No row moves, no photo is added.

    A damaged record replaces nothing and is set aside in `quarantine.jsonl`; with `strict` it stops all. A removed
    photo stays removed, its row untouched. Indices are stale after any row has changed. StoreError when a block that
    would change is damaged: its new checksum would vouch for the damage. Killed at any moment, it is the old store or
    the new one, and the same call again completes it.
    """
    with held(path) as manifest:
        refuse_other_layers(path, manifest)
        with compared(Store.open(path), given, device=device, strict=strict, progress=progress) as comparison:
            return comparison.publish(manifest)


@contextmanager
def compared(
    store: Store, given: Replacement, *, device: Device, strict: bool, progress: Progress
) -> Iterator["Comparison"]:
    """Compare the rows of a store with `given` and set new ones ready; nothing changes before `publish`.

    The caller holds the store. Whatever can be refused is refused here: see `replace_rows`.
    """
    path = store.path
    try:
        with Stage(path, store.manifest) as stage, closing(_Compare(store, stage, device, progress)) as work:
            wanted = work.wanted(given.only)
            work.listed(given.records, wanted)
            for archive in given.streams:
                work.stream(archive, wanted)
            if strict and work.refused:
                first = work.refused[0]
                raise InputError(f"{first.source}: {first.reason}. Nothing was written (--strict).")
            layers = stage.layers() if stage.count else {}
            report = ReplaceReport(
                replaced=stage.count, unchanged=work.unchanged, removed=work.removed, refused=work.refused
            )
            yield Comparison(stage=stage, layers=layers, sources=given.sources, report=report)
    finally:
        if not (path / commit.NAME).exists():
            sweep(path)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """New rows that are ready. layers: as they will be with them."""

    stage: Stage
    layers: dict[str, Layer]
    sources: list[str]
    report: ReplaceReport

    def publish(self, manifest: Manifest) -> ReplaceReport:
        """Make it all valid in one step; nothing, when nothing is new.

        manifest: as it is now. Rows may have been added at the end since the comparison.
        """
        path, stage = self.stage.path, self.stage
        in_order = sorted(self.report.refused, key=lambda r: (r.photo_id is None, r.photo_id or 0, r.source))
        lines = publish.quarantine_lines(path, manifest, [refusal.line() for refusal in in_order])
        if not stage.count and len(lines) == manifest.quarantined:
            return self.report
        writes, deletes = stage.steps() if stage.count else ([], [])
        layers = self._grown(manifest)
        changed = {
            "version": FORMAT_VERSION, "engine_version": VERSION, "layers": layers, "quarantined": len(lines),
            "quarantine_xxh3": digest(b"".join(lines)),
            "sources": list(dict.fromkeys([*manifest.sources, *self.sources])),
            "state": row_state(manifest.photo_ids_xxh3, manifest.block_rows, layers) if stage.count else manifest.state,
        }  # fmt: skip
        renames = [write_change(path, publish.QUARANTINE, b"".join(lines))]
        renames.append(write_manifest(path, manifest.model_copy(update=changed)))
        commit.commit(path, [*writes, *renames, *deletes])
        return self.report

    def _grown(self, manifest: Manifest) -> dict[str, Layer]:
        """The layers with the checksums of blocks that were added since."""
        found = dict(manifest.layers)
        for name, layer in self.layers.items():
            added = found[name].xxh3[len(layer.xxh3) :]
            found[name] = layer.model_copy(update={"xxh3": [*layer.xxh3, *added]})
        return found


_UNSEEN, _UNCHANGED = -2, -1


class _Compare:
    def __init__(self, store: Store, stage: Stage, device: Device, progress: Progress) -> None:
        self.store, self.stage, self.device, self.progress = store, stage, device, progress
        self.refused: list[Refused] = []
        self._order = np.argsort(store.photo_ids)
        self._sorted = store.photo_ids[self._order]
        # Of each row: not seen yet, seen and the same, or where its new content stands in the stage.
        self._now = np.full(len(store), _UNSEEN, np.int64)
        self._gone = np.zeros(len(store), np.bool_)
        self._files = {name: DiskFile(store.path / layer.file) for name, layer in store.manifest.layers.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    @property
    def unchanged(self) -> int:
        return int((self._now == _UNCHANGED).sum())

    @property
    def removed(self) -> int:
        return int(self._gone.sum())

    def wanted(self, only: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
        """The ids (w,) to compare, ascending; those of removed photos among them, to be counted."""
        return self._sorted if only is None else np.intersect1d(self._sorted, only)

    def _rows(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self._order[np.searchsorted(self._sorted, ids)]

    def _present(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which rows (m,) are not of removed photos; those that are, are counted."""
        if self.store.removed is None:
            return np.ones(len(rows), np.bool_)
        gone = self.store.removed[rows]
        self._gone[rows[gone]] = True
        return np.asarray(~gone)

    def listed(self, records: Listing, wanted: npt.NDArray[np.int64]) -> None:
        """Compare records that can be read in any order, on all cores."""
        known = records.take(np.flatnonzero(np.isin(records.photo_ids, wanted)))
        records, doubles, _ = one_per_photo(known.take(np.flatnonzero(self._present(self._rows(known.photo_ids)))))
        self.refused += doubles
        reread = Reread(self.device)

        def compare(start: int) -> list[Refused]:
            ids, layers, refused = reread.read(records.take(slice(start, start + BLOCK_FILES)))
            self._compare(self._rows(ids), layers)
            return refused

        starts = range(0, len(records), BLOCK_FILES)
        with ThreadPoolExecutor(REREADERS, thread_name_prefix="replace") as pool:
            for start, refused in zip(starts, in_order(pool, compare, starts), strict=True):
                self.refused += refused
                self.progress("compare", start, len(records), unit="files")

    def stream(self, archive: bytes, wanted: npt.NDArray[np.int64]) -> None:
        """Compare the records of one archive. One that turns out damaged at its end replaces nothing."""
        stream = Stream(archive, self.device, self.progress)
        before, now, refused = self.stage.count, self._now.copy(), list[Refused]()
        for ids, records, layers, good, names in stream.batches(wanted):
            rows = self._rows(ids)
            first = np.zeros(len(ids), np.bool_)
            first[np.unique(ids, return_index=True)[1]] = True
            here = self._present(rows)
            new = here & good & first & (self._now[rows] == _UNSEEN)
            self._compare(rows[new], {name: data[new] for name, data in layers.items()})
            for i in np.flatnonzero(here & ~new).tolist():
                reason = self._look(records[i], int(rows[i]), {name: data[i] for name, data in layers.items()})
                if reason:
                    source = os.fsdecode(os.path.join(archive, names[i]))  # noqa: PTH118
                    refused.append(Refused(source=source, photo_id=int(ids[i]), reason=reason))
        if stream.damaged:  # which the ingest that read it before has said
            self.stage.rewind(before)
            self._now = now
        else:
            self.refused += refused

    def _look(self, record: npt.NDArray[np.uint8], row: int, layers: Layers) -> str | None:
        """Take one record that is damaged or whose photo came before; why it is refused, or None."""
        reason = examine_bytes(record.tobytes())[0]
        if reason is not None:
            return reason
        if self._now[row] == _UNSEEN:
            self._compare(np.array([row]), {name: data[None] for name, data in layers.items()})
            return None
        settled = int(self._now[row])
        for name, data in layers.items():
            if settled == _UNCHANGED:
                other = self._stored(name, np.array([row])).tobytes()
            else:
                other = self.stage.row(name, settled)
            if other != data.tobytes():
                photo_id = self.store.photo_ids[row]
                return f"photo {photo_id} again, with other content than the one that came before it"
        return None

    def _compare(self, rows: npt.NDArray[np.int64], layers: Layers) -> None:
        """Settle rows (m,), each once: stage those whose layers (m, dim) differ in any bit from the store's."""
        differs = np.zeros(len(rows), np.bool_)
        for name, data in layers.items():
            differs |= (self._stored(name, rows).view(np.uint32) != data.view(np.uint32)).any(axis=1)
        self._now[rows[~differs]] = _UNCHANGED
        if differs.any():
            start = self.stage.add(rows[differs], {name: data[differs] for name, data in layers.items()})
            self._now[rows[differs]] = start + np.arange(int(differs.sum()))

    def _stored(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Rows (m,) of the store, (m, dim); neighbours are read in one piece."""
        dim = LAYERS[name]
        found, done = np.empty((len(rows), dim), np.float32), 0
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            offset = self.store.manifest.header_bytes + int(run[0]) * dim * 4 if len(run) else 0
            data = self._files[name].read(len(run) * dim * 4, offset)
            if len(data) != len(run) * dim * 4:
                raise StoreError(f"{self.store.path / name}.npy: is cut short. Run `mirsearch verify`.")
            found[done : done + len(run)].reshape(-1).view(np.uint8)[:] = data
            done += len(run)
        return found
