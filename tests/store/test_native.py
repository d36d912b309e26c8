"""Compiled loops are kept, loaded without Numba, and compiled anew when they are not what they should be."""

import subprocess
import sys
from pathlib import Path

import pytest

native = pytest.importorskip("engine.store.native")
loops = pytest.importorskip("engine.store.loops")

PROGRAM = """
import sys
import numpy as np
from engine.store.native import native
counts = np.full(4, 9)
native("sort_out")(0, 0, 0, 0, 0, 0, counts.ctypes.data)
print(counts.tolist(), "numba" in sys.modules)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no other."""
    monkeypatch.setattr(native, "_places", lambda name: iter([tmp_path / "cache" / f"loops.{name}.o"]))
    return tmp_path / "cache"


def test_code_is_kept_and_loaded_without_numba_and_damage_is_noticed(folder: Path) -> None:
    code = native._compiled("sort_out")
    file = folder / "loops.sort_out.o"
    assert native._kept("sort_out") == code and list(folder.iterdir()) == [file]
    whole = file.read_bytes()
    flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    for damaged in (b"", whole[:10], whole[:-1], flipped, b"0" * 16 + whole[16:]):
        file.write_bytes(damaged)
        assert native._kept("sort_out") is None
    assert native._compiled("sort_out") == native._kept("sort_out")


def test_a_second_process_needs_no_numba() -> None:
    native.native("sort_out")  # kept from now on
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[0, 0, 0, 0] False", done.stderr


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(folder: Path) -> None:
    folder.write_text("a file, not a folder")
    assert native._kept("sort_out") is None
    assert native._compiled("sort_out")
    assert folder.read_text() == "a file, not a folder"


def test_code_that_calls_more_than_the_c_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in loops.FUNCTIONS:
        assert native._compiled(name)
    monkeypatch.setattr(loops, "CALLS", loops.CALLS - {"openat"})
    with pytest.raises(ImportError, match="the machine code of read_records calls openat"):
        native._compiled("read_records")


def test_an_exception_that_should_not_be_is_not_passed_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> int:
        if number > 3:
            raise ValueError
        return number

    monkeypatch.setitem(loops.FUNCTIONS, "fails", (fails, (loops.types.int64,)))
    run = native.native("fails")
    run(3)
    with pytest.raises(RuntimeError, match="fails failed"):
        run(4)


def test_the_state_of_sources_and_processor_is_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> str:
        native._state.cache_clear()
        found: str = native._state()
        return found

    try:
        first = state()
        assert state() == first
        monkeypatch.setattr(native.llvm, "get_host_cpu_name", lambda: "another")
        second = state()
        monkeypatch.setattr(native, "_SOURCES", ("dat.py",))
        assert len({first, second, state()}) == 3
    finally:
        monkeypatch.undo()
        state()
