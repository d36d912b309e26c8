"""Rows that were appended to a store join its index: nothing is learned again, nothing old is coded again."""

import shlex
import shutil
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import IndexUnusableError
from engine.index import ivfpq, shards
from engine.index.build import Build, BuildReport, alone, check_name, swap
from engine.index.drift import Drift, crowding, errors, quotient
from engine.index.manifest import (
    FORMAT_VERSION,
    IndexManifest,
    build_words,
    grown,
    read_index_manifest,
    stale,
    write_index_manifest,
)
from engine.index.opening import open_reduction
from engine.index.parts import Old
from engine.index.reduce import Reduction
from engine.index.spec import default_rerank
from engine.progress import Progress, silent
from engine.store.durable import PART, disk_errors, flush_folder
from engine.store.store import Store
from engine.store.verify import check_layer
from engine.version import VERSION
from kernels import Device


@dataclass(frozen=True, kw_only=True)
class UpdateReport(BuildReport):
    """What an update did. added: rows that joined; reused: there were none. drift: None of an exact index.

    untuned: the index was tuned, and what was measured was dropped.
    """

    added: int
    drift: Drift | None = None
    untuned: bool = False


def update_index(store: Store, name: str, *, device: Device, progress: Progress = silent) -> UpdateReport:
    """Let the rows that were appended to a store since join `STORE/indices/NAME`, coded by what the index has learned.

    The last shard takes them while it has room, and new shards the rest. The new index is written aside and renamed
    when whole; the old one answers until then. Nothing is changed when nothing was appended. IndexUnusableError where
    the old rows are not proved to be those that the index was built from: after `ingest --replace`, `compact`, or
    when a layer came or went. Only new rows are read, but for a sample of old ones.

    What `tune` measured is kept, unless the index holds more than twice the rows it was measured on, or the new ones
    are so unlike the old that a full build is recommended.
    """
    started = time.perf_counter()
    check_name(name)
    folder = store.path / "indices" / name
    with disk_errors(store.path):
        read_index_manifest(folder)  # before a lock is made beside what is not there
        with alone(folder):
            old = read_index_manifest(folder)
            if stale(old, store.manifest) is None:
                return UpdateReport(
                    path=folder, manifest=old, seconds=time.perf_counter() - started, reused=True, added=0
                )
            _check(store, old, name)
            if device.kind == "cuda" and old.spec.lists:
                ivfpq.check_gpu_spec(old.spec, device.gpu.library)
            check_layer(store, old.spec.layer, since=old.rows, progress=progress)
            part = folder.with_name(folder.name + PART)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                before = Old(folder=folder, parts=old.parts, rows=old.rows)
                update = _Update(Build(store, old.spec, device, part, progress), old, before)
                manifest = update.run()
                swap(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    return UpdateReport(
        path=folder, manifest=manifest, seconds=time.perf_counter() - started, added=manifest.rows - old.rows,
        drift=update.drift, untuned=bool(old.tuned and not manifest.tuned),
    )  # fmt: skip


def _check(store: Store, old: IndexManifest, name: str) -> None:
    if grown(old, store.manifest, store.photo_ids):
        return
    folder = store.path / "indices" / name
    raise IndexUnusableError(
        f"{folder}: cannot be updated: {stale(old, store.manifest)}, and its first rows are not "
        f"known to be those that the index was built from. Build it anew: "
        + shlex.join(["mirsearch", *build_words(folder, old.spec)])
    )


class _Update:
    """One update: the shards and codes of an index and of the new rows, in another folder."""

    def __init__(self, job: Build, old: IndexManifest, before: Old) -> None:
        self.job, self.old, self.before = job, old, before
        self.drift: Drift | None = None

    def run(self) -> IndexManifest:
        old, n = self.old, len(self.job.store)
        built = int(old.training.get("built_rows", old.rows))
        figures: dict[str, float | int | str] = {"built_rows": built}
        if old.shards:
            reduction = self._reduction()
            writers = self.job.code_writers(self.before)
            self._fill(reduction, writers)
            for writer in writers.values():
                self.job.parts |= writer.close()
            self.drift = self._drift(reduction, n / built)
            figures |= {
                "drift_reduction": round(self.drift.reduction, 3), "drift_lists": round(self.drift.lists, 3),
                "drift_crowding": round(self.drift.crowding, 3),
            }  # fmt: skip
        flush_folder(self.job.folder)
        rerank = max(old.rerank, default_rerank(10, n, old.spec.metric))
        unlike = self.drift is not None and self.drift.advice() is not None
        tuned = old.tuned.grown(old.rows, n) if old.tuned and not unlike else None
        manifest = old.model_copy(update={
            "version": FORMAT_VERSION, "engine_version": VERSION,
                "store_digest": self.job.store.manifest.state, "rows": n, "rerank": rerank, "tuned": tuned,
            "shards": self.job.shards, "parts": self.job.parts, "training": {**old.training, **figures},
        })  # fmt: skip
        write_index_manifest(self.job.folder, manifest)
        return read_index_manifest(self.job.folder)

    def _reduction(self) -> Reduction:
        self.job.parts |= self.before.carry("axes.npy", self.job.folder)
        reduction = open_reduction(self.job.folder, self.old, self.job.kernels)
        assert reduction is not None
        return reduction

    def _fill(self, reduction: Reduction, writers: dict[str, Any]) -> None:
        job, last, n = self.job, self.old.shards[-1], len(self.job.store)
        per_shard = self.old.spec.rows_per_shard
        at = min(max(last.start + per_shard, last.stop), n)
        for entry in self.old.shards[:-1] if at > last.stop else self.old.shards:
            job.parts |= self.before.carry(entry.file, job.folder)
            job.shards.append(entry)
        last_file = self.before.checked(last.file)
        self.trained = ivfpq.emptied(last_file)
        loaded = ivfpq.load(last_file, job.device)
        self.old_sizes = ivfpq.list_sizes(loaded)
        self.new_sizes = np.zeros_like(self.old_sizes)
        if at > last.stop:
            job.add_rows(loaded, (last.stop, at), reduction, writers)
            self.new_sizes += ivfpq.list_sizes(loaded) - self.old_sizes
            job.write_shard(loaded, last.start, at)
        del loaded
        for start, stop in shards.ranges(n - at, per_shard) if at < n else ():
            shard = ivfpq.empty_copy(self.trained, job.device, rows=stop - start)
            job.add_rows(shard, (at + start, at + stop), reduction, writers)
            self.new_sizes += ivfpq.list_sizes(shard)
            job.write_shard(shard, at + start, at + stop)

    def _drift(self, reduction: Reduction, growth: float) -> Drift:
        job, present = self.job, self.job.store.present_rows
        cut = int(np.searchsorted(present, self.old.rows))
        lost, far = zip(
            *(
                errors(job.data, at, reduction, self.trained, job.kernels, seed=self.old.spec.seed)
                for at in (present[:cut], present[cut:])
            ),
            strict=True,
        )
        return Drift(
            reduction=quotient(lost[1], lost[0]), lists=quotient(far[1], far[0]), growth=growth,
            crowding=quotient(crowding(self.new_sizes), crowding(self.old_sizes)), rows=len(present) - cut,
        )  # fmt: skip
