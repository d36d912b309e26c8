"""Photo ids in a file: one for each row, none twice, none that is no id."""

import struct

import numpy as np
import pytest

from engine.errors import InputError
from engine.store.formats.ids import check_ids, read_ids, write_ids

IDS = np.array([7, 0, 2**31 - 1, 12])


@pytest.mark.parametrize("suffix", [".npy", ".txt", ".ivecs"])
def test_ids_come_back(tmp_path, suffix):
    write_ids(tmp_path / f"ids{suffix}", suffix, IDS)
    found = read_ids(tmp_path / f"ids{suffix}", 4)
    assert found.dtype == np.int64 and (found == IDS).all()


def test_ids_are_written_as_others_read_them(tmp_path):
    for suffix in (".npy", ".txt", ".ivecs"):
        write_ids(tmp_path / f"ids{suffix}", suffix, IDS)
    assert (np.load(tmp_path / "ids.npy") == IDS).all()
    assert (tmp_path / "ids.txt").read_text() == "7\n0\n2147483647\n12\n"
    assert (tmp_path / "ids.ivecs").read_bytes() == b"".join(struct.pack("<ii", 1, i) for i in IDS.tolist())


def test_one_row_of_ivecs_is_a_list_of_ids_too(tmp_path):
    (tmp_path / "ids.ivecs").write_bytes(struct.pack("<5i", 4, *IDS.tolist()))
    assert (read_ids(tmp_path / "ids.ivecs", 4) == IDS).all()


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "u8"])
def test_arrays_of_any_integers_are_ids(tmp_path, dtype):
    np.save(tmp_path / "ids.npy", np.array([3, 1, 2], dtype))
    assert read_ids(tmp_path / "ids.npy", 3).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.array([1, 2, 1, 2]), "row 2 is photo 1, and so is row 0"),
        (np.array([1, 2, -3, 4]), "row 2 is -3, expected a photo id"),
        (np.array([1, 2, 3]), "holds 3 photo ids for 4 vectors"),
        (np.arange(5), "holds 5 photo ids for 4 vectors"),
        (np.array([1, 2, 3, 2**63], np.uint64), "9223372036854775808 is no photo id"),
        (np.array([1.0, 2, 3, 4]), "expected integers (n,)"),
        (np.arange(4)[None], "expected integers (n,)"),
        (np.array([{}, 1, 2, 3], object), "expected one of numbers"),
    ],
)
def test_arrays_that_are_no_ids_are_refused(tmp_path, array, says):
    np.save(tmp_path / "ids.npy", array, allow_pickle=True)
    with pytest.raises(InputError) as error:
        read_ids(tmp_path / "ids.npy", 4)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"1\n2\nx\n4\n", "line 3: 'x' is not"),
        (b"1\n-2\n3\n4\n", "line 2: '-2' is not"),
        (b"1\n2\n3\n9223372036854775808\n", "line 4"),
        (b"1\n2\n3\n\xff\n", "line 4"),
        ("1\n2\n3\n٤\n".encode(), "line 4"),
        (b"1\n2\n3\n", "holds 3 photo ids for 4"),
        (b"1\n2\n3\n4\n5\n", "more than 4 photo ids"),
        (b"1\n2\n3\n3\n", "row 3 is photo 3, and so is row 2"),
        (b"", "holds 0 photo ids for 4"),
    ],
)
def test_lines_that_are_no_ids_are_refused(tmp_path, text, says):
    (tmp_path / "ids.txt").write_bytes(text)
    with pytest.raises(InputError) as error:
        read_ids(tmp_path / "ids.txt", 4)
    assert says in str(error.value)


def test_comments_and_empty_lines_are_no_ids(tmp_path):
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf1  # one\r\n\n# none\n9223372036854775807\n")
    assert read_ids(tmp_path / "ids.txt", 2).tolist() == [1, 2**63 - 1]


def test_an_array_cut_short_is_refused_before_memory_is_taken(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(4))
    data = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(data.replace(b"(4,)", b"(4611686018427387904,)").replace(b" " * 18, b"", 1))
    with pytest.raises(InputError, match="bytes, expected 36,893,488,147,419,1"):
        read_ids(tmp_path / "ids.npy", 4611686018427387904)


def test_other_files_and_absent_ones_are_named(tmp_path):
    for name, says in (("ids.csv", "expected .npy, .txt, .ivecs"), ("ids.txt", "No such file"), ("ids.npy", "No such")):
        with pytest.raises(InputError, match=says):
            read_ids(tmp_path / name, 4)
    with pytest.raises(InputError, match=r"2147483648: \.ivecs holds int32"):
        write_ids(tmp_path / "x.part", ".ivecs", np.array([2**31]))


def test_no_ids_for_no_rows():
    assert len(check_ids(np.empty(0, np.int64), 0, "f")) == 0
