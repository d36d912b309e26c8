"""Members of tars: equal to tarfile for every flavour, refused with a reason, whole whatever is cut or flipped."""

import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.store.archives import list_tar, members, streams, tar
from tests.store.archives.builders import (
    END,
    FORMATS,
    PACK,
    PADDING,
    dats,
    header,
    member,
    oracle,
    read_places,
    read_stream,
    read_tar,
    record,
    with_checksum,
)  # fmt: skip
from tests.store.archives.builders import (
    tar as pack_tar,
)

KINDS = list(PACK)


@pytest.fixture(params=["compiled", "python"])
def walk(request, monkeypatch):
    """Both ways: the compiled walk over plain headers, and none, as on a host without Numba."""
    if request.param == "python":
        monkeypatch.setattr(tar, "walker", lambda: None)
        monkeypatch.setattr(streams, "walker", lambda: None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flavour", FORMATS)
def test_equal_to_tarfile(tmp_path, walk, flavour, kind):
    data = pack_tar([
        member("0", type=tarfile.DIRTYPE), *dats(5), member("notes.txt", b"x" * 1000),
        member("./7/00012.DAT", record(12)), member("8/13.dat", record(13), mtime=1.5),
        member("n" * 95 + "/14.dat", record(14)), member("p" * 90 + "/" + "q" * 60 + "/15.dat", record(15)),
        member("16.dat", record(16)), member("16.dat", record(17)), member("1" * 18 + ".dat", record(18)),
    ], flavour)  # fmt: skip
    if flavour != "ustar":
        data = pack_tar([*dats(3), member("l" * 3000 + "/20.dat", record(20)), *dats(2)], flavour)
    read = read_tar(tmp_path, data, kind)
    assert read.members == oracle(data)
    assert len(read.members) >= 6
    assert (read.refused, read.ignored) == ([], 1 if flavour == "ustar" else 0)


@pytest.mark.parametrize("kind", ["tar", "gzip"])
def test_headers_that_tarfile_does_not_write(tmp_path, walk, kind):
    base256 = b"\x80" + (20400).to_bytes(11, "big")
    data = b"".join(h + record(i) + PADDING for i, h in enumerate([
        header(b"1.dat", magic=b""), header(b"2.dat", kind=b"\0"), header(b"3.dat", kind=b"7"),
        header(b"4.dat", size=base256), header(b"5.dat", size=b"      47660 "), header(b"6.dat", magic=b"ustar  \0"),
        with_checksum(header(b"7.dat", magic=b"ustar  \0")[:345] + b"13371337" + bytes(159)),  # GNU: times
    ])) + END  # fmt: skip
    read = read_tar(tmp_path, data, kind)
    assert [(i, m) for i, m, _ in read.members] == [(i, f"{i}.dat") for i in range(1, 8)]
    assert [d for *_, d in read.members] == [record(i) for i in range(7)]
    assert read.refused == []


HOSTILE = {
    "a symbolic link": member("1.dat", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": member("1.dat", type=tarfile.LNKTYPE, linkname="0/0.dat"),
    "a device": member("1.dat", type=tarfile.CHRTYPE),
    "a pipe": member("1.dat", type=tarfile.FIFOTYPE),
    "a folder": member("1.dat", type=tarfile.DIRTYPE),
    "which is not known": member("1.dat", record(1), type=b"Q"),
    "leads out": member("/1.dat", record(1)),
    "without '..'": member("a/../1.dat", record(1)),
    "(expected a relative one": member("../1.dat", record(1)),
    "20,399 bytes": member("1.dat", record(1)[:-1]),
    "20,401 bytes": member("1.dat", record(1) + b"x"),
    "empty": member("1.dat"),
    "1,000,000 bytes": member("1.dat", bytes(1_000_000)),
    "not a photo id": member("one.dat", record(1)),
    "expected a number": member("1234567890123456789.dat", record(1)),
}


@pytest.mark.parametrize("kind", ["tar", "gzip", "bzip2"])
@pytest.mark.parametrize("reason", HOSTILE)
def test_hostile_members_are_refused(tmp_path, walk, reason, kind):
    data = pack_tar([*dats(2), HOSTILE[reason], member("9.dat", record(9))])
    read = read_tar(tmp_path, data, kind)
    assert [photo_id for photo_id, *_ in read.members] == [0, 1, 9]
    assert read.members == [one for one in oracle(data) if one[0] != 1 or one[1] == "0/1.dat"]
    [(source, photo_id, said)] = read.refused
    assert reason in said
    assert source.rstrip("/") == f"a/{HOSTILE[reason][0].name}"
    assert photo_id == (None if "photo id" in said else 1)


@pytest.mark.parametrize("kind", ["tar", "gzip"])
def test_sparse_files_are_refused(tmp_path, kind):
    old = bytearray(header(b"1.dat", kind=b"S", magic=b"ustar  \0"))
    old[482] = 1  # the map goes on in two more blocks
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    pax = pack_tar([member("2.dat", record(2), pax_headers=sparse)], "pax", end=False)
    data = (
        with_checksum(old) + bytes(504) + b"\1" + bytes(7) + bytes(512) + record(1) + PADDING
        + pax + pack_tar(dats(1))
    )  # fmt: skip
    read = read_tar(tmp_path, data, kind)
    assert [reason for *_, reason in read.refused] == ["not a regular file but a sparse file"] * 2
    assert [photo_id for photo_id, *_ in read.members] == [0]


@pytest.mark.parametrize("kind", ["tar", "gzip"])
def test_extended_headers_have_the_last_word(tmp_path, kind):
    renamed = pack_tar([member("x.txt", record(3), pax_headers={"path": "7/77.dat"})], "pax", end=False)
    data = renamed + pack_tar(dats(1))
    assert [(i, m) for i, m, _ in read_tar(tmp_path, data, kind).members] == [(77, "7/77.dat"), (0, "0/0.dat")]
    for path, said in {"../5.dat": "leads out", "a\0/5.dat": "zero byte"}.items():
        read = read_tar(tmp_path, pack_tar([member("5.dat", record(5), pax_headers={"path": path})], "pax"), kind)
        assert read.members == []
        assert said in read.refused[0][2]


ENDLESS = {
    "garbage": (b"\xff" * 512, "no tar header"),
    "checksum": (header(b"5.dat").replace(b"5.dat", b"6.dat"), "no tar header"),
    "10**18 bytes": (header(b"5.dat", size=b"\x80" + (10**18).to_bytes(11, "big")), "claims 1,000,000,000,000,000,000"),
    "negative": (header(b"5.dat", size=b"\xff" * 12), "claims -1"),
    "10**18 bytes of text": (header(b"a", size=b"\x80" + (10**18).to_bytes(11, "big")), "claims"),
    "1 GB": (header(b"5.txt", size=b"07346545000\0"), "cut short"),
    "name of 8 GB": (header(b"5.dat", size=b"77777777777\0", kind=b"L"), "goes on for"),
    "pax of 8 GB": (header(b"5.dat", size=b"77777777777\0", kind=b"x"), "goes on for"),
    "pax nonsense": (header(b"x", size=b"00000000012\0", kind=b"x") + b"99 path=ab".ljust(512, b"\0"), "pax header"),
    "pax no number": (header(b"x", size=b"00000000012\0", kind=b"x") + b"10 size=x\n".ljust(512, b"\0")
                      + header(b"5.dat"), "no number"),
    "pax huge": (header(b"x", size=b"00000000034\0", kind=b"x") + b"28 size=1000000000000000000\n".ljust(512, b"\0")
                 + header(b"5.dat"), "claims"),
    "only the end is missing": (b"", "without an end mark"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ENDLESS)
def test_reading_stops_where_sense_ends(tmp_path, walk, case, kind):
    end, reason = ENDLESS[case]
    read = read_tar(tmp_path, pack_tar(dats(3))[: 3 * (512 + 20480)] + end, kind)
    assert [photo_id for photo_id, *_ in read.members] == [0, 1, 2]
    [said] = [reason for source, _, reason in read.refused if source == "a"]
    assert reason in said
    assert "after 0/2.dat" in said or "after 5." in said or "after a" in said
    assert not read.damaged


@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_the_end(tmp_path, kind):
    assert read_tar(tmp_path, pack_tar(dats(1)) + bytes(3_000_000), kind).refused == []
    two = read_tar(tmp_path, pack_tar(dats(1)) + bytes(2_000_000) + pack_tar(dats(2)), kind)
    assert len(two.members) == 1
    assert "follow its end mark" in two.about_archive[0]


@pytest.mark.parametrize("kind", ["tar", "zstd"])
def test_cut_at_every_kind_of_place(tmp_path, walk, kind):
    data = pack_tar([*dats(3), member("notes.txt", b"x" * 700)])
    whole = oracle(data)
    starts = [512, 20992 + 512, 2 * 20992 + 512]
    cuts = {0, 1, 511, 512, 513, 20911, 20912, 20913, 20991, 20992, 20993, 41000, 63000, 64000, 64512, 64600}
    for cut in sorted(cuts | {int(c) for c in np.random.default_rng(1).integers(0, 64_600, 20)}):
        read = read_tar(tmp_path, data[:cut], kind)
        assert read.members == [one for one, at in zip(whole, starts, strict=True) if at + 20400 <= cut], cut
        if cut < 64_500:
            assert len(read.about_archive) == 1, cut


def test_too_many_refusals_end_the_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MANY_REFUSED", 2500)
    data = b"".join(header(b"%d.dat" % i, size=b"0\0") for i in range(4000)) + END
    for kind in KINDS:
        read = read_tar(tmp_path, data, kind)
        assert len(read.refused) == 2501
        assert "this is no archive of .dat files" in read.refused[-1][2]
        assert all(n == 0 for n in read.batches)
        assert kind == "tar" or len(read.batches) == 3  # they are handed on, not gathered


def test_not_a_file(tmp_path):
    for name, reason in {"absent": "No such file", ".": "Is a directory"}.items():
        found = list_tar(str(tmp_path / name).encode())
        assert len(found) == 0
        assert reason in found.refused[0].reason


def test_many_members_grow_the_lists(tmp_path):
    folder = b"a-rather-long-folder-name-to-fill-the-names/"
    data = b"".join(header(folder + b"%d.dat" % i) + bytes(20480) for i in range(5000))
    path = tmp_path / "many.tar"
    path.write_bytes(data + END)
    found = list_tar(str(path).encode())
    np.testing.assert_array_equal(found.photo_ids, np.arange(5000))
    np.testing.assert_array_equal(found.offsets, np.arange(5000) * 20992 + 512)
    assert found.name(4999) == folder + b"4999.dat"
    batches = read_stream(path).batches
    assert batches == [1024] * 4 + [5000 - 4096]


NAMES = st.one_of(
    st.from_regex(r"\A(\./)?([0-9a-z]{1,3}/){0,3}[0-9]{1,19}\.(dat|DAT|txt)\Z"),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=120).filter(
        lambda name: name.strip("/") not in ("", ".", "..") and not name.endswith("/")
    ),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(NAMES, st.sampled_from([0, 1, 512, 20399, 20400, 20400, 20400])), max_size=8),
    st.sampled_from(["gnu", "pax"]), st.sampled_from(["tar", "zstd"]),
)  # fmt: skip
def test_any_members_equal_tarfile(tmp_path, found, flavour, kind):
    data = pack_tar([member(name, record(i)[:size]) for i, (name, size) in enumerate(found)], flavour)
    read = read_tar(tmp_path, data, kind)
    assert read.members == oracle(data)
    assert len(read.members) + len(read.refused) + read.ignored == len(found)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_header_bytes_never_give_other_rows(tmp_path, data):
    """A header that is not what was written is refused or ends the reading; rows before and after are the true ones."""
    whole = pack_tar(dats(4))
    path = tmp_path / "a"
    bad = bytearray(whole)
    at = data.draw(st.integers(0, 3)) * 20992 + data.draw(st.integers(0, 511))
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bad)
    read = read_places(path)
    assert set(read.members) <= set(oracle(whole))
    assert len(read.members) == 4 or read.refused  # bytes that the format does not use, such as spaces, may differ
