"""Reading `.dat` files in bulk: each layer lands at once in its row of a block.

`DirectReader` is a Numba loop over the C library's openat, preadv and close: no Python object per file, the GIL
released, the checks done while the record is in the cache. `RecordReader` reads whole records with Python's os module
and leaves splitting and checks to `kernels.decode`: the way to a GPU, and onto hosts without Numba.
"""

import importlib
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.store.dat import FC7_DIM, FC8_DIM, RECORD_BYTES
from engine.store.rows_file import aligned
from engine.store.sources import Listing
from kernels import Device, Kernels, load


class Block:
    """Room for a batch of files: fc7 (n, 4096), fc8 (n, 1000) float32, and whether each file was good (n,)."""

    def __init__(self, files: int) -> None:
        # On pages of their own, as writing past the page cache wants them.
        self.fc7 = aligned(files * FC7_DIM * 4).view(np.float32).reshape(files, FC7_DIM)
        self.fc8 = aligned(files * FC8_DIM * 4).view(np.float32).reshape(files, FC8_DIM)
        self.good = np.zeros(files, np.bool_)


class Reader(Protocol):
    """Reads the files of a listing into the first rows of a block; used by one thread."""

    def read(self, records: Listing, block: Block) -> None:
        """Fill rows and `good`; a record that is not good leaves its row undefined, and is looked at again."""


def open_reader(device: Device, files: int) -> Reader:
    """The reader for a device, with buffers for blocks of `files` files."""
    if device.kind == "cuda":
        return RecordReader(load(device), files)
    direct: Reader = importlib.import_module("engine.store.direct").DirectReader(files)
    return direct


class RecordReader:
    """Whole records into one (pinned, on CUDA) buffer, split and checked by the kernels of the device."""

    def __init__(self, kernels: Kernels, files: int) -> None:
        self._kernels = kernels
        self._spill = bytearray(1)  # only a file longer than a record fills it
        self._records: npt.NDArray[np.uint8] = kernels.host_buffer((files, RECORD_BYTES))

    def read(self, records: Listing, block: Block) -> None:
        """See `Reader.read`."""
        whole = np.array([self._read_one(records, i) for i in range(len(records))], np.bool_)
        n = len(records)
        flags = self._kernels.decode(self._records[:n], block.fc7[:n], block.fc8[:n])
        block.good[:n] = whole & (flags == 0)

    def _read_one(self, records: Listing, i: int) -> bool:
        offset = int(records.offset[i])
        path = records.path(i) if offset < 0 else records.places[records.place[i]]
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        parts = [self._records[i], self._spill] if offset < 0 else [self._records[i]]
        try:
            return os.preadv(handle, parts, max(offset, 0)) == RECORD_BYTES
        except OSError:
            return False
        finally:
            os.close(handle)
