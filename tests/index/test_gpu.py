"""GPUs of a process, pretended ones: their threads and memory, and how a device is settled."""

import threading

import pytest

from engine.errors import DeviceError, InputError
from engine.index import ivfpq
from engine.index.device import settle
from engine.index.gpu import Gpu, Room, gpu_of, in_use
from kernels import Device
from kernels.device import GpuOptions, cupy_gpus
from tests.index.gpu_shards import cuda, files, machine_of, rows


def test_what_is_still_held_is_given_back_when_the_process_ends(tmp_path, monkeypatch):
    """`machine_of` ends as a process does: it asks that all memory is free and was freed by its own thread."""
    with machine_of(monkeypatch, 2):
        opened = ivfpq.load_all(files(tmp_path, 3), cuda(0, 1))
        found = ivfpq.search_all(opened, rows()[:2], 5, 4)[1]
    assert found.min() >= 0 and len(opened) == 3


def test_a_lane_has_one_thread_its_gpu_and_its_stream(monkeypatch):
    with machine_of(monkeypatch, 2) as machine:
        lane = gpu_of(1, GpuOptions()).lane()

        def seen():
            return threading.get_ident(), machine.current(), machine.cupy.cuda.get_current_stream()

        assert lane.run("look", seen) == lane.run("look", seen) == (lane._thread.ident, 1, lane.stream)
        assert lane.resources.stream == ("stream", lane.stream.ptr)
        with pytest.raises(ZeroDivisionError):
            lane.run("divide", lambda: 1 // 0)
        with pytest.raises(DeviceError, match="not enough memory to fill"):
            lane.run("fill", lambda: (_ for _ in ()).throw(MemoryError("Out of memory allocating 5 bytes")))
        assert lane.run("go on", lambda: 7) == 7
        assert gpu_of(1, GpuOptions()) is gpu_of(1, GpuOptions(memory=10_000))
        del lane


def test_memory_is_that_of_the_option_or_half_of_what_is_free(monkeypatch):
    with machine_of(monkeypatch, memory=1 << 34) as machine:
        own = gpu_of(0, GpuOptions())
        assert own.memory == 1 << 33 and own.temporary == 1 << 30 and own.room == (1 << 33) - (2 << 30)
        assert gpu_of(0, GpuOptions(memory=8_000_000)) is own
        assert (own.memory, own.temporary, own.room) == (8_000_000, 1_000_000, 6_000_000)
        assert own.lane().resources.temporary == own.lane(1).resources.temporary == 1_000_000
        assert ivfpq.describe_build(cuda(memory=8_000_000, library="cuvs")).items() >= {
            ("gpu_library", "cuvs")
        } and ivfpq.describe_build(cuda())["gpu_memory"] == [8_000_000]
        assert machine.used == [0]
        del own


def test_memory_in_use(monkeypatch):
    with machine_of(monkeypatch, 2) as machine:
        machine.used = [5, 1 << 20]
        assert in_use(cuda(1, 0)) == [1 << 20, 5]
        machine.used = [0, 0]


def test_rooms_are_given_back(monkeypatch):
    with machine_of(monkeypatch):
        own = Gpu(0, 8000)
        room = Room(own, 4000, "a shard")
        with pytest.raises(DeviceError, match=r"cuda:0: another takes 2,001 bytes, of 6,000 for shards 2,000 are left"):
            Room(own, 2001, "another")
        room.grow(5000, "a shard")
        room.grow(10, "a shard")
        assert (own.held, own.left) == (5000, 1000)
        with pytest.raises(DeviceError):
            room.grow(6001, "a shard")
        del room
        assert (own.held, own.left) == (0, 6000)
        own.close()


@pytest.fixture
def two_gpus(monkeypatch):
    with machine_of(monkeypatch, 2, cuvs=False) as machine:
        monkeypatch.setattr("kernels.device._has_driver", lambda: True)
        cupy_gpus.cache_clear()
        monkeypatch.setattr(ivfpq, "gpu_count", lambda: (machine.gpus, ""))
        yield machine
    cupy_gpus.cache_clear()


def test_settled_with_options(two_gpus):
    options = GpuOptions(memory=3_000_000, replicate=True)
    device = settle("cuda:1,0", gpu=options)
    assert device.gpus == (1, 0) and device.gpu is options and str(device) == "cuda:1,0"
    assert (
        device.why
        == "asked for; IVF-PQ of FAISS; at most 3,000,000 bytes of each GPU for shards; every shard on each GPU"
    )
    assert settle("auto").why == "2 GPU(s) found; IVF-PQ of FAISS" and settle("cuda").gpu == GpuOptions()
    assert settle("cuda", needs_faiss=False).why == "asked for"
    assert settle("cpu", gpu=options) == Device(kind="cpu", why="asked for")


def test_a_library_that_is_not_there_is_one_line(two_gpus):
    for text in ("cuda", "auto"):
        with pytest.raises(DeviceError, match=r"--gpu-library cuvs: this FAISS .* pip install 'mirsearch\[cuda13\]'"):
            settle(text, gpu=GpuOptions(library="cuvs"))
    two_gpus.cuvs = True
    assert settle("cuda", gpu=GpuOptions(library="cuvs")).why == "asked for; IVF-PQ of cuVS"
    with pytest.raises(DeviceError, match=r"GPU 2 does not exist, there are 2"):
        settle("cuda:2")
    with pytest.raises(InputError):
        settle("gpu")


def test_a_driver_that_is_too_old_is_named(two_gpus):
    def fail():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version")

    two_gpus.cupy.cuda.runtime.getDeviceCount = fail
    cupy_gpus.cache_clear()
    with pytest.raises(DeviceError, match=r"--device cuda: NVIDIA's driver is too old for this CuPy .*update it"):
        settle("cuda")
    assert "too old" in settle("auto").why


@pytest.mark.parametrize("given", [{"memory": 0}, {"memory": -5}, {"library": "raft"}])
def test_options_that_cannot_be(given):
    with pytest.raises(ValueError, match=r"gpu-(memory|library) "):
        GpuOptions(**given)
