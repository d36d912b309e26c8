"""The door to the kernels: what a device is called, and that CUDA without a GPU is an error that says why."""

import sys
import types

import pytest

from kernels import Device, DeviceUnavailableError, load, parse_device
from kernels.device import cpu_threads, cupy_gpus


@pytest.fixture
def asked_anew(monkeypatch):
    """What was found out about GPUs is forgotten before and after; there is a driver."""
    monkeypatch.setattr("kernels.device._has_driver", lambda: True)
    cupy_gpus.cache_clear()
    load.cache_clear()
    yield
    cupy_gpus.cache_clear()
    load.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    runtime = types.SimpleNamespace(getDeviceCount=lambda: gpus)
    cuda = types.SimpleNamespace(is_available=lambda: gpus > 0, runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", ("auto", ())),
        ("cpu", ("cpu", ())),
        ("cuda", ("cuda", ())),
        ("cuda:0", ("cuda", (0,))),
        ("cuda:3,1", ("cuda", (3, 1))),
        ("cuda:12", ("cuda", (12,))),
    ],
)
def test_parse_device(text, expected):
    assert parse_device(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "gpu", "CUDA", "cuda:", "cuda:a", "cuda:0,", "cuda:,1", "cuda:-1", "cuda 0", "cpu:0", "auto ", "cuda:0\n"],
)
def test_parse_device_refuses(text):
    with pytest.raises(ValueError, match=r"expected auto, cpu, cuda, cuda:0 or cuda:0,1"):
        parse_device(text)


def test_a_gpu_named_twice_is_refused():
    with pytest.raises(ValueError, match="'cuda:1,1': a GPU is named twice"):
        parse_device("cuda:1,1")


def test_device_names():
    assert str(Device(kind="cpu")) == "cpu"
    assert str(Device(kind="cuda", gpus=(0, 2))) == "cuda:0,2"
    assert parse_device(str(Device(kind="cuda", gpus=(0, 2)))) == ("cuda", (0, 2))


def test_cuda_without_cupy(monkeypatch, asked_anew):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceUnavailableError, match="CuPy is not installed"):
        load("cuda")


def test_cuda_without_a_gpu(monkeypatch, asked_anew):
    pretend(monkeypatch, 0)
    assert cupy_gpus()[0] == 0
    with pytest.raises(DeviceUnavailableError, match="CuPy sees no GPU"):
        load(Device(kind="cuda", gpus=(0,)))


def test_cuda_with_a_broken_installation(monkeypatch, asked_anew, tmp_path):
    (tmp_path / "cupy.py").write_text("raise RuntimeError('libcudart is of another age')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    with pytest.raises(DeviceUnavailableError, match=r"cannot be imported: libcudart is of another age"):
        load("cuda")


def test_without_a_driver_cupy_is_not_even_imported(monkeypatch, asked_anew, tmp_path):
    (tmp_path / "cupy.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr("kernels.device._has_driver", lambda: False)
    assert cupy_gpus() == (0, "CuPy sees no GPU (no driver, or no device)")


def test_gpus_are_counted(monkeypatch, asked_anew):
    pretend(monkeypatch, 3)
    assert cupy_gpus() == (3, "")


def test_load():
    assert load("reference").__name__ == "kernels.reference"  # type: ignore[attr-defined]
    pytest.importorskip("numba")
    assert load("cpu") is load(Device(kind="cpu"))
    assert load("cpu").__name__ == "kernels.cpu"  # type: ignore[attr-defined]


def test_threads():
    assert cpu_threads() >= 1
