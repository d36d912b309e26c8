"""Machine code that Numba made once, loaded afterwards without Numba.

Importing Numba and loading what it keeps in its own cache takes most of a second, more than many an ingest. What the
functions of `engine.store.loops` are compiled to is therefore kept as object files beside the sources, and linked by
LLVM alone (llvmlite, which Numba needs anyway) in some milliseconds. An object file is of one processor, one version
of Numba and one state of the sources: its name says which, and for any other the function is compiled anew.
"""
# mypy: disable-error-code=import-untyped

import ctypes
import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import xxhash

_SOURCES = (
    "loops.py",
    "archives/walk.py",
    "archives/kinds.py",
    "dat.py",
    "native.py",
)  # what the machine code depends on
_DIGEST = 16  # bytes in front of the code: its XXH3 checksum, in hexadecimal digits
_LOCK = Lock()
_linked: list[Any] = []  # engines of LLVM, which own the code


@cache
def native(name: str) -> Callable[..., int]:
    """A function of `engine.store.loops`, compiled. ImportError where that takes Numba and there is none.

    Its arguments are integers: numbers, and addresses of arrays (`array.ctypes.data`) that the caller keeps alive,
    contiguous and as long as the function says. It runs without the GIL.
    """
    with _LOCK:
        with suppress(RuntimeError):  # newer versions of llvmlite have done it already, and say so
            llvm.initialize()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(_kept(name) or _compiled(name)))
        engine.finalize_object()
        _linked.append(engine)
    # Numba's convention: room for the result and for an exception, then the arguments; gives 0 when all went well.
    call = ctypes.CFUNCTYPE(ctypes.c_int32)(engine.get_function_address(name))
    exception = ctypes.byref(ctypes.c_int64())

    def run(*arguments: int) -> int:
        result = ctypes.c_int64()
        if call(ctypes.byref(result), exception, *map(ctypes.c_int64, arguments)):
            raise RuntimeError(f"{name} failed")
        return result.value

    return run


def _machine() -> Any:
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="static" if os.uname().machine == "aarch64" else "default",  # as Numba has it
        codemodel="jitdefault",
        jit=True,
    )


@cache
def _state() -> str:
    """What object files are of, in some hexadecimal digits."""
    seen = hashlib.sha256()
    here = Path(__file__).parent
    numba = importlib.util.find_spec("numba")  # which does not import it
    version = [Path(numba.origin).with_name("_version.py")] if numba and numba.origin else []
    for path in [*(here / name for name in _SOURCES), *version]:
        seen.update(path.read_bytes() if path.exists() else b"")
    seen.update(f"{llvmlite.__version__} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}".encode())
    return seen.hexdigest()[:16]


def _places(name: str) -> Iterator[Path]:
    file = f"loops.{name}-{_state()}.o"
    if os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(os.environ["NUMBA_CACHE_DIR"]) / file
    yield Path(__file__).parent / "__pycache__" / file
    with suppress(RuntimeError):  # nobody's home
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirsearch" / file


def _kept(name: str) -> bytes | None:
    for path in _places(name):
        with suppress(OSError):
            kept = path.read_bytes()
            if xxhash.xxh3_64_hexdigest(kept[_DIGEST:]).encode() == kept[:_DIGEST]:
                return kept[_DIGEST:]
    return None


def _compiled(name: str) -> bytes:
    loops = importlib.import_module("engine.store.loops")
    module = llvm.parse_assembly(loops.compiled(name))
    missing = {called.name for called in module.functions if called.is_declaration} - loops.CALLS
    missing = {called for called in missing if not called.startswith("llvm.")}
    if missing:  # LLVM would end the process when it cannot find them
        raise ImportError(f"the machine code of {name} calls {', '.join(sorted(missing))}")
    code: bytes = _machine().emit_object(module)
    for path in _places(name):
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(xxhash.xxh3_64_hexdigest(code).encode() + code)
                part.rename(path)
                break
            finally:
                part.unlink(missing_ok=True)
    return code
