"""The way through a GPU: the same store byte by byte, buffers that are enough, one error, nothing lost."""

import itertools
import tarfile
import threading
import time
from typing import Any

import numpy as np
import pytest

from engine.errors import DeviceError, StoreError
from engine.store import copy as copy_module
from engine.store import stages
from engine.store.flow import Flow
from engine.store.ingest import ingest
from engine.store.reader import RawReader
from engine.store.sources import find_sources
from engine.store.stages import LANES
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, dat_bytes, files_below, photo_bytes, photo_layers, write_photo, write_photos
from tests.store.fake_device import GPU, FakeDevice, values
from tests.store.test_ingest import in_time

BLOCK = 4


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(copy_module, "BLOCK_FILES", BLOCK)


@pytest.fixture
def use(monkeypatch):
    """Makes a pretended device the one that ingests run on."""

    def use(**how: Any) -> FakeDevice:
        device = FakeDevice(**how)
        monkeypatch.setattr(stages, "load", lambda _: device)
        return device

    return use


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Photos 0 to 39, some damaged: alone in a block, at its ends, and a whole block of them."""
    root = tmp_path_factory.mktemp("damaged")
    write_photos(root, range(40))
    fc7, fc8 = photo_layers(1)
    fc7[7] = np.nan
    for photo_id, content in {
        5: b"", 8: photo_bytes(8)[:-1], 11: photo_bytes(11) + b"\0", 14: dat_bytes(fc7, fc8),
        **{i: dat_bytes(*photo_layers(i), dims=(1, 2)) for i in range(20, 25)}, 39: b"cut short",
    }.items():  # fmt: skip
        write_photo(root, photo_id, content)
    (root / "0" / "17.dat").unlink()
    (root / "0" / "17.dat").mkdir()
    return root


def no_stage_is_left() -> bool:
    names = {thread.name.split("-")[0] for thread in threading.enumerate()}
    return not names & {"read", "device", "write"}


@pytest.mark.parametrize("photos", [1, 3, 4, 5, 12, 13, 50])
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_the_store_is_that_of_the_cpu(tmp_path, use, photos, threads):
    """One block, whole ones, a last one that is not full, more blocks than lanes and buffers."""
    device = use()
    write_photos(tmp_path / "in", range(0, photos * 3, 3))
    report = ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=threads)
    ingest([tmp_path / "in"], tmp_path / "cpu", device=CPU, threads=2)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")
    blocks = -(-photos // BLOCK)
    assert (device.counts["upload"], device.counts["decode"], device.counts["download"]) == (blocks, blocks, 3 * blocks)
    assert device.counts["synchronize"] == blocks, "one wait for each block"
    assert set(report.stages) == {"read", "upload", "decode", "download", "write"}
    assert all(0 <= share <= 1 for share in report.stages.values()) and report.bound in report.stages
    assert no_stage_is_left()


def test_refused_records_in_the_middle(damaged, tmp_path, use):
    use()
    report = ingest([damaged], tmp_path / "gpu", device=GPU, threads=3)
    ingest([damaged], tmp_path / "cpu", device=CPU, threads=2)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")
    assert (report.photos, report.refused) == (29, 11)


def test_members_of_an_archive_among_files(tmp_path, use):
    """Blocks that take from a folder and from an archive by turns."""
    device = use()
    write_photos(tmp_path / "in", range(0, 40, 2))
    with tarfile.open(tmp_path / "in" / "odd.tar", "w") as archive:
        for path in sorted(write_photos(tmp_path / "members", range(1, 40, 2)).rglob("*.dat")):
            archive.add(path, path.name)
    write_photo(tmp_path / "in" / "more", 41, b"cut short")
    report = ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=2)
    ingest([tmp_path / "in"], tmp_path / "cpu", device=CPU, threads=2)
    assert (report.photos, report.refused, device.counts["decode"]) == (40, 1, 11)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")


def test_places_that_cannot_be_opened(tmp_path):
    write_photos(tmp_path, [1, 2])
    files = find_sources([tmp_path]).listing
    (tmp_path / "0").rename(tmp_path / "elsewhere")
    whole = np.ones(2, np.bool_)
    RawReader().read(files, np.zeros((2, 20_400), np.uint8), whole)
    assert not whole.any()


def test_no_records_take_no_buffers(tmp_path, use):
    write_photos(tmp_path / "in", range(9))
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=2)
    before = files_below(tmp_path / "store")
    device = use()
    report = ingest([tmp_path / "in"], tmp_path / "store", device=GPU)
    assert (report.photos, report.known, report.stages, report.bound) == (0, 9, {}, None)
    assert not device.counts and not device.page_locked and files_below(tmp_path / "store") == before


def test_the_cpu_has_no_stages(tmp_path):
    write_photos(tmp_path / "in", range(9))
    report = ingest([tmp_path / "in"], tmp_path / "store", device=CPU, threads=2)
    assert report.stages == {} and report.bound is None


@pytest.mark.parametrize("threads", [1, 4])
def test_never_more_in_flight_than_there_are_buffers(tmp_path, use, monkeypatch, threads):
    """Writing is the slowest stage by far: reading must wait for it, and take no memory instead."""
    device = use()
    photos, in_flight, most = 60 * BLOCK, itertools.count(), 0
    write_photos(tmp_path / "in", range(photos))
    begun, written, write, read = in_flight, [0], StoreWriter.write, RawReader.read

    def counting(self, records, *rest):
        nonlocal most
        most = max(most, next(begun) + 1 - written[0])
        read(self, records, *rest)

    def slow(self, *given, **named):
        time.sleep(0.005)
        write(self, *given, **named)
        written[0] += 1  # a lost count makes more seem in flight, never fewer

    monkeypatch.setattr(RawReader, "read", counting)
    monkeypatch.setattr(StoreWriter, "write", slow)
    ingest([tmp_path / "in"], tmp_path / "store", device=GPU, threads=threads)
    writers = max(threads // 2, 2)
    buffers, rows = threads + LANES, writers + LANES
    # Of what is written, the count comes a moment after the buffer is free.
    assert threads <= most <= buffers + rows + writers
    assert device.page_locked == BLOCK * (buffers * 20_400 + rows * (5096 * 4 + 1))


STAGES = ["read", "upload", "decode", "download", "write"]


def plant(stage: str, number: int, error: BaseException, use: Any, monkeypatch: Any) -> None:
    """Let call `number` of a stage fail."""
    use(fail=(stage, number, error))
    if stage in ("read", "write"):
        owner, name = (RawReader, "read") if stage == "read" else (StoreWriter, "write")
        call, calls = getattr(owner, name), itertools.count()

        def failing(*given, **named):
            if next(calls) == number:
                raise error
            return call(*given, **named)

        monkeypatch.setattr(owner, name, failing)


@pytest.mark.parametrize("number", [0, 3, 9])
@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_ends_all_and_is_raised_once(tmp_path, use, monkeypatch, stage, number):
    write_photos(tmp_path / "in", range(40))
    error = MemoryError("planted")
    with monkeypatch.context() as patches:
        plant(stage, number, error, use, patches)
        raised = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=3))
    assert raised is error and no_stage_is_left()
    with pytest.raises(StoreError):
        Store.open(tmp_path / "gpu")
    use()
    ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=3)
    ingest([tmp_path / "in"], tmp_path / "cpu", device=CPU, threads=2)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")


def test_what_fails_after_the_first_failure_is_not_raised(tmp_path, use, monkeypatch):
    write_photos(tmp_path / "in", range(80))
    use()
    together, calls = threading.Barrier(8), itertools.count()

    def failing(*_, **__):
        together.wait(30)
        number = next(calls)
        time.sleep(0.05 * (number > 0))
        raise OSError(f"number {number}")

    monkeypatch.setattr(RawReader, "read", failing)
    raised = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=8))
    assert isinstance(raised, OSError) and raised.args == ("number 0",)


def test_page_locked_memory_that_is_not_there(tmp_path, use, monkeypatch):
    device = use()
    write_photos(tmp_path / "in", range(8))

    def full(shape):
        raise MemoryError("no page-locked memory")

    monkeypatch.setattr(device, "host_buffer", full)
    raised = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU))
    assert repr(raised) == "MemoryError('no page-locked memory')" and no_stage_is_left()


def test_a_failure_of_cuda_is_one_line(tmp_path, use):
    write_photos(tmp_path / "in", range(8))
    kind = type("CUDARuntimeError", (RuntimeError,), {"__module__": "cupy_backends.cuda.api.runtime"})
    use(fail=("decode", 1, kind("cudaErrorECCUncorrectable: uncorrectable ECC error\nmore")))
    raised = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU))
    assert isinstance(raised, DeviceError)
    assert str(raised).startswith("cuda:0: cudaErrorECCUncorrectable: uncorrectable ECC error. What was written stays")
    ingest([tmp_path / "in"], tmp_path / "gpu", device=CPU, threads=2)
    assert len(Store.open(tmp_path / "gpu")) == 8


@pytest.mark.parametrize("at", [0, 5])
def test_an_interrupt_ends_it_and_what_was_written_stays(tmp_path, use, monkeypatch, at):
    write_photos(tmp_path / "in", range(400))
    device, reads, read = use(), [], RawReader._read_one

    def counting(*given):
        reads.append(1)
        return read(*given)

    monkeypatch.setattr(RawReader, "_read_one", counting)
    blocks = itertools.count()

    def listener(phase, done, total, *, unit="rows", detail=""):
        if phase == "ingest" and next(blocks) == at:
            raise KeyboardInterrupt

    raised = in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=2, progress=listener))
    assert type(raised) is KeyboardInterrupt and no_stage_is_left()
    assert len(reads) < 400 and device.counts["decode"] < 100
    report = ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=2)
    assert report.resumed >= (at + 1) * BLOCK, "a block is reported once it is on the disk"
    ingest([tmp_path / "in"], tmp_path / "cpu", device=CPU, threads=2)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")


def test_reading_stops_between_two_files(tmp_path):
    write_photos(tmp_path, range(10))
    files, into, whole = find_sources([tmp_path]).listing, np.zeros((10, 20_400), np.uint8), np.zeros(10, np.bool_)
    left = iter(range(3))

    def check():
        if next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RawReader().read(files, into, whole, check)
    assert whole.tolist() == [True] * 3 + [False] * 7
    assert into[2].tobytes() == photo_bytes(2) and not into[3].any()


def test_blocks_of_an_interrupted_run_that_stand_elsewhere_now(tmp_path, use, monkeypatch):
    """Photos came that stand before them: what was written counts no more, and is read again."""
    write_photos(tmp_path / "in", range(100, 140))
    with monkeypatch.context() as patches:
        plant("write", 8, OSError("planted"), use, patches)
        assert in_time(lambda: ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=1))
    write_photos(tmp_path / "in", range(BLOCK))
    device = use()
    report = ingest([tmp_path / "in"], tmp_path / "gpu", device=GPU, threads=3)
    assert report.resumed == 0 and device.counts["decode"] == 11
    ingest([tmp_path / "in"], tmp_path / "cpu", device=CPU, threads=2)
    assert files_below(tmp_path / "gpu") == files_below(tmp_path / "cpu")


class Collector:
    """Keeps what it is given, as it is at that moment for whoever waits for nothing."""

    def __init__(self, device: FakeDevice) -> None:
        self.device, self.rows = device, [np.empty((0, 0), np.float32)][:0]
        self.firsts: list[int] = []
        self.threads: set[int] = set()

    def consume(self, rows, first_row):
        assert rows.dtype == np.float32 and self.device.current, "on the stream of the block"
        self.firsts.append(first_row)
        self.rows.append(values(rows))
        self.threads.add(threading.get_ident())


@pytest.mark.parametrize("whole", [True, False])
def test_consumers_get_every_row_once_in_order_without_the_host(tmp_path, use, damaged, whole):
    device = use()
    root = write_photos(tmp_path / "in", range(38)) if whole else damaged
    consumers = {"fc7": Collector(device), "fc8": Collector(device)}
    with StoreWriter(tmp_path / "store", {"fc7": 4096, "fc8": 1000}) as writer:
        pipeline = stages.Pipeline(find_sources([root]).listing, writer, GPU, 3, consumers)
        done = [count for count, _ in pipeline.run()]
        writer.finish(["made up"])
    assert done == sorted(done) and done[-1] == (38 if whole else 39)
    store = Store.open(tmp_path / "store")
    for layer, collector in consumers.items():
        np.testing.assert_array_equal(np.concatenate(collector.rows), store.layer(layer))
        ends = np.cumsum([len(rows) for rows in collector.rows])
        assert collector.firsts == [0, *ends[:-1].tolist()] and len(collector.threads) == 1
    # Only blocks with damage are sent a second time, when what is right is known.
    assert device.counts["to_device"] == (0 if whole else 2 * 5)
    # And no lane is used again before its rows were read, by whichever stream.
    assert device.counts["wait_event"] == (10 if whole else 9)
    assert {"index fc7", "index fc8"} < set(pipeline.shares)


def test_a_consumer_that_fails_ends_all(tmp_path, use):
    use()
    write_photos(tmp_path / "in", range(40))

    class Failing:
        def consume(self, rows, first_row):
            if first_row >= 12:
                raise MemoryError("planted")

    with StoreWriter(tmp_path / "store", {"fc7": 4096, "fc8": 1000}) as writer:
        pipeline = stages.Pipeline(find_sources([tmp_path / "in"]).listing, writer, GPU, 3, {"fc7": Failing()})
        assert repr(in_time(lambda: [*pipeline.run()])) == "MemoryError('planted')"
    assert no_stage_is_left()


def test_shares_are_of_the_time_that_the_threads_had(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("engine.store.flow.time.perf_counter", lambda: next(clock))
    flow = Flow()
    flow.start("read", lambda: None, 4)
    flow.start("write", lambda: None, 2)
    for stage, seconds in [("read", 10.0), ("read", 20.0), ("write", 5.0), ("upload", 1.0), ("download", 99.0)]:
        flow.count(stage, seconds)
    flow.end()
    assert flow.shares() == {"read": 0.75, "write": 0.25, "upload": 0.1, "download": 1.0}
