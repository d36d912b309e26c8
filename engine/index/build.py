"""Building an index: learn from a sample, then stream the store through reduction, shards and codes."""

import fcntl
import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from engine.errors import IndexUnusableError, InputError
from engine.index import ivfpq, reduce, shards
from engine.index.manifest import IndexManifest, Part, Shard, read_index_manifest, write_index_manifest
from engine.index.spec import IndexSpec, default_probes, default_rerank
from engine.progress import Progress, silent
from engine.store import npy
from engine.store.durable import PART, disk_errors, flush_folder
from engine.store.store import Store
from engine.store.verify import check_layer
from engine.version import VERSION
from kernels import Codes, Device, Kernels, load

BLOCK_ROWS, BLOCK_BYTES = 4096, 64 << 20


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did. reused: the index was there already, built from the same store to the same specification."""

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
    whole; one that is there keeps answering until then. Built before from the same store to the same specification,
    it is kept, unless `force`. Removed photos teach it nothing, but their rows are in it, so that row numbers are
    those of the store: searches leave them out.
    """
    started = time.perf_counter()
    data = store.layer(spec.layer)
    if not len(store):
        raise InputError(f"{store.path}: the store is empty, there is nothing to index")
    if not store.photos:
        raise InputError(f"{store.path}: every photo was removed, there is nothing to index")
    spec = spec.resolved(rows=store.photos, dim=data.shape[1], device=device.kind)
    if device.kind == "cuda" and spec.lists:
        ivfpq.check_gpu_spec(spec)
    name = spec.layer if name is None else name
    check_name(name)
    folder = store.path / "indices" / name
    check_layer(store, spec.layer, progress=progress)
    if not force and (existing := _same_index(folder, store, spec)):
        return BuildReport(path=folder, manifest=existing, seconds=time.perf_counter() - started, reused=True)
    part = folder.with_name(folder.name + PART)
    with disk_errors(store.path):
        folder.parent.mkdir(exist_ok=True)
        with _alone(folder):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            try:
                manifest = _Build(store, spec, device, part, progress).run()
                _swap(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
    return BuildReport(path=folder, manifest=manifest, seconds=time.perf_counter() - started)


def check_name(name: str) -> None:
    """InputError unless this can be the name of an index: it becomes a folder."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"--name {name!r}: expected letters, digits, - and _ alone")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from building the same index at the same time."""
    handle = os.open(folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise IndexUnusableError(f"{folder}: another mirsearch is building this index. Wait for it to end.") from None
    finally:
        os.close(handle)  # the file stays: removing a lock that another process just opened would undo it


def _same_index(folder: Path, store: Store, spec: IndexSpec) -> IndexManifest | None:
    if not folder.exists():
        return None
    try:
        manifest = read_index_manifest(folder)
    except Exception:  # damaged or of another version: it is what this build replaces
        return None
    if manifest.spec != spec or manifest.store_digest != store.manifest.state:
        return None
    try:  # all bytes of it: whoever builds again because an index is damaged must not be given the same one
        whole = all(sum_file(folder / file) == part for file, part in manifest.parts.items())
    except OSError:
        return None
    return manifest if whole else None


def _swap(part: Path, folder: Path) -> None:
    """Put a finished index in its place; the one before is removed only then."""
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
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


class _PartFile:
    """A file of the index, summed while it is written and flushed when it is closed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._sum = xxhash.xxh3_64()
        self._bytes = 0

    def write(self, data: Any) -> None:
        view = memoryview(data).cast("B")
        self._sum.update(view)
        self._file.write(view)
        self._bytes += len(view)

    def close(self) -> Part:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return Part(bytes=self._bytes, xxh3=self._sum.hexdigest())


class _CodeWriter:
    """Codes of a layer's rows, in two files: NAME.npy (n, d) and NAME_scale.npy (3, n): low, step, norm2."""

    def __init__(self, folder: Path, name: str, shape: tuple[int, int], dtype: str) -> None:
        self._folder, self._name = folder, name
        self._values = _PartFile(folder / f"{name}.npy")
        self._values.write(npy.header(shape, dtype))
        self._scale = np.empty((3, shape[0]), np.float32)
        self._at = 0

    def write(self, codes: Codes) -> None:
        self._values.write(np.ascontiguousarray(codes.values))
        end = self._at + len(codes.values)
        self._scale[:, self._at : end] = codes.low, codes.step, codes.norm2
        self._at = end

    def close(self) -> dict[str, Part]:
        scale = _PartFile(self._folder / f"{self._name}_scale.npy")
        scale.write(npy.header(self._scale.shape, "<f4"))
        scale.write(self._scale)
        return {f"{self._name}.npy": self._values.close(), f"{self._name}_scale.npy": scale.close()}


class _Build:
    """One build, from the sample to the manifest."""

    def __init__(self, store: Store, spec: IndexSpec, device: Device, folder: Path, progress: Progress) -> None:
        self.store, self.spec, self.device, self.folder, self.progress = store, spec, device, folder, progress
        self.data = store.layer(spec.layer)
        self.kernels: Kernels = load(device)
        self.clock = _Clock()
        self.parts: dict[str, Part] = {}
        self.shards: list[Shard] = []
        self.explained, self.scale = 1.0, 1.0

    def run(self) -> IndexManifest:
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
        file = _PartFile(self.folder / "axes.npy")
        file.write(npy.header(reduction.axes.shape, "<f4"))
        file.write(np.ascontiguousarray(reduction.axes))
        self.parts["axes.npy"] = file.close()
        with self.clock.phase("train"):
            self.progress("train quantizers", 0, 0)
            sample = np.concatenate([reduction.apply(block, self.kernels) for block in reduce.gather(self.data, at)])
            trained = ivfpq.train(sample, spec, self.device)
        return reduction, trained

    def _fill(self, reduction: reduce.Reduction, trained: Any) -> None:
        spec, n = self.spec, len(self.store)
        block = max(min(BLOCK_ROWS, BLOCK_BYTES // (4 * self.data.shape[1])), 1)
        sketch = _CodeWriter(self.folder, "sketch", (n, reduction.axes.shape[1]), "|u1")
        dtype = {"uint8": "|u1", "float16": "<f2"}.get(spec.refine)
        refine = _CodeWriter(self.folder, "refine", (n, self.data.shape[1]), dtype) if dtype else None
        for number, (start, stop) in enumerate(shards.ranges(n, spec.rows_per_shard)):
            shard = ivfpq.empty_copy(trained, self.device)
            for at in range(start, stop, block):
                rows = np.ascontiguousarray(self.data[at : min(at + block, stop)])
                with self.clock.phase("reduce"):
                    reduced = reduction.apply(rows, self.kernels)
                with self.clock.phase("add"):
                    ivfpq.add(shard, reduced, at)
                with self.clock.phase("codes"):
                    sketch.write(self.kernels.quantize(reduced, "uint8"))
                    if refine and spec.refine != "none":
                        refine.write(self.kernels.quantize(reduction.scaled(rows), spec.refine))
                self.progress("add rows", at + len(rows), n)
            with self.clock.phase("write"):
                self._write_shard(shard, Shard(file=f"shard-{number:04d}.faiss", start=start, stop=stop))
        with self.clock.phase("write"):
            self.parts |= sketch.close() | (refine.close() if refine else {})

    def _write_shard(self, shard: Any, entry: Shard) -> None:
        path = self.folder / entry.file
        ivfpq.save(shard, path)
        self.parts[entry.file] = sum_file(path, flush=True)
        self.shards.append(entry)


def sum_file(path: Path, *, flush: bool = False) -> Part:
    """Length and checksum of a file as it is on the disk."""
    total, size = xxhash.xxh3_64(), 0
    with path.open("rb+" if flush else "rb") as file:
        if flush:
            os.fsync(file.fileno())
        while data := file.read(1 << 24):
            total.update(data)
            size += len(data)
    return Part(bytes=size, xxh3=total.hexdigest())
