"""Indices in the same command as the ingest of their store; on a GPU from the rows as they come by."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt

from engine.errors import EngineError, InputError
from engine.index import ivfpq, reduce, shards
from engine.index.build import BLOCK_ROWS, Build, BuildReport, alone, build_index, swap
from engine.index.spec import IndexSpec
from engine.progress import Progress, silent
from engine.store.dat import FC7_DIM, FC8_DIM, LAYERS, RECORD_BYTES
from engine.store.durable import PART, disk_errors
from engine.store.ingest import READERS
from engine.store.reader import RawReader
from engine.store.sources import Listing
from engine.store.store import Store
from kernels import Device, Kernels, load


class Following:
    """Indices over layers of a store, built by the command that ingests it: `ingest(..., follower=self)`.

    On a GPU they learn from a sample that is read before all else, and take the rows of a new store on the device as
    they come by; whatever is not as that expects (a refused file, an interrupted run that goes on, an archive that is
    read from its beginning, a full GPU) makes them indices of the plain kind, built once the store is there. Used as
    a context, that ends after the last of them is built.
    """

    def __init__(self, path: Path, layers: Sequence[str], device: Device) -> None:
        self.path, self.layers, self.device = path, layers, device
        self.builds: dict[str, ComingBuild] = {}
        self._held = {layer: ExitStack() for layer in layers}

    def __enter__(self) -> Self:
        """Remember what was there."""
        self._new_folder = not self.path.exists()
        return self

    def consumers(self, records: Listing, progress: Progress = silent) -> Mapping[str, "ComingBuild"]:
        """What takes the rows of each layer, learned from a sample of the records that a new store is made of.

        Called while the store's folder is held by its writer. Layers that are better built afterwards are left out.
        """
        for layer in self.layers:
            coming = _Coming(self.path, records, self.device)
            spec = IndexSpec(layer=layer).resolved(rows=len(records), dim=LAYERS[layer], device=self.device.kind)
            if spec.lists:
                with suppress(EngineError, MemoryError):  # the build that comes afterwards says what it is
                    ivfpq.check_gpu_spec(spec, self.device.gpu.library)
                    self.builds[layer] = ComingBuild(coming, spec, self.device, self._part(layer), progress)
        return self.builds

    def _part(self, layer: str) -> Path:
        folder = self.path / "indices" / layer
        part = folder.with_name(folder.name + PART)
        with disk_errors(self.path):
            folder.parent.mkdir(exist_ok=True)
            self._held[layer].enter_context(alone(folder))
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
        return part

    def build_next(self, layers: Sequence[str], progress: Progress = silent) -> BuildReport:
        """Finish or build the index over the first of some layers, once the store is there, all chosen by its size.

        What fails changes nothing of the store; the EngineError says which commands go on, for all of the layers.
        """
        layer = layers[0]
        try:
            store, coming = Store.open(self.path), self.builds.pop(layer, None)
            if coming is not None and coming.has_all_of(store):
                return self._finished(coming, store)
            del coming  # and what it holds of the GPU
            self._held[layer].close()  # what is built now takes the lock itself
            return build_index(store, IndexSpec(layer=layer), device=self.device, progress=progress)
        except EngineError as error:
            left = [shlex.join(["mirsearch", "build", str(self.path), "--layer", each]) for each in layers]
            goes_on = " and ".join(f"`{words}`" for words in left)
            raise type(error)(
                f"{error} The photos are in {self.path} and stay there; it goes on with {goes_on}."
            ) from error

    def _finished(self, coming: "ComingBuild", store: Store) -> BuildReport:
        folder = coming.folder.with_name(coming.spec.layer)
        with disk_errors(self.path):
            manifest = coming.finish(store)
            swap(coming.folder, folder)
        return BuildReport(path=folder, manifest=manifest, seconds=sum(coming.clock.seconds.values()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing of an index that is not whole, nor of a store that came to nothing."""
        indices = self.path / "indices"
        for layer in self.layers:
            shutil.rmtree(indices / f"{layer}{PART}", ignore_errors=True)
        for held in self._held.values():
            held.close()
        if indices.exists() and not (self.path / "manifest.json").exists():
            for layer in self.layers:
                (indices / f".{layer}.lock").unlink(missing_ok=True)
            with suppress(OSError):  # not empty: there is an interrupted run, which the next one continues
                indices.rmdir()
                if self._new_folder:
                    self.path.rmdir()


class ComingBuild(Build):
    """A build whose rows come by on the device while their store is made; only codes come to the host.

    It learns when it is made. failed: what went wrong since; from then on it takes nothing.
    """

    def __init__(self, coming: "_Coming", spec: IndexSpec, device: Device, folder: Path, progress: Progress) -> None:
        super().__init__(cast(Store, coming), spec, device, folder, progress)
        self.failed: Exception | None = None
        self._learned = super()._learn()
        self._writers = self.code_writers()
        self._borders = shards.ranges(len(coming), spec.rows_per_shard)
        self._taken = self._waiting = 0
        self._shard: Any = None
        self._buffer: Any = None

    def consume(self, rows: Any, first_row: int) -> None:
        """Take rows (n, dim) float32 on the device; see `engine.store.stages.Consumer`."""
        if self.failed is not None:
            return
        try:
            if first_row != self._taken:
                raise AssertionError(f"rows from {first_row}, expected {self._taken}")
            self._take(rows)
        except (EngineError, MemoryError, OSError) as error:  # the store goes on; the index is built afterwards
            self.failed, self._shard, self._buffer = error, None, None

    def _take(self, rows: Any) -> None:
        """Gather rows to blocks worth a product; a block ends where a shard does."""
        if self._buffer is None:
            self._buffer = self.kernels.xp.empty((BLOCK_ROWS, self.data.shape[1]), self.kernels.xp.float32)
        while len(rows) and self._taken < self._borders[-1][1]:
            start, stop = self._borders[len(self.shards)]
            now = min(BLOCK_ROWS - self._waiting, stop - self._taken, len(rows))
            self._buffer[self._waiting : self._waiting + now] = rows[:now]
            self._waiting, self._taken, rows = self._waiting + now, self._taken + now, rows[now:]
            if self._waiting == BLOCK_ROWS or self._taken == stop:
                self._add(self._buffer[: self._waiting], self._taken - self._waiting, (start, stop))
                self._waiting = 0

    def _add(self, rows: Any, first: int, border: tuple[int, int]) -> None:
        reduction, trained = self._learned
        if self._shard is None:
            self._shard = ivfpq.empty_copy(trained, self.device, border[1] - border[0])
        self.add_block(self._shard, (rows, first), reduction, self._writers)
        if first + len(rows) == border[1]:
            self.write_shard(self._shard, *border)
            self._shard = None

    def has_all_of(self, store: Store) -> bool:
        """Whether the rows of a store are those that came by: all that were expected, and none was refused."""
        return self.failed is None and self._taken == len(self.store) == len(store) == store.photos

    def finish(self, store: Store) -> Any:
        """Write what is left, and the manifest; `store` is what the rows have become."""
        self.store, self._buffer = store, None
        return self.run()

    def _learn(self) -> tuple[reduce.Reduction, Any]:
        return self._learned

    def _fill(self, reduction: reduce.Reduction, trained: Any) -> None:
        with self.clock.phase("write"):
            for writer in self._writers.values():
                self.parts |= writer.close()


class _Coming:
    """What a build asks of a store before there is one: its rows are records, all good, in the order they come."""

    def __init__(self, path: Path, records: Listing, device: Device) -> None:
        self.path, self.records, self.photos = path, records, len(records)
        self.present_rows = np.arange(len(records))
        self._kernels = load(device)

    def __len__(self) -> int:
        return self.photos

    def layer(self, name: str) -> "_Rows":
        return _Rows(self.records, name, self._kernels)


class _Rows:
    """A layer of records, shape (n, dim), read from their files by row numbers; InputError where one is not good."""

    def __init__(self, records: Listing, layer: str, kernels: Kernels) -> None:
        self.shape = len(records), LAYERS[layer]
        self._records, self._layer, self._kernels = records, layer, kernels

    def __getitem__(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        raw = self._kernels.host_buffer((len(at), RECORD_BYTES))
        whole = np.zeros(len(at), np.bool_)

        def read(start: int) -> None:
            part = np.s_[start : start + _TOGETHER]
            RawReader().read(self._records.take(at[part]), raw[part], whole[part])

        with ThreadPoolExecutor(READERS, thread_name_prefix="sample") as pool:
            for _ in pool.map(read, range(0, len(at), _TOGETHER)):
                pass
        layers = {"fc7": np.empty((len(at), FC7_DIM), np.float32), "fc8": np.empty((len(at), FC8_DIM), np.float32)}
        flags = self._kernels.decode(raw, layers["fc7"], layers["fc8"])
        if flags.any() or not whole.all():
            raise InputError("a file of the sample is not a whole record of finite numbers")
        return layers[self._layer]


_TOGETHER = 64  # records that one thread reads at a time
