"""The two scans of a folder give what Python's own lists give, for any names and any kinds of entries."""

import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.store import scandir
from engine.store.scandir import Scanned

scan = pytest.importorskip("engine.store.scan")
BOTH = pytest.mark.parametrize("way", [scan, scandir], ids=["numba", "python"])


def scanned(way: ModuleType, folder: Path) -> Scanned:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found: Scanned = way.scan(handle)
    finally:
        os.close(handle)
    return found


def found_names(found: Scanned) -> list[bytes]:
    """The names of the usual files, and that the arrays fit together."""
    names = [bytes(found.names[at:]).split(b"\0", 1)[0] for at in found.name_at.tolist()]
    assert b"".join(name + b"\0" for name in names) == bytes(found.names)
    assert found.photo_ids.dtype == found.name_at.dtype == np.int64 and found.names.dtype == np.uint8
    assert found.photo_ids.tolist() == [int(name[:-4]) for name in names]
    return names


def expected(folder: Path) -> tuple[list[bytes], list[tuple[bytes, int]], int]:
    """Usual files, others and the number ignored, from names and lstat alone."""
    usual, others, ignored = [], [], 0
    for path in folder.iterdir():
        name, kind = os.fsencode(path.name), stat.S_IFMT(path.lstat().st_mode)
        if kind == stat.S_IFREG and re.fullmatch(rb"[0-9]{1,18}\.[dD][aA][tT]", name):
            usual.append(name)
        elif kind in (stat.S_IFDIR, stat.S_IFLNK) or name.lower().endswith(b".dat"):
            others.append((name, kind >> 12))
        else:
            ignored += 1
    return sorted(usual), sorted(others), ignored


def agree(folder: Path) -> None:
    for way in (scan, scandir):
        found = scanned(way, folder)
        assert (sorted(found_names(found)), sorted(found.others), found.ignored) == expected(folder)


def make_socket(path: Path) -> None:
    handle = os.open(path.parent, os.O_RDONLY)  # a socket's path may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.fsencode(f"/proc/self/fd/{handle}/{path.name}"))
    finally:
        os.close(handle)


MAKERS: dict[str, Callable[[Path], None]] = {
    "file": Path.touch,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "socket": make_socket,
    "link": lambda path: path.symlink_to("1.dat"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to a folder": lambda path: path.symlink_to(".."),
}
DIGITS = st.text("0123456789", min_size=1, max_size=20).map(str.encode)
SUFFIX = st.sampled_from([b".dat", b".DAT", b".Dat", b".dAt", b".jpg", b"dat", b".da", b".datt", b".dat.dat", b"\n"])
ODD = st.binary(min_size=1, max_size=90).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
NAMES = st.one_of(
    st.tuples(DIGITS, SUFFIX).map(b"".join),
    st.tuples(ODD, SUFFIX).map(b"".join),
    st.tuples(DIGITS, ODD, SUFFIX).map(b"".join),
    st.tuples(SUFFIX, DIGITS).map(b"".join),
).filter(lambda name: name not in (b".", b"..", b""))
ENTRIES = st.dictionaries(NAMES, st.sampled_from([*["file"] * 5, *MAKERS]), max_size=40)
NASTY = [
    b"0.dat", b"000.dat", b"7.DAT", b"8.dAt", b"9" * 18 + b".dat", b"9" * 19 + b".dat", b"1" * 18 + b"x.dat", b".dat",
    b"..dat", b"...", b".d", b"1.dat\n", b"\n1.dat", b"1 .dat", b"-1.dat", b"+1.dat", b"1_0.dat", b"0x1.dat", b"1.dbt",
    b"\xd9\xa1.dat", b"\xff\xfe.dat", b"5\xff.dat", b"1\x0edat", b"1.\x04at", b"a" * 255, b"a" * 251 + b".dat",
    b"1" * 251 + b".dat", b"1" * 255,
]  # fmt: skip


@given(ENTRIES)
@example(dict.fromkeys(NASTY, "file"))
@example(dict.fromkeys(NASTY, "folder"))
@example({b"5.dat": "folder", b"6.dat": "pipe", b"7.dat": "socket", b"8.dat": "link", b"9.dat": "link to itself"})
@example({})
def test_any_folder_is_read_as_python_reads_it(entries: dict[bytes, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in entries.items():
            MAKERS[kind](Path(folder) / os.fsdecode(name))
        agree(Path(folder))


def test_a_folder_of_many_buffers(tmp_path: Path) -> None:
    for i in range(10_000):
        (tmp_path / f"{100_000 + i}.dat").touch()
    for i in range(1_000):
        (tmp_path / f"{i}{'-' * 200}.dat").touch()
        (tmp_path / f"{i}{'-' * 200}.txt").touch()
    agree(tmp_path)
    assert sorted(scanned(scan, tmp_path).photo_ids.tolist()) == list(range(100_000, 110_000))


@BOTH
def test_an_empty_and_a_removed_folder_hold_nothing(way: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(2):
            found = way.scan(handle)
            assert (found_names(found), found.others, found.ignored) == ([], [], 0)
            if folder.exists():
                folder.rmdir()
    finally:
        os.close(handle)


@BOTH
def test_what_is_no_folder_is_the_systems_error(way: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    handle = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(NotADirectoryError):
            way.scan(handle)
    finally:
        os.close(handle)


def test_an_entry_whose_type_the_disk_does_not_say_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {b"5.dat": 0, b"6.dat": scandir.REGULAR, b"some.txt": 0, b"other.txt": scandir.REGULAR, b".": 0, b"..": 0}
    buffer = b""  # struct dirent64, one after another, as getdents64 writes them
    for name, kind in entries.items():
        length = (scan._NAME + len(name)) // 8 * 8 + 8
        buffer += (bytes(16) + length.to_bytes(2, "little") + bytes([kind]) + name).ljust(length, b"\0")
    turns = iter([len(buffer), 0])

    def read(handle: int, into: Any) -> int:
        into[: len(buffer)] = np.frombuffer(buffer, np.uint8)
        return next(turns)

    monkeypatch.setattr(scan, "_read", read)
    found = scan.scan(-1)
    assert found_names(found) == [b"6.dat"]
    assert (found.others, found.ignored) == ([(b"5.dat", 0), (b"some.txt", 0)], 1)


def test_threads_scan_at_the_same_time(tmp_path: Path) -> None:
    for folder in range(4):
        (tmp_path / str(folder)).mkdir()
        for i in range(300):
            (tmp_path / str(folder) / f"{1000 * folder + i}.dat").touch()
    counts: list[list[int]] = [[] for _ in range(4)]

    def work(folder: int) -> None:
        for _ in range(50):
            ids = scanned(scan, tmp_path / str(folder)).photo_ids
            counts[folder].append(int(ids.sum()) if len(ids) == 300 else -1)

    threads = [threading.Thread(target=work, args=(folder,)) for folder in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [[sum(range(1000 * f, 1000 * f + 300))] * 50 for f in range(4)]


def test_a_c_library_without_the_call_is_an_import_error() -> None:
    program = """
import ctypes, engine.store.native
ctypes.CDLL = lambda *_, **__: object()
try:
    import engine.store.scan
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "the C library has no getdents64", done.stderr
