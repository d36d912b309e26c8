"""Indices from the rows of an ingest as they come by on the device: those of a build, or a build in their place."""

import importlib.util
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceError, EngineError, InputError
from engine.index import build as build_module
from engine.index import ivfpq, shards, spec, stream
from engine.index.build import build_index
from engine.index.device import settle
from engine.index.gpu_rows import _ids
from engine.index.manifest import read_index_manifest
from engine.index.reduce import sample_rows
from engine.index.spec import IndexSpec
from engine.index.stream import Following
from engine.store import copy as copy_module
from engine.store import stages
from engine.store.ingest import ingest
from engine.store.store import Store
from engine.store.verify import verify_store
from engine.store.writer import StoreWriter
from kernels import Device
from tests.builders import CPU, files_below, photo_bytes, write_photo, write_photos
from tests.index.gpu_shards import machine_of
from tests.kernels import emulated
from tests.kernels.conftest import emulated_or_skip
from tests.store.test_ingest import in_time

GPU = Device(kind="cuda", gpus=(0,), why="pretended")
PHOTOS, TRAINING = 320, 280


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), range(0, PHOTOS * 3, 3))


def axes_of_last_block(blocks: Any, count: int, *, unit: bool) -> Any:
    """Axes that depend on what was read, without the eigenvectors of 4,096 dimensions, which take seconds."""
    for rows in blocks:
        last = rows
    axes = np.linalg.qr(np.float64(last[:count]).T)[0].astype(np.float32)
    return axes, np.ones(count, np.float32), float(last.shape[1])


class Gpu:
    """Emulated kernels, FAISS on the CPU that insists on rows of the device, and what crossed to the host."""

    def __init__(self, monkeypatch: Any) -> None:
        self.kernels = emulated_or_skip()
        self.kernels.xp.cuda.get_elapsed_time = lambda start, stop: 1.0
        self.crossed: Counter[str] = Counter()
        self.plain: list[str] = []
        self.fail_at: int | None = None
        monkeypatch.setattr(self.kernels, "principal_axes", axes_of_last_block)
        for module in (stages, stream, build_module):
            monkeypatch.setattr(module, "load", lambda _: self.kernels)
        for name in ("to_host", "to_device"):
            monkeypatch.setattr(self.kernels, name, self._counting(name))
        train, copy, self._add = ivfpq.train, ivfpq.empty_copy, ivfpq.add
        monkeypatch.setattr(ivfpq, "train", lambda sample, spec, _: train(emulated.on_host(sample), spec, CPU))
        monkeypatch.setattr(ivfpq, "empty_copy", lambda trained, _, rows=0: copy(trained, CPU))
        monkeypatch.setattr(ivfpq, "add", self.add)
        monkeypatch.setattr(stream, "build_index", self.build)

    def _counting(self, name: str) -> Any:
        function = getattr(self.kernels, name)

        def counting(array: Any) -> Any:
            self.crossed[name] += array.nbytes
            return function(array)

        return counting

    def add(self, shard: Any, rows: Any, first: int) -> None:
        if self.fail_at is not None and first >= self.fail_at:
            self.fail_at = None
            raise DeviceError("cuda:0: out of memory, planted.")
        assert isinstance(rows, emulated.DeviceArray)
        self._add(shard, emulated.on_host(rows), first)

    def build(self, store: Store, asked: IndexSpec, **how: Any) -> Any:
        self.plain.append(asked.layer)
        return build_index(store, asked, **how)


@pytest.fixture
def gpu(small, monkeypatch):
    monkeypatch.setattr(ivfpq, "gpu_memory", lambda device: 5 << 30)
    return Gpu(monkeypatch)


@pytest.fixture
def small(monkeypatch):
    """Small blocks, few dimensions, two shards, and quantizers for fewer photos than deserve them."""
    monkeypatch.setattr(copy_module, "BLOCK_FILES", 32)
    monkeypatch.setattr(stream, "BLOCK_ROWS", 50)
    monkeypatch.setattr(spec, "EXACT_BELOW", 100)
    monkeypatch.setattr(spec, "MAX_REDUCED", 16)
    monkeypatch.setattr(spec, "default_training_rows", lambda lists: TRAINING)
    monkeypatch.setattr(shards, "ranges", lambda rows, per: [(0, 130), (130, rows)])


def run(root: Any, store: Any, layers: list[str], **how: Any) -> list[Any]:
    with Following(store, layers, GPU) as following:
        ingest([root], store, device=GPU, threads=2, follower=following, **how)
        return [following.build_next(layers[number:]) for number in range(len(layers))]


def outside_of_the_sample() -> int:
    return int(np.setdiff1d(np.arange(PHOTOS), sample_rows(PHOTOS, TRAINING, 0))[5])


def nothing_is_left(store: Any) -> bool:
    return not [*store.glob("indices/*.part")]


def compare_with_a_build(folder: Any, device: Device) -> None:
    """The index fc8 of a store and one that is built of it, `plain`, but for what rounding may do."""
    build_index(Store.open(folder), IndexSpec(layer="fc8"), device=device, name="plain")
    ours, plain = (folder / "indices" / name for name in ("fc8", "plain"))
    mine, theirs = read_index_manifest(ours), read_index_manifest(plain)
    assert (mine.spec, mine.rows, mine.store_digest, mine.shards, mine.scale, mine.probes) == (
        theirs.spec, theirs.rows, theirs.store_digest, theirs.shards, theirs.scale, theirs.probes,
    )  # fmt: skip
    assert mine.spec.lists and [(shard.start, shard.stop) for shard in mine.shards] == [(0, 130), (130, PHOTOS)]
    assert set(mine.parts) == set(theirs.parts)
    for name in ("axes.npy", "refine.npy", "refine_scale.npy"):
        assert (ours / name).read_bytes() == (plain / name).read_bytes(), name
    # Products of other blocks may round otherwise, at the edge of a step.
    far = np.load(ours / "sketch.npy").astype(int) - np.load(plain / "sketch.npy")
    assert abs(far).max() <= 1 and (far == 0).mean() > 0.999
    for entry in mine.shards:
        shard = ivfpq.load(ours / entry.file, CPU)  # what the arrays of ids are views of
        held = np.sort(np.concatenate(_ids(shard)))
        np.testing.assert_array_equal(held, np.arange(entry.start, entry.stop))


def test_the_index_is_that_of_a_build(gpu, photos, tmp_path):
    (report,) = run(photos, tmp_path / "store", ["fc8"])
    assert not gpu.plain and not report.reused and nothing_is_left(tmp_path / "store")
    verify_store(tmp_path / "store")
    gpu.plain.append("what follows is one")
    compare_with_a_build(tmp_path / "store", GPU)


@pytest.mark.gpu
def test_on_a_gpu_the_index_is_that_of_a_build(small, photos, tmp_path, monkeypatch):
    device = settle("cuda")
    with monkeypatch.context() as patches, Following(tmp_path / "store", ["fc8"], device) as following:
        patches.setattr(stream, "build_index", None)
        report = ingest([photos], tmp_path / "store", device=device, follower=following)
        following.build_next(["fc8"])
    assert set(report.stages) == {"read", "upload", "decode", "download", "write", "index fc8"}
    compare_with_a_build(tmp_path / "store", device)
    if importlib.util.find_spec("numba") is not None:  # a GPU host may lack it
        ingest([photos], tmp_path / "cpu", device=CPU)
        ours = {name: digest for name, digest in files_below(tmp_path / "store").items() if "indices" not in name}
        assert ours == files_below(tmp_path / "cpu")


def test_rows_never_come_back_to_the_host_for_the_index(gpu, photos, tmp_path, monkeypatch):
    consumers = Following.consumers

    def learned(*given):
        found = consumers(*given)
        gpu.crossed.clear()  # what follows is of the rows that come by
        return found

    monkeypatch.setattr(Following, "consumers", learned)
    (report,) = run(photos, tmp_path / "store", ["fc7"])
    parts = report.manifest.parts
    codes = sum(parts[name].bytes for name in ("sketch.npy", "sketch_scale.npy", "refine.npy", "refine_scale.npy"))
    assert 0.9 * codes < gpu.crossed["to_host"] <= codes < PHOTOS * 4096
    assert gpu.crossed["to_device"] == 0


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.of = "nobody"

    def record(self, stream: Any) -> None:
        self.of = stream.name

    def synchronize(self) -> None: ...


def test_shards_on_the_gpu_take_the_rows_by_its_own_thread(small, photos, tmp_path, monkeypatch):
    """With all of the pretended GPU: the kernels' own, and FAISS's, which insists on its thread."""
    emulated_or_skip()
    with machine_of(monkeypatch) as machine:
        cuda = machine.cupy.cuda
        cuda.Event, cuda.alloc_pinned_memory, cuda.get_elapsed_time = Event, bytearray, lambda start, stop: 1.0
        monkeypatch.setattr(emulated, "Cupy", lambda: machine.cupy)
        kernels = emulated.load()
        monkeypatch.setattr(kernels, "principal_axes", axes_of_last_block)
        for module in (stages, stream, build_module):
            monkeypatch.setattr(module, "load", lambda _: kernels)
        monkeypatch.setattr(stream, "build_index", None)
        (report,) = run(photos, tmp_path / "store", ["fc8"])
        assert machine.peak[0] > 0 and not machine.wrong
        waits = [what for _, what in machine.log if what.startswith("wait for")]
        assert len(waits) >= 2 * 7, "FAISS's stream waits for the rows, and the rows' for FAISS, block by block"
    for entry in report.manifest.shards:
        shard = ivfpq.load(report.path / entry.file, CPU)
        held = np.sort(np.concatenate(_ids(shard)))
        np.testing.assert_array_equal(held, np.arange(entry.start, entry.stop))


def test_both_layers_in_one_pass(gpu, photos, tmp_path):
    reports = run(photos, tmp_path / "store", ["fc7", "fc8"])
    assert [report.manifest.spec.layer for report in reports] == ["fc7", "fc8"] and not gpu.plain
    ingest([photos], tmp_path / "cpu", device=CPU, threads=2)
    ours = {name: sum for name, sum in files_below(tmp_path / "store").items() if "indices" not in name}
    assert ours == files_below(tmp_path / "cpu")


@pytest.fixture
def damaged(photos, tmp_path):
    """Makes a collection with one damaged file, the photo of a row."""

    def damaged(row: int) -> Any:
        root = tmp_path / "damaged"
        write_photos(root, range(0, PHOTOS * 3, 3))
        write_photo(root, row * 3, photo_bytes(row * 3)[:-1])
        return root

    return damaged


@pytest.mark.parametrize("where", ["in the sample", "outside"])
def test_a_refused_file_makes_it_a_plain_build(gpu, damaged, tmp_path, where):
    row = int(sample_rows(PHOTOS, TRAINING, 0)[7]) if where == "in the sample" else outside_of_the_sample()
    root = damaged(row)
    with Following(tmp_path / "store", ["fc8"], GPU) as following:
        ingest([root], tmp_path / "store", device=GPU, threads=2, follower=following)
        assert bool(following.builds) == (where == "outside")
        gpu.plain.append("fc8")
        report = following.build_next(["fc8"])
    assert gpu.plain == ["fc8", "fc8"] and report.manifest.rows == PHOTOS - 1
    assert nothing_is_left(tmp_path / "store")


@pytest.mark.parametrize("at", [0, 200])
def test_a_full_gpu_makes_it_a_plain_build_and_harms_no_photo(gpu, photos, tmp_path, monkeypatch, at):
    """Of the first layer; the second goes on as it was."""
    gpu.fail_at, added = at, gpu.add
    monkeypatch.setattr(ivfpq, "add", lambda shard, rows, first: loose(gpu, added, shard, rows, first))
    reports = run(photos, tmp_path / "store", ["fc7", "fc8"])
    assert gpu.plain == ["fc7"] and [report.manifest.rows for report in reports] == [PHOTOS] * 2
    assert nothing_is_left(tmp_path / "store")


def loose(gpu: Gpu, add: Any, shard: Any, rows: Any, first: int) -> None:
    """As `Gpu.add`, whichever build it is of."""
    if gpu.fail_at is not None:
        add(shard, rows, first)
    else:
        gpu._add(shard, emulated.on_host(rows), first)


def test_a_build_that_fails_says_what_goes_on(gpu, photos, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise DeviceError("cuda:0: lost.")

    monkeypatch.setattr(ivfpq, "add", failing)
    with pytest.raises(
        EngineError, match=r"^cuda:0: lost\. The photos are in .* `mirsearch build .*store --layer fc8`"
    ):
        run(photos, tmp_path / "store", ["fc8"])
    assert len(Store.open(tmp_path / "store")) == PHOTOS and nothing_is_left(tmp_path / "store")


def test_an_ingest_that_goes_on_is_followed_by_a_plain_build(gpu, photos, tmp_path, monkeypatch):
    store, calls = tmp_path / "store", Counter[str]()
    write = StoreWriter.write

    def failing(*given, **how):
        calls["write"] += 1
        if calls["write"] == 5:
            raise OSError("planted")
        write(*given, **how)

    with monkeypatch.context() as patches:
        patches.setattr(StoreWriter, "write", failing)
        assert isinstance(in_time(lambda: run(photos, store, ["fc8"])), OSError)
    assert nothing_is_left(store) and not (store / "indices").exists()
    gpu.plain.append("all that follows")
    (report,) = run(photos, store, ["fc8"])
    assert gpu.plain[1:] == ["fc8"] and report.manifest.rows == PHOTOS


def test_a_store_that_came_to_nothing_leaves_nothing(gpu, damaged, tmp_path):
    root = damaged(outside_of_the_sample())
    with pytest.raises(InputError, match=r"--strict"):
        run(root, tmp_path / "store", ["fc8"], strict=True)
    assert not (tmp_path / "store").exists()


def test_few_photos_have_an_exact_index(gpu, tmp_path):
    gpu.plain.append("all that follows")
    (report,) = run(write_photos(tmp_path / "few", range(20)), tmp_path / "store", ["fc8"])
    assert report.manifest.spec.lists == 0 and report.manifest.rows == 20


def test_appended_photos_are_followed_by_a_plain_build(gpu, photos, tmp_path):
    gpu.plain.append("all that follows")
    ingest([write_photos(tmp_path / "few", range(1, 60, 3))], tmp_path / "store", device=CPU, threads=2)
    (report,) = run(photos, tmp_path / "store", ["fc8"])
    assert gpu.plain[1:] == ["fc8"] and report.manifest.rows == PHOTOS + 20
    assert json.loads((tmp_path / "store" / "manifest.json").read_text())["rows"] == PHOTOS + 20
