"""Building an index: learn from a sample, then stream the store through reduction, shards and codes."""

import fcntl
import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import IndexUnusableError, InputError
from engine.index import ahead, ivfpq, reduce, shards
from engine.index.manifest import IndexManifest, Part, Shard, read_index_manifest, write_index_manifest
from engine.index.parts import CodeWriter, Old, PartFile, sum_file
from engine.index.spec import IndexSpec, default_probes, default_rerank
from engine.progress import Progress, silent
from engine.store import npy
from engine.store.durable import PART, disk_errors, exchange, flush_folder
from engine.store.store import Store
from engine.store.verify import check_layer
from engine.version import VERSION
from kernels import CodeKind, Device, Kernels, code_width, load

BLOCK_ROWS, BLOCK_BYTES = 4096, 64 << 20
CODE_TYPES: dict[CodeKind, str] = {"uint8": "|u1", "uint4": "|u1", "float16": "<f2"}


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did. reused: an index that covers the store, and is what was asked for, was there already."""

    path: Path
    manifest: IndexManifest
    seconds: float
    reused: bool = False

    @property
    def bytes_per_photo(self) -> float:
        """Bytes of all parts of the index for each photo."""
        return sum(part.bytes for part in self.manifest.parts.values()) / max(self.manifest.rows, 1)


@dataclass
class _Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def build_index(
    store: Store,
    spec: IndexSpec,
    *,
    device: Device,
    name: str | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> BuildReport:
    """Build an index over a layer of a store, in `STORE/indices/NAME` (the layer's name unless given).

    Memory is bounded by the training sample and one block of rows. The index is written aside and renamed when
    whole; one that is there keeps answering until then. One that covers the store and has all that `spec` was given is
    kept, unless `force`: what was not given is as the index has it, whatever would be chosen now. Removed photos teach
    it nothing, but their rows are in it, so that row numbers are those of the store: searches leave them out.
    """
    started = time.perf_counter()
    data = store.layer(spec.layer)
    if not len(store):
        raise InputError(f"{store.path}: the store is empty, there is nothing to index")
    if not store.photos:
        raise InputError(f"{store.path}: every photo was removed, there is nothing to index")
    asked, spec = spec, spec.resolved(rows=store.photos, dim=data.shape[1], device=device.kind)
    name = spec.layer if name is None else name
    check_name(name)
    if name != spec.layer and name in store.layers:
        raise InputError(f"--name {name}: is a layer of this store, the index is of {spec.layer}. Give another.")
    folder = store.path / "indices" / name
    check_layer(store, spec.layer, progress=progress)
    if not force and (existing := _same_index(folder, store, asked, spec)):
        return BuildReport(path=folder, manifest=existing, seconds=time.perf_counter() - started, reused=True)
    with staged(store, spec, folder, device=device, progress=progress) as part:
        manifest = read_index_manifest(part)
    return BuildReport(path=folder, manifest=manifest, seconds=time.perf_counter() - started)


@contextmanager
def staged(
    store: Store, spec: IndexSpec, folder: Path, *, device: Device, progress: Progress = silent
) -> Iterator[Path]:
    """A finished index in `NAME.part` beside its place, `folder`, which it takes when the block ends without an error.

    After an error it is gone, and the index before, if there is one, as it was. spec: has no None in it.
    """
    if device.kind == "cuda" and spec.lists:
        ivfpq.check_gpu_spec(spec, device.gpu.library)
    part = folder.with_name(folder.name + PART)
    with disk_errors(store.path):
        folder.parent.mkdir(exist_ok=True)
        with alone(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                Build(store, spec, device, part, progress).run()
                yield part
                swap(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise


def check_name(name: str) -> None:
    """InputError unless this can be the name of an index: it becomes a folder."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"--name {name!r}: expected letters, digits, - and _ alone")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from building the same index at the same time."""
    handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise IndexUnusableError(f"{folder}: another mirsearch is building this index. Wait for it to end.") from None
    finally:
        os.close(handle)  # the file stays: removing a lock that another process just opened would undo it


def _same_index(folder: Path, store: Store, asked: IndexSpec, spec: IndexSpec) -> IndexManifest | None:
    """The index in a folder, if it covers the store, is whole and what is asked for; spec: that, resolved."""
    if not folder.exists():
        return None
    try:
        manifest = read_index_manifest(folder)
    except Exception:  # damaged or of another version: it is what this build replaces
        return None
    if manifest.store_digest != store.manifest.state or not (asked.is_met_by(manifest.spec) or manifest.spec == spec):
        return None
    try:  # all bytes of it: whoever builds again because an index is damaged must not be given the same one
        whole = all(sum_file(folder / file) == part for file, part in manifest.parts.items())
    except OSError:
        return None
    return manifest if whole else None


def swap(part: Path, folder: Path) -> None:
    """Put a finished index in its place; the one before is removed only then."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists() and exchange(part, folder):  # in one step: who opens the index finds one or the other
        flush_folder(folder.parent)
        shutil.rmtree(part, ignore_errors=True)
        return
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    flush_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


class Build:
    """One build, from the sample to the manifest."""

    def __init__(self, store: Store, spec: IndexSpec, device: Device, folder: Path, progress: Progress) -> None:
        self.store, self.spec, self.device, self.folder, self.progress = store, spec, device, folder, progress
        self.data = store.layer(spec.layer)
        self.kernels: Kernels = load(device)
        self.clock = _Clock()
        self.parts: dict[str, Part] = {}
        self.shards: list[Shard] = []
        self.explained, self.scale, self.gpu_memory = 1.0, 1.0, 0
        # Rows (t,) that are reduced already, ascending, and what they were reduced to.
        self.reduced: tuple[Any, Any] = np.empty(0, np.int64), np.empty((0, spec.reduced or 1), np.float32)

    def run(self) -> IndexManifest:
        """Learn, fill, and write the manifest."""
        if self.spec.lists:
            reduction, trained = self._learn()
            self._fill(reduction, trained)
        with self.clock.phase("flush"):
            flush_folder(self.folder)
        manifest = IndexManifest(
            engine_version=VERSION,
            store_digest=self.store.manifest.state,
            rows=len(self.store),
            dim=self.data.shape[1],
            spec=self.spec,
            scale=self.scale,
            probes=default_probes(self.spec.lists or 1, self.spec.metric),
            rerank=default_rerank(10, len(self.store), self.spec.metric),
            shards=self.shards,
            parts=self.parts,
            training=self._figures(),
        )
        write_index_manifest(self.folder, manifest)
        return read_index_manifest(self.folder)

    def _figures(self) -> dict[str, float | int | str]:
        return {
            "device": str(self.device),
            "training_rows": self.spec.training_rows or 0,
            "explained_variance": round(self.explained, 4),
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            **({"gpu_memory_mib": self.gpu_memory >> 20} if self.device.kind == "cuda" else {}),
            **{f"seconds_{name}": round(seconds, 3) for name, seconds in self.clock.seconds.items()},
        }

    def _learn(self) -> tuple[reduce.Reduction, Any]:
        spec = self.spec
        at = self.store.present_rows[reduce.sample_rows(self.store.photos, spec.training_rows or 1, spec.seed)]
        with self.clock.phase("pca"):
            # The axes need no more than some rows for each dimension; the quantizers may want more.
            few = at[reduce.sample_rows(len(at), reduce.rows_wanted(self.data.shape[1]), spec.seed)]
            reduction = reduce.learn(
                self.data, few, spec.reduced or 1, unit=spec.metric == "cosine", kernels=self.kernels,
                progress=self.progress,
            )  # fmt: skip
        self.explained, self.scale = reduction.explained, reduction.scale
        file = PartFile(self.folder / "axes.npy")
        file.write(npy.header(reduction.axes.shape, "<f4"))
        file.write(np.ascontiguousarray(reduction.axes))
        self.parts["axes.npy"] = file.close()
        # Where the kernels work, so that a block goes there once and comes back as codes.
        reduction = replace(reduction, axes=self.kernels.to_device(reduction.axes))
        with self.clock.phase("train"):
            self.progress("train quantizers", 0, 0)
            sample = self.kernels.xp.concatenate(
                [reduction.apply(self.kernels.to_device(block), self.kernels) for block in reduce.gather(self.data, at)]
            )
            trained = ivfpq.train(sample, spec, self.device)
        self.gpu_memory = ivfpq.gpu_memory(self.device)
        self.reduced = at, sample
        return reduction, trained

    def _fill(self, reduction: reduce.Reduction, trained: Any) -> None:
        n, writers = len(self.store), self.code_writers()
        for start, stop in shards.ranges(n, self.spec.rows_per_shard):
            shard = ivfpq.empty_copy(trained, self.device, rows=stop - start)
            self.add_rows(shard, (start, stop), reduction, writers)
            self.write_shard(shard, start, stop)
        with self.clock.phase("write"):
            for writer in writers.values():
                self.parts |= writer.close()

    def code_writers(self, old: Old | None = None) -> dict[str, CodeWriter]:
        """What writes the codes of all rows, by name; old: see `CodeWriter`."""
        n = len(self.store)
        writers = {
            "sketch": CodeWriter(self.folder, "sketch", (n, self.spec.reduced or 1), "|u1", old=old),
        }
        if self.spec.refine != "none":
            shape, dtype = (n, code_width(self.spec.refine, self.data.shape[1])), CODE_TYPES[self.spec.refine]
            writers["refine"] = CodeWriter(self.folder, "refine", shape, dtype, old=old)
        return writers

    def add_rows(
        self, shard: Any, rows: tuple[int, int], reduction: reduce.Reduction, writers: dict[str, CodeWriter]
    ) -> None:
        """Add the store's rows (start, stop) to a shard, and write their codes."""
        block = max(min(BLOCK_ROWS, BLOCK_BYTES // (4 * self.data.shape[1])), 1)
        for at, part in ahead.blocks(self.data, rows, block, self.kernels):
            self.add_block(shard, (part, at), reduction, writers)
            npy.forget(self.data)
            self.progress("add rows", at + len(part), rows[1])

    def add_block(
        self, shard: Any, block: tuple[Any, int], reduction: reduce.Reduction, writers: dict[str, CodeWriter]
    ) -> None:
        """Add rows (b, dim) where the kernels work, and the first one's number, to a shard; write their codes."""
        rows, first = block
        with self.clock.phase("reduce"):
            reduced = self._reduce(rows, first, reduction)
        with self.clock.phase("add"):
            ivfpq.add(shard, reduced, first)
        with self.clock.phase("codes"):
            self._write_codes(writers["sketch"], reduced, "uint8")
            if self.spec.refine != "none":
                self._write_codes(writers["refine"], reduction.scaled(rows, self.kernels.xp), self.spec.refine)
        self.gpu_memory = max(self.gpu_memory, ivfpq.gpu_memory(self.device))

    def _write_codes(self, writer: CodeWriter, rows: Any, kind: CodeKind) -> None:
        writer.write(self.kernels.quantize(rows, kind).each(self.kernels.to_host))

    def _reduce(self, rows: Any, first: int, reduction: reduce.Reduction) -> Any:
        """Reduced rows (b, reduced) of the store's rows from `first` on; those of the sample are at hand."""
        if self.device.kind == "cuda":  # to put them together takes as long there
            return reduction.apply(rows, self.kernels)
        at, sample = self.reduced
        known = slice(*np.searchsorted(at, [first, first + len(rows)]))
        if known.start == known.stop:
            return reduction.apply(rows, self.kernels)
        here = at[known] - first
        rest = np.ones(len(rows), np.bool_)
        rest[here] = False
        reduced = np.empty((len(rows), sample.shape[1]), np.float32)
        reduced[here], reduced[rest] = sample[known], reduction.apply(rows[rest], self.kernels)
        return reduced

    def write_shard(self, shard: Any, start: int, stop: int) -> None:
        """Write the shard of the rows start to stop−1, the next of the index."""
        entry = Shard(file=f"shard-{len(self.shards):04d}.faiss", start=start, stop=stop)
        with self.clock.phase("write"):
            ivfpq.save(shard, self.folder / entry.file)
            self.parts[entry.file] = sum_file(self.folder / entry.file, flush=True)
        self.shards.append(entry)
