"""Every `.cu` file compiles for every architecture that is supported, on machines without a GPU too."""

import re
from pathlib import Path
from typing import Any

import pytest

import kernels

SOURCES = sorted(Path(kernels.__file__).parent.glob("*.cu"))
ARCHITECTURES = ["sm_75", "sm_80", "sm_90"]
# What a kernel keeps in local memory, by the assembler's own report: bytes of its stack, stored and loaded again.
REPORT = re.compile(
    r"Function properties for (\w+)\n[^\n]*?(\d+) bytes stack frame, "
    r"(\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"[^\n]*?Used (\d+) registers"
)
MOST_REGISTERS = 64  # 65,536 of a multiprocessor over 1,024 threads: half of what sm_80 and sm_90 can hold


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


def kernels_of(source: str) -> list[str]:
    """The names of a source's kernels."""
    return re.findall(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)', source)


def local_memory(nvrtc: Any, path: Path, architecture: str) -> dict[str, tuple[int, ...]]:
    """Of each kernel: bytes of its stack, of spill stores and of spill loads, and its registers."""
    from kernels.cuda import COMPILE_OPTIONS

    options = *COMPILE_OPTIONS, f"-arch={architecture}", "--ptxas-options=-v"
    _, log = compiled(nvrtc, path.read_text(), path.name, options)
    return {name: tuple(map(int, numbers)) for name, *numbers in REPORT.findall(log)}


def test_there_are_sources():
    assert {path.name for path in SOURCES} >= {"decode.cu", "rerank.cu"}
    assert all(kernels_of(path.read_text()) for path in SOURCES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_compiles_without_a_word(nvrtc, path, architecture):
    from kernels.cuda import COMPILE_OPTIONS

    assert not any("fast" in option for option in COMPILE_OPTIONS)  # exact scores are exact on the GPU too
    code, log = compiled(nvrtc, path.read_text(), path.name, (*COMPILE_OPTIONS, f"-arch={architecture}"))
    assert code[:4] == b"\x7fELF" and log.strip("\0\n ") == ""
    assert all(f".text.{name}".encode() in code for name in kernels_of(path.read_text()))
    assert path.read_text().count('extern "C"') == len(kernels_of(path.read_text()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_kernel_spills_registers(nvrtc, path, architecture):
    found = local_memory(nvrtc, path, architecture)
    assert found.keys() == set(kernels_of(path.read_text()))
    assert {name: numbers[1:3] for name, numbers in found.items()} == dict.fromkeys(found, (0, 0))
    # An array that is indexed by what only the run knows lies on the stack, which is as slow as a spill.
    assert {name: numbers[0] for name, numbers in found.items()} == dict.fromkeys(found, 0)
    assert max(numbers[3] for numbers in found.values()) <= MOST_REGISTERS


def test_a_kernel_that_spills_is_seen(nvrtc, tmp_path):
    lines = "\n".join(f"    double v{i} = from[{i} * n + threadIdx.x];" for i in range(200))
    total = " + ".join(f"v{i} * v{(i * 7) % 200}" for i in range(200))
    greedy = tmp_path / "greedy.cu"
    greedy.write_text(
        f'extern "C" __global__ void greedy(const double* from, double* to, int n) {{\n{lines}\n'
        f"    for (int i = 0; i < n; ++i) {{ __syncthreads(); to[i * n + threadIdx.x] = i * ({total}); }}\n}}\n"
    )
    stack, stores, loads, registers = local_memory(nvrtc, greedy, "sm_90")["greedy"]
    assert stack and stores and loads and registers > MOST_REGISTERS


def test_a_broken_source_is_refused(nvrtc):
    source = SOURCES[0].read_text()
    with pytest.raises(AssertionError, match="undefined"):
        compiled(nvrtc, source.replace("blockIdx.x", "blockIndex.x"), "broken.cu", ("-arch=sm_90",))
