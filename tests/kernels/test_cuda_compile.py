"""Every `.cu` file compiles for every architecture that is supported, on machines without a GPU too."""

from pathlib import Path
from typing import Any

import pytest

import kernels

SOURCES = sorted(Path(kernels.__file__).parent.glob("*.cu"))
ARCHITECTURES = ["sm_75", "sm_80", "sm_90"]


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """NVIDIA's run-time compiler."""
    module = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed: nothing calls NVRTC")
    try:
        module.getVersion()
    except Exception as error:  # CuPy's DynamicLibNotFoundError, or the loader's own
        pytest.skip(f"NVRTC cannot be loaded (pip install 'mirsearch[test-cuda]'): {str(error).splitlines()[0]}")
    return module


def compiled(nvrtc: Any, source: str, name: str, options: tuple[str, ...]) -> tuple[bytes, str]:
    """Machine code and the compiler's log; an AssertionError with that log when it refuses."""
    program = nvrtc.createProgram(source, name, (), ())
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    else:
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


def test_there_are_sources():
    assert {path.name for path in SOURCES} == {"decode.cu", "rerank.cu"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_compiles_without_a_word(nvrtc, path, architecture):
    from kernels.cuda import COMPILE_OPTIONS

    assert not any("fast" in option for option in COMPILE_OPTIONS)  # exact scores are exact on the GPU too
    code, log = compiled(nvrtc, path.read_text(), path.name, (*COMPILE_OPTIONS, f"-arch={architecture}"))
    assert code[:4] == b"\x7fELF" and log.strip("\0\n ") == ""
    names = [line.split("(")[0].split()[-1] for line in path.read_text().splitlines() if 'extern "C"' in line]
    assert names and all(f".text.{name}".encode() in code for name in names)


def test_a_broken_source_is_refused(nvrtc):
    source = SOURCES[0].read_text()
    with pytest.raises(AssertionError, match="undefined"):
        compiled(nvrtc, source.replace("blockIdx.x", "blockIndex.x"), "broken.cu", ("-arch=sm_90",))
