"""Reading `.dat` files in bulk: each layer lands at once in its row of a block.

`DirectReader` is a Numba loop over the C library's openat, preadv and close: no Python object per file, the GIL
released, the checks done while the record is in the cache. `RawReader` reads whole records with Python's os module,
for what splits and checks them elsewhere: `RecordReader` by `kernels.decode`, block by block, and `engine.store.stages`
on a GPU. That is the way onto hosts without Numba.
"""

import importlib
import os
from collections.abc import Callable
from contextlib import suppress
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
        self._kernels, self._reader = kernels, RawReader()
        self._records: npt.NDArray[np.uint8] = kernels.host_buffer((files, RECORD_BYTES))
        self._whole = np.zeros(files, np.bool_)

    def read(self, records: Listing, block: Block) -> None:
        """See `Reader.read`."""
        n = len(records)
        self._reader.read(records, self._records, self._whole)
        flags = self._kernels.decode(self._records[:n], block.fc7[:n], block.fc8[:n])
        block.good[:n] = self._whole[:n] & (flags == 0)


class RawReader:
    """Whole records, by Python's os module; used by one thread."""

    def __init__(self) -> None:
        self._spill = bytearray(1)  # only a file longer than a record fills it

    def read(
        self, records: Listing, into: npt.NDArray[np.uint8], whole: npt.NDArray[np.bool_],
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Read records into the first rows of `into` (n, 20400), C order; whole (n,): whether each is 20,400 bytes.

        check: called before every file; what it raises ends the reading.
        """
        view = into.reshape(-1).data
        place = handle = -1
        try:
            for i in range(len(records)):
                check()
                if records.place[i] != place:  # a folder or an archive is opened once for all that lies in it
                    place, handle = int(records.place[i]), _reopened(handle, records.places[records.place[i]])
                room = view[i * RECORD_BYTES : (i + 1) * RECORD_BYTES]
                whole[i] = handle >= 0 and self._read_one(records, i, handle, room)
        finally:
            _reopened(handle, None)

    def _read_one(self, records: Listing, i: int, place: int, room: memoryview) -> bool:
        try:
            if (offset := int(records.offset[i])) >= 0:
                return os.preadv(place, [room], offset) == RECORD_BYTES
            file = os.open(records.name(i), _FLAGS, dir_fd=place)
        except OSError:
            return False
        try:
            return os.preadv(file, [room, self._spill], 0) == RECORD_BYTES
        except OSError:
            return False
        finally:
            os.close(file)


# A pipe in the place of a file must not be waited for.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def _reopened(handle: int, path: bytes | None) -> int:
    """Close a handle, if it is one, and open a path, if there is one; −1 where that cannot be done."""
    if handle >= 0:
        os.close(handle)
    if path is not None:
        with suppress(OSError):
            return os.open(path, _FLAGS)
    return -1
