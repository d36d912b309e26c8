"""Kinds by bytes, never by name."""

import io
import os
import zipfile
from pathlib import Path

import pytest

from engine.store.archives import Kind, kind_of
from tests.store.archives.builders import END, PACK, dats, header, record, tar


def kind(tmp_path: Path, data: bytes) -> Kind | None:
    path = tmp_path / "5.dat"
    path.write_bytes(data)
    return kind_of(os.fsencode(path))


@pytest.mark.parametrize("expected", PACK)
def test_each_kind_whatever_its_name(tmp_path, expected):
    assert kind(tmp_path, PACK[expected](tar(dats(1)))) == expected


def test_tars_without_a_magic(tmp_path):
    v7 = header(b"1.dat", magic=b"") + record(1) + bytes(80) + END
    assert kind(tmp_path, v7) == "tar"
    assert kind(tmp_path, v7.replace(b"1.dat", b"2.dat")) is None  # the checksum no longer holds


def test_zips(tmp_path):
    for members in (0, 1):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for i in range(members):
                archive.writestr(f"{i}.dat", record(i))
        assert kind(tmp_path, out.getvalue()) == "zip"


def test_a_skippable_frame_may_come_first(tmp_path):
    assert kind(tmp_path, b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + PACK["zstd"](b"x")) == "zstd"


@pytest.mark.parametrize("data", [b"", b"B", b"BZh9 of the day", b"\x1f\x8b", b"PK", record(1), bytes(512), b"x" * 511])
def test_other_files_are_none(tmp_path, data):
    assert kind(tmp_path, data) is None


def test_what_is_no_file_is_none(tmp_path):
    os.mkfifo(tmp_path / "a.tar")  # must not wait for a writer
    for name in ("a.tar", "absent.tar", "."):
        assert kind_of(os.fsencode(tmp_path / name)) is None
