"""Records read once more, for photos that a store has already: from places in any order, and from streams."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.progress import Progress
from engine.store.copy import BLOCK_FILES, read_block
from engine.store.dat import LAYERS
from engine.store.listed import Refused
from engine.store.manifest import Manifest
from engine.store.reader import Block, open_reader
from engine.store.sources import Listing
from kernels import Device, load
from kernels.device import cpu_threads

# More threads than cores, for files that are not in the page cache; each takes some 30 MB for its block.
REREADERS = max(8, cpu_threads())
Layers = dict[str, npt.NDArray[np.float32]]


def refuse_other_layers(path: object, manifest: Manifest) -> None:
    """InputError unless the layers of a store are those of `.dat` files."""
    dims = {name: layer.dim for name, layer in manifest.layers.items()}
    if dims != LAYERS:
        found = ", ".join(f"{name} ({dim})" for name, dim in dims.items())
        raise InputError(f"{path}: holds layers {found}, which no .dat file has. Import the vectors again instead.")


class Reread:
    """Reads blocks of up to 256 records, from any thread."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._local = threading.local()

    def read(self, part: Listing) -> tuple[npt.NDArray[np.int64], Layers, list[Refused]]:
        """The ids (m,) and layers (m, dim) of good records, until this thread's next read, and what is no good."""
        local = self._local
        if not hasattr(local, "reader"):
            local.reader, local.block = open_reader(self._device, BLOCK_FILES), Block(BLOCK_FILES)
        ids, refused = read_block(part, local.reader, local.block)
        return ids, {name: getattr(local.block, name)[: len(ids)] for name in LAYERS}, refused


class Stream:
    """The records of an archive that is read from its beginning.

    damaged: known at the end of `batches`: nothing that came can be trusted.
    """

    def __init__(self, archive: bytes, device: Device, progress: Progress) -> None:
        self.archive, self.damaged = archive, False
        self._kernels, self._progress = load(device), progress

    def batches(
        self, wanted: npt.NDArray[np.int64] | None
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], Layers, npt.NDArray[np.bool_], list[bytes]]]:
        """Of photos wanted (w,), or all: ids (m,), records (m, 20400), layers (m, dim), whether good (m,), names."""
        for batch in self._all():
            self.damaged |= batch.damaged
            at = np.arange(len(batch.photo_ids))
            if wanted is not None:
                at = np.flatnonzero(np.isin(batch.photo_ids, wanted))
            if len(at):
                records = np.ascontiguousarray(batch.records[at])
                layers = {layer: np.empty((len(at), dim), np.float32) for layer, dim in LAYERS.items()}
                flags = np.asarray(self._kernels.decode(records, layers["fc7"], layers["fc8"]))
                yield batch.photo_ids[at], records, layers, flags == 0, [batch.names[i] for i in at.tolist()]

    def photo_ids(self) -> npt.NDArray[np.int64]:
        """The ids (m,) of all records, good or not, as they come."""
        return np.concatenate([np.empty(0, np.int64), *(batch.photo_ids.copy() for batch in self._all())])

    def _all(self) -> Iterator[Any]:
        from engine.store import archives

        size = os.stat(self.archive).st_size  # noqa: PTH116 (bytes: names may not be text)
        name = os.fsdecode(os.path.basename(self.archive))  # noqa: PTH119
        for batch in archives.stream(self.archive, threads=cpu_threads()):
            self._progress("unpack", batch.position, size, unit="bytes", detail=name)
            yield batch
