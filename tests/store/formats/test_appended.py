"""Bytes come out as they went in, whatever their size and alignment."""

import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store.formats.appended import Appended

seeds = st.integers(0, 9)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 4096, 65_535, 65_536, 70_001, 300_000]), max_size=6),
    seed=st.integers(0, 9),
)
def test_pieces_of_any_size_follow_each_other(tmp_path_factory, sizes, seed):
    random = np.random.default_rng(seed)
    pieces = [random.bytes(size) for size in sizes]
    path = tmp_path_factory.mktemp("a") / "f"
    path.write_bytes(b"longer than what comes now" * 100_000)
    with Appended(path) as file:
        assert [file.write(piece) for piece in pieces] == sizes
        assert file.tell() == sum(sizes)
    assert path.read_bytes() == b"".join(pieces)


def test_a_zip_archive_can_be_written(tmp_path):
    data = np.random.default_rng(0).bytes(1 << 20)
    with Appended(tmp_path / "f.zip") as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("a", "w") as member:
            member.write(data)
        archive.writestr("b", b"small")
    with zipfile.ZipFile(tmp_path / "f.zip") as archive:
        assert archive.read("a") == data and archive.read("b") == b"small" and archive.testzip() is None


def test_it_goes_back_but_not_from_the_end(tmp_path):
    with Appended(tmp_path / "f") as file:
        file.write(np.arange(3, dtype="<u2").data)
        file.seek(2)
        file.write(b"ab")
        with pytest.raises(OSError, match="beginning"):
            file.seek(0, 2)
        assert file.writable() and file.seekable() and not file.readable()
    assert (tmp_path / "f").read_bytes() == b"\0\0ab\2\0"
    file.close()
