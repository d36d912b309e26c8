"""The arrays of a store in the making: rows at their place, blocks believed only by their checksums."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engine.progress import silent
from engine.store.arrays import Arrays, Written
from tests.builders import files_below, make_store

DIMS = {"fc7": 5, "fc8": 3}
IDS = np.array([7, 3, 9, 1, 4, 8], np.int64)


def rows_of(ids: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float32]]:
    return {name: (ids[:, None] * 10 + np.arange(dim)).astype(np.float32) for name, dim in DIMS.items()}


def filled(path: Path) -> tuple[Arrays, list[Written]]:
    """Six rows in two blocks, the second written first."""
    arrays, blocks = Arrays(path, DIMS, None), []
    for start, stop in ((2, 6), (0, 2)):
        ids = IDS[start:stop]
        blocks.append(Written(start=start, rows=len(ids), sums=arrays.write(start, ids, rows_of(ids))))
    return arrays, blocks


def test_rows_are_at_their_place_and_the_headers_count_them(tmp_path: Path) -> None:
    arrays, _ = filled(tmp_path)
    assert arrays.ids(6).tolist() == IDS.tolist()
    assert arrays.row("fc8", 4).tolist() == [40, 41, 42]
    arrays.complete(6)
    arrays.close()
    for name, expected in (rows_of(IDS) | {"photo_ids": IDS}).items():
        with (tmp_path / f"{name}.npy.part").open("rb") as file:
            found = np.load(file, allow_pickle=False)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("file", ["fc7", "fc8", "photo_ids"])
def test_a_block_is_there_only_if_every_byte_is(tmp_path: Path, file: str) -> None:
    arrays, (last, first) = filled(tmp_path)
    assert arrays.has(first)
    assert arrays.has(last)
    assert not arrays.has(replace(first, start=-1000))
    assert not arrays.has(replace(first, rows=1 << 50))  # no memory is taken for it
    assert not arrays.has(replace(first, sums={name: first.sums[name] for name in DIMS}))
    path = tmp_path / f"{file}.npy.part"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert arrays.has(first)
    assert not arrays.has(last)
    arrays.close()


def test_sorted_rows_take_the_place_of_those_that_came(tmp_path: Path) -> None:
    arrays, _ = filled(tmp_path)
    (block,) = arrays.sort(IDS, silent)
    assert (block.start, block.rows, arrays.has(block)) == (0, 6, True)
    assert arrays.ids(6).tolist() == sorted(IDS)
    assert [arrays.row("fc7", i)[0] for i in range(6)] == [10 * i for i in sorted(IDS)]
    arrays.close()


def test_new_rows_of_a_store_are_cut_off_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", rows_of(IDS))
    before = files_below(store.path)
    arrays = Arrays(store.path, DIMS, store.manifest)
    new = np.array([11, 12], np.int64)
    arrays.write(6, new, rows_of(new))
    assert len(arrays.ids(8)) == 8
    grown = files_below(store.path)
    assert all(grown[f"{name}.npy"] != before[f"{name}.npy"] for name in DIMS)
    arrays.cut_back()
    arrays.close()
    (store.path / "photo_ids.npy.part").unlink()
    assert files_below(store.path) == before


def test_what_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "fc8.npy.part").mkdir()
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    with pytest.raises(IsADirectoryError):
        Arrays(tmp_path, DIMS, None)
    assert not before or len(list(handles.iterdir())) == before
