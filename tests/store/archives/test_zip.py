"""Zips: equal to zipfile, in order of photo id, and no member that two headers disagree about."""

import io
import os
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.store.archives import directory, list_zip
from tests.store.archives.builders import DAT, Read, read_places, read_stream, record

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def zip_of(members: dict[Any, bytes], method: int = DEFLATED, *, streamed: bool = False) -> bytes:
    """A zip of {name or ZipInfo: content}; streamed: sizes follow the content, as in a zip written to a pipe."""
    out = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return out.write(data)

    with zipfile.ZipFile(Pipe() if streamed else out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def oracle(data: bytes) -> list[tuple[int, str, bytes]]:
    found = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            match = DAT.fullmatch(info.filename)
            if match and info.file_size == 20400:
                found.append((int(match[1]), info.filename, archive.read(info)))
    return found


def read(tmp_path: Path, data: bytes) -> Read:
    (tmp_path / "a").write_bytes(data)
    return read_stream(tmp_path / "a")


def places(tmp_path: Path, data: bytes) -> Read:
    (tmp_path / "a").write_bytes(data)
    return read_places(tmp_path / "a", list_zip)


SOME = {"10/12.dat": record(12), "notes.txt": b"x", "2.DAT": record(2), "0/": b"", "a/b/000100.dat": record(100)}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_equal_to_zipfile_in_order_of_photo_id(tmp_path, method, streamed):
    data = zip_of(SOME, method, streamed=streamed)
    got = read(tmp_path, data)
    assert got.members == sorted(oracle(data))
    assert len(got.members) == 3
    assert (got.refused, got.ignored) == ([], 1)
    listed = places(tmp_path, data)
    assert listed.members == (oracle(data) if method == STORED else [])
    assert list_zip(os.fsencode(tmp_path / "a")).compressed == (0 if method == STORED else 3)
    assert (listed.refused, listed.ignored) == ([], 1)


def test_stored_and_deflated_together(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for i in range(6):
            archive.writestr(f"{i}.dat", record(i), compress_type=DEFLATED if i % 2 else STORED)
    assert [i for i, *_ in places(tmp_path, out.getvalue()).members] == [0, 2, 4]
    assert [i for i, *_ in read(tmp_path, out.getvalue()).members] == [0, 1, 2, 3, 4, 5]


def test_many_members_in_batches(tmp_path):
    order = random.Random(1).sample(range(2200), 2200)
    got = read(tmp_path, zip_of({f"{i}.dat": record(i) for i in order}))
    assert got.batches == [1024, 1024, 152]
    assert [i for i, *_ in got.members] == list(range(2200))
    assert all(data == record(i) for i, _, data in got.members)
    assert got.positions == sorted(got.positions)


def test_zip64(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10_000)
    data = zip_of(SOME, STORED)
    assert b"PK\x06\x06" in data
    assert read(tmp_path, data).members == sorted(oracle(data))
    assert places(tmp_path, data).members == oracle(data)


def link(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


REFUSED: dict[str, Any] = {
    "a symbolic link": link("5.dat", 0o120777), "a device": link("5.dat", 0o060666), "leads out": "/5.dat",
    "without '..'": "a/../5.dat", "photo id": "five.dat",
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_members_are_refused(tmp_path, case):
    data = zip_of({"1.dat": record(1), REFUSED[case]: record(5), "9.dat": record(9)}, STORED)
    for got in (read(tmp_path, data), places(tmp_path, data)):
        assert [i for i, *_ in got.members] == [1, 9]
        assert [case in reason for *_, reason in got.refused] == [True]


@pytest.mark.parametrize("size", [0, 1, 20399, 20401, 3_000_000])
def test_other_sizes_are_refused(tmp_path, size):
    got = read(tmp_path, zip_of({"1.dat": bytes(size), "2.dat": record(2)}))
    assert [i for i, *_ in got.members] == [2]
    assert "expected 20,400" in got.refused[0][2]


def patched(data: bytes, changes: dict[int, bytes], *, entry: int = 0, local: bool = False) -> bytes:
    """Overwrite fields of an entry of the directory, or of a member's own header: {offset in it: bytes}."""
    mark, at = (b"PK\x03\x04" if local else b"PK\x01\x02"), -1
    for _ in range(entry + 1):
        at = data.index(mark, at + 1)
    out = bytearray(data)
    for offset, value in changes.items():
        out[at + offset : at + offset + len(value)] = value
    return bytes(out)


THREE = {f"{i}.dat": record(i) for i in range(3)}
LIES = {
    "method 12": ({10: b"\x0c\0"}, False, "method 12"),
    "encrypted": ({8: b"\1\0"}, False, "encrypted"),
    "packed size": ({20: struct.pack("<I", 1 << 20)}, False, "are said to hold"),
    "offset into nowhere": ({42: struct.pack("<I", 7)}, False, "no member where"),
    "offset beyond": ({42: struct.pack("<I", 1 << 31)}, False, "no member where"),
    "offset of another": ({42: struct.pack("<I", 0)}, False, "something else"),
    "checksum": ({16: b"abcd"}, False, "something else"),
    "own name": ({30: b"7"}, True, "something else"),
    "own method": ({8: b"\x09\0"}, True, "something else"),
    "own size": ({22: b"\0\0\0\0"}, True, "something else"),
    "own mark": ({0: b"PKPK"}, True, "no member where"),
    "own extra field reaches far": ({28: b"\xff\xff"}, True, ""),
}  # fmt: skip


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_are_refused(tmp_path, case, method):
    changes, local, reason = LIES[case]
    got = read(tmp_path, patched(zip_of(THREE, method), changes, entry=1, local=local))
    assert [(i, data == record(i)) for i, _, data in got.members] == [(0, True), (2, True)]
    assert [photo_id for _, photo_id, _ in got.refused][:1] == [1]
    assert reason in got.refused[0][2]


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_one_content_for_two_members_is_refused(tmp_path, method):
    data = zip_of({"1.dat": record(1), "1.dat ": b""}, method)
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x01\x02", start + 1)]
    end = data[data.index(b"PK\x05\x06") :]
    count, length = 2, 2 * len(entry)
    end = end[:8] + struct.pack("<HHII", count, count, length, start) + end[20:]
    got = read(tmp_path, data[:start] + entry * 2 + end)
    assert [i for i, *_ in got.members] == [1]
    assert "shares bytes" in got.refused[0][2]


def test_damaged_content_is_refused(tmp_path):
    for method, reason in {STORED: "checksum", DEFLATED: ""}.items():
        data = bytearray(zip_of({f"{i}.dat": record(i, noise=True) for i in range(3)}, method))
        data[20_400 + 5_000] ^= 8  # in the second member
        got = read(tmp_path, bytes(data))
        assert [(i, content == record(i, noise=True)) for i, _, content in got.members] == [(0, True), (2, True)]
        assert reason in got.refused[0][2]


def test_more_than_it_says_is_never_inflated(tmp_path):
    """A bomb: 60 MB of zeros that say they are a record. Both headers lie alike."""
    data = zip_of({"1.dat": bytes(60_000_000), "2.dat": record(2)})
    sizes = {24: struct.pack("<I", 20400)}
    lied = patched(patched(data, sizes), {22: struct.pack("<I", 20400)}, local=True)
    got = read(tmp_path, lied)
    assert [i for i, *_ in got.members] == [2]
    assert "not of the size" in got.refused[0][2]


@pytest.mark.parametrize("cut", [4, 30, 1000, 30_000, -100, -22, -5, -1])
def test_cut_short_has_no_directory(tmp_path, cut):
    got = read(tmp_path, zip_of(THREE, STORED)[:cut])
    assert got.members == []
    assert "cut short" in got.refused[0][2]


def test_a_directory_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "_LARGEST_DIRECTORY", 100)
    assert "directory is damaged" in read(tmp_path, zip_of(THREE)).refused[0][2]


def test_one_of_several_parts(tmp_path):
    data = zip_of(THREE)
    end = data.index(b"PK\x05\x06")
    got = read(tmp_path, data[: end + 4] + b"\2\0" + data[end + 6 :])
    assert "several parts" in got.refused[0][2]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([STORED, DEFLATED]), st.data())
def test_flipped_bytes_never_give_other_rows(tmp_path, method, data):
    whole = zip_of(THREE, method)
    start = whole.index(b"PK\x01\x02") if data.draw(st.booleans()) else 0
    bad = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(start, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    got = read(tmp_path, bytes(bad))
    contents = {record(i) for i in range(3)}
    assert all(content in contents for *_, content in got.members)
    assert len(got.members) == 3 or got.refused or got.ignored
    places(tmp_path, bytes(bad))


def test_other_data_around_a_zip_are_said(tmp_path):
    whole = zip_of(SOME)
    cases = {
        whole + b"more" * 20_000: "no directory at its end: it was cut short, or other data follow it",
        whole + b"x": "or other data follow it",
        whole[:-9]: "it was cut short",
        whole + whole: "other data stand before this archive",
        whole[:4] + b"prefix" + whole: "other data stand before this archive",
    }
    for data, reason in cases.items():
        got = read(tmp_path, data)
        assert got.members == []
        assert [reason in said for said in got.about_archive] == [True], reason


def test_other_data_before_a_zip64_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    whole = zip_of(SOME)
    assert b"PK\x06\x06" in whole
    assert "other data stand before this archive" in read(tmp_path, whole + whole).about_archive[0]
