"""Blocks of rows that are read ahead for a device: every row once, in order, and nothing is written over too early."""

import threading
from typing import Any

import numpy as np
import pytest

from engine.index import ahead
from kernels import load
from tests.kernels import emulated
from tests.kernels.conftest import emulated_or_skip

ROWS = np.random.default_rng(0).random((103, 7), np.float32)


@pytest.fixture(params=["reference", "emulated"])
def where(request: Any) -> Any:
    return load("reference") if request.param == "reference" else emulated_or_skip()


@pytest.mark.parametrize(("start", "stop", "size"), [(0, 103, 10), (5, 98, 31), (0, 20, 20), (7, 8, 50), (4, 4, 3)])
def test_every_row_once_in_order(where, start, stop, size):
    found = list(ahead.blocks(ROWS, (start, stop), size, where))
    assert [at for at, _ in found] == list(range(start, stop, size))
    assert all(len(rows) <= size for _, rows in found)
    rows = [where.to_host(rows) for _, rows in found]
    np.testing.assert_array_equal(np.concatenate([ROWS[:0], *rows]), ROWS[start:stop])


class Slow:
    """Rows whose reading is seen: by which threads, and how far it has come."""

    def __init__(self) -> None:
        self.shape, self.read, self.threads = ROWS.shape, 0, set[str]()
        self.lock = threading.Lock()

    def __getitem__(self, rows: slice) -> Any:
        with self.lock:
            self.read = max(self.read, rows.stop)
            self.threads.add(threading.current_thread().name.split("_")[0])
        return ROWS[rows]


def test_one_block_ahead_by_other_threads():
    kernels, data = emulated_or_skip(), Slow()
    for at, rows in ahead.blocks(data, (0, 100), 10, kernels):
        assert isinstance(rows, emulated.DeviceArray)
        assert data.read <= min(at + 20, 100)
    assert data.read == 100 and data.threads == {"rows"}


def test_what_cannot_be_read_is_raised_and_who_stops_early_leaves_no_thread_at_work():
    class Broken(Slow):
        def __getitem__(self, rows: slice) -> Any:
            if rows.stop > 50:
                raise OSError("the disk is gone")
            return super().__getitem__(rows)

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen += [at for at, _ in ahead.blocks(Broken(), (0, 100), 10, emulated_or_skip())]
    coming = ahead.blocks(Slow(), (0, 100), 10, emulated_or_skip())
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rows")]
