"""What goes wrong on a GPU is one line: what, how much was asked for and is free, what to do."""

import pytest

from engine.errors import DeviceError, EngineError
from engine.index.device import failing_clearly
from engine.index.gpu_errors import explained
from kernels import Device
from tests.index.gpu_shards import cuda, machine_of

OUT_OF_MEMORY = [
    "Error in allocMemory: StandardGpuResources: alloc fail type IVFLists dev 0 space Device stream 0x55 size 12345678 "
    "bytes (cudaMalloc error out of memory [2])\n",
    "Out of memory allocating 12,345,678 bytes (allocated so far: 0 bytes).",
    "std::bad_alloc: out_of_memory: CUDA error (failed to allocate 12345678 bytes) at: rmm",
]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_out_of_memory(text, monkeypatch):
    with machine_of(monkeypatch, memory=1000):
        error = explained(RuntimeError(text), 0, "add rows")
    assert isinstance(error, DeviceError)
    said = str(error)
    assert said.startswith("cuda:0: not enough memory to add rows:") and "\n" not in said
    assert "1,000 of 1,000 bytes are free" in said and "--rows-per-shard" in said and "--device cpu" in said
    assert ("12,345,678 bytes" in said) == ("bad_alloc" not in text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cudaErrorInsufficientDriver: CUDA driver version is insufficient", "driver is too old.*Update it"),
        ("CUDA error 46 cudaErrorDevicesUnavailable: all CUDA-capable devices are busy", "busy or in exclusive use"),
        ("cudaErrorECCUncorrectable: uncorrectable ECC error encountered", r"damaged \(ECC\)"),
        ("cudaErrorIllegalAddress: an illegal memory access", "GPU was lost; it was to search"),
        ("cudaErrorLaunchFailure: unspecified launch failure", "GPU was lost; it was to search"),
    ],
)
def test_failures_of_a_gpu(text, said):
    with pytest.raises(DeviceError, match=f"^cuda:3: .*{said}.*--device cpu"):
        raise explained(RuntimeError(text), 3, "search")


def test_other_errors_of_faiss_are_told_as_they_are():
    error = explained(RuntimeError("Error in train:\n  no rows"), 0, "train on the GPU")
    assert type(error) is EngineError and str(error) == "FAISS could not train on the GPU: Error in train: no rows."


def test_what_kernels_say_of_a_gpu_is_one_line_too(monkeypatch):
    said = r"^cuda:0: not enough memory to search: asked for 96 bytes"
    with machine_of(monkeypatch), pytest.raises(DeviceError, match=said), failing_clearly(cuda(), "search"):
        raise MemoryError("Out of memory allocating 96 bytes (allocated so far: 0 bytes).")
    for device, error in ((cuda(), RuntimeError("a bug")), (Device(kind="cpu"), MemoryError("out of memory"))):
        with pytest.raises(type(error), match=str(error)), failing_clearly(device, "search"):
            raise error
