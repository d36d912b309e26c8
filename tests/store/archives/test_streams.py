"""Streams: batches, cut and damaged compressed files, bombs in bounded memory, threads that end."""

import bz2
import gzip
import os
import subprocess
import sys
import textwrap
import threading
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.store.archives import bzip2, decompress, stream
from engine.store.archives.bits import BLOCK_MARK, find_mark, number
from tests.store.archives.builders import COMPRESSED, PACK, dats, header, member, oracle, read_stream, record, tar
from tests.store.archives.test_zip import zip_of


@pytest.fixture(scope="module")
def noisy():
    """A tar of 60 records that do not compress, and its forms: several blocks of bzip2, each with one true content."""
    data = tar(dats(60, noise=True))
    return data, {kind: PACK[kind](data) for kind in COMPRESSED}


def whole_records(data: bytes, members: list[tuple[int, str, bytes]]) -> bool:
    return set(members) <= set(oracle(data))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_all_of_it_in_order(tmp_path, noisy, kind, threads):
    data, packed = noisy
    (tmp_path / "a").write_bytes(packed[kind])
    read = read_stream(tmp_path / "a", threads)
    assert read.members == oracle(data)
    assert (read.refused, read.damaged) == ([], False)
    assert 0 < read.positions[-1] <= len(packed[kind])


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_size_give_the_same(tmp_path, monkeypatch, seed):
    """Members that lie in two pieces or in twenty, whatever is joined of them; long names, other files between."""
    random, members = np.random.default_rng(seed), []
    for photo in range(6):
        members.append(member("n" * random.choice([1, 80, 3000]) + f"/{photo}.dat", record(photo)))
        if random.integers(2):
            members.append(member(f"{photo}.txt", b"x" * int(random.choice([0, 700, 70_000]))))
    content = tar(members, ["gnu", "pax"][seed % 2])
    sizes = [1, 511, 700, 5_000, 20_992, 50_000, 200_000][: 7 if seed < 30 else 3]

    def pieces(*_: object, **__: object):
        at = 0
        while at < len(content):
            size = int(random.choice(sizes))
            yield content[at : at + size], at
            at += size

    (tmp_path / "a").write_bytes(gzip.compress(content))
    monkeypatch.setattr("engine.store.archives.streams.decompress", pieces)
    monkeypatch.setattr("engine.store.archives.streams._JOINED", int(random.choice([1, 600, 21_000, 1 << 16])))
    read = read_stream(tmp_path / "a")
    assert read.members == oracle(content) and len(read.members) == 6
    assert (read.refused, read.damaged) == ([], False)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_batches_are_full_and_positions_rise(tmp_path, kind):
    data = tar([*dats(1500), member("x.txt", b"x" * 8_000_000), *dats(70)])
    (tmp_path / "a").write_bytes(PACK[kind](data))
    read = read_stream(tmp_path / "a")
    assert read.batches == [1024, 546]
    assert read.positions == sorted(read.positions)
    assert read.ignored == 1
    assert [photo_id for photo_id, *_ in read.members] == [*range(1500), *range(70)]


@pytest.mark.parametrize("kind", COMPRESSED)
def test_several_compressed_streams_in_one_file(tmp_path, kind):
    data = tar(dats(30, noise=True))
    cuts = [0, 1, 1000, 30_000, 30_000, 400_000, len(data)]
    parts = b"".join(PACK[kind](data[a:b]) for a, b in pairwise(cuts))
    (tmp_path / "a").write_bytes(parts + bytes(700))
    read = read_stream(tmp_path / "a")
    assert read.members == oracle(data)
    assert read.refused == []


@pytest.mark.parametrize("kind", COMPRESSED)
def test_cut_short_gives_what_came_before(tmp_path, noisy, kind):
    data, packed = noisy
    whole = packed[kind]
    rng = np.random.default_rng(2)
    for cut in [10, 14, 20, 200, len(whole) // 2, *rng.integers(20, len(whole), 12).tolist(), -11, -5, -4, -3, -2, -1]:
        (tmp_path / "a").write_bytes(whole[: int(cut)])
        read = read_stream(tmp_path / "a")
        assert read.members == oracle(data)[: len(read.members)]
        assert len(read.about_archive) == 1, cut
        assert not read.damaged
    # all but the last bytes: all but what lies in the last block, of 100 kB for this bzip2
    assert len(read.members) >= 55


@pytest.mark.parametrize("kind", COMPRESSED)
def test_other_data_after_the_stream_are_refused(tmp_path, noisy, kind):
    data, packed = noisy
    for junk in (b"x", b"some other data", bytes(300_000) + b"x"):
        (tmp_path / "a").write_bytes(packed[kind] + junk)
        read = read_stream(tmp_path / "a")
        assert (read.members, read.damaged) == (oracle(data), False)
        assert [reason.startswith("other data follow the ") for reason in read.about_archive] == [True]
    (tmp_path / "a").write_bytes(packed[kind] + bytes(300_000))
    assert read_stream(tmp_path / "a").refused == []


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_further_stream_that_is_only_begun_is_cut_short(tmp_path, noisy, kind):
    data, packed = noisy
    for size in (1, 2, 3):
        (tmp_path / "a").write_bytes(packed[kind] + packed[kind][:size])
        read = read_stream(tmp_path / "a")
        assert (read.members, read.damaged, len(read.about_archive)) == (oracle(data), False, 1)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_flipped_bit_never_gives_a_wrong_row_that_is_not_called_damaged(tmp_path, noisy, kind):
    data, packed = noisy
    rng = np.random.default_rng(3)
    ends = [*range(0, 14), *range(len(packed[kind]) - 12, len(packed[kind]))]
    for at in [*ends, *rng.integers(0, len(packed[kind]), 15).tolist()]:
        bad = bytearray(packed[kind])
        bad[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "a").write_bytes(bad)
        read = read_stream(tmp_path / "a")
        # A bit of a gzip header that means nothing (time, system) changes nothing.
        assert read.damaged or whole_records(data, read.members), at
        assert read.refused or read.members == oracle(data), at
        if kind == "bzip2":
            assert whole_records(data, read.members), at


def test_a_bzip2_block_whose_mark_is_damaged_is_missed(tmp_path, noisy):
    """What rapidgzip passes over in silence until the end of the stream."""
    data, packed = noisy
    second = find_mark(np.frombuffer(packed["bzip2"], np.uint8), 33)
    bad = bytearray(packed["bzip2"])
    bad[second // 8 + 2] ^= 1
    (tmp_path / "a").write_bytes(bad)
    read = read_stream(tmp_path / "a")
    assert read.members == oracle(data)[: len(read.members)]
    assert "damaged" in read.about_archive[0]


def test_a_bzip2_mark_that_lies_in_a_block_by_chance(tmp_path, noisy, monkeypatch):
    data, packed = noisy
    true = find_mark

    def with_false_marks(bits, first):
        found = true(bits, first)
        return first + 300_000 if found > first + 500_000 else found

    monkeypatch.setattr(bzip2, "find_mark", with_false_marks)
    (tmp_path / "a").write_bytes(packed["bzip2"])
    read = read_stream(tmp_path / "a")
    assert read.members == oracle(data)
    assert read.refused == []


def test_marks_are_found_at_every_bit():
    for shift in range(40):
        value = (1 << 100 | BLOCK_MARK << 30 | 5) << shift
        data = value.to_bytes(24, "big")
        at = find_mark(np.frombuffer(data, np.uint8), 0)
        assert number(data, at, 48) == BLOCK_MARK
        assert at == 24 * 8 - shift - 78
        assert find_mark(np.frombuffer(data, np.uint8), at + 1) == -1
        end = -(-(at + 48) // 8)
        assert find_mark(np.frombuffer(data[:end], np.uint8), at) == at
        assert find_mark(np.frombuffer(data[: end - 1], np.uint8), at) == -1


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=3000), st.sampled_from([b"", b"BZh1", b"BZh91AY&SY", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]))
def test_garbage_is_refused(tmp_path, data, start):
    (tmp_path / "a").write_bytes(start + data)
    read = read_stream(tmp_path / "a")
    assert read.members == []
    assert len(read.about_archive) == 1


@pytest.mark.parametrize("kind", COMPRESSED)
@pytest.mark.parametrize("content", [b"", b"hello", b"x" * 100_000, record(5)])
def test_what_is_compressed_may_be_no_tar(tmp_path, kind, content):
    (tmp_path / "a").write_bytes(PACK[kind](content))
    read = read_stream(tmp_path / "a")
    assert (read.members, len(read.refused)) == ([], 1)
    assert "before its first member" in read.refused[0][2]


def test_an_archive_in_an_archive_is_another_file(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(tar([member("more.tar", tar(dats(3))), *dats(1)])))
    read = read_stream(tmp_path / "a")
    assert (len(read.members), read.refused, read.ignored) == (1, [], 1)


def test_a_huge_window_of_zstd_is_refused(tmp_path):
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 30}
    squeeze = zstd.ZstdCompressor(options=options)
    (tmp_path / "a").write_bytes(squeeze.compress(tar(dats(2))) + squeeze.flush())
    read = read_stream(tmp_path / "a")
    assert read.members == []
    assert "indow" in read.refused[0][2] or "memory" in read.refused[0][2].lower()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("kind", [*COMPRESSED, "zip"])
def test_closing_ends_threads_and_files(tmp_path, kind):
    data = tar(dats(1300))
    (tmp_path / "a").write_bytes(zip_of({f"{i}.dat": record(i) for i in range(1300)}) if kind == "zip"
                                 else PACK[kind](data))  # fmt: skip
    threads, files = threading.active_count(), open_files()
    batches = stream(os.fsencode(tmp_path / "a"), threads=3)
    assert len(next(batches).photo_ids) == 1024
    assert threading.active_count() > threads
    batches.close()
    assert (threading.active_count(), open_files()) == (threads, files)


def test_a_library_may_raise_anything(tmp_path, monkeypatch):
    class Broken:
        eof, needs_input, unused_data = False, True, b""

        def decompress(self, data, max_length):
            raise MemoryError

    monkeypatch.setattr(decompress, "_gzip", lambda: Broken)
    (tmp_path / "a").write_bytes(PACK["gzip"](tar(dats(2))))
    read = read_stream(tmp_path / "a")
    assert (read.members, read.damaged) == ([], True)
    assert "MemoryError" in read.refused[0][2]


BOMB = """
import resource, sys
from engine.store.archives import stream
for batch in stream(sys.argv[1].encode(), threads=8):
    print(len(batch.photo_ids), [refused.reason for refused in batch.refused])
with open("/proc/self/status") as status:
    print([line.split()[1] for line in status if line.startswith("VmHWM")][0])
"""


SQUEEZE: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(1, wbits=31), "bzip2": lambda: bz2.BZ2Compressor(9), "zstd": zstd.ZstdCompressor,
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_bomb_takes_bounded_memory(tmp_path, kind):
    """1 GB of zeros (bzip2: 300 MB, for time) as the content of one member, in a process of its own."""
    pieces, zeros = 300 if kind == "bzip2" else 1000, bytes(1_000_000)
    size = b"%011o\0" % (pieces * len(zeros) * 2)
    squeeze: Any = SQUEEZE[kind]()
    with (tmp_path / "a").open("wb") as out:
        out.write(squeeze.compress(tar(dats(1), end=False) + header(b"5.dat", size=size)))
        for _ in range(pieces):
            out.write(squeeze.compress(zeros))
        out.write(squeeze.flush())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(BOMB), str(tmp_path / "a")], capture_output=True,
                          text=True, check=True)  # fmt: skip
    *said, peak = done.stdout.splitlines()
    assert said[0].startswith("1 ")
    assert "the file is too long" in said[0]
    assert "cut short; reading stopped after 5.dat" in said[-1]
    assert int(peak) < 600 * 1024
