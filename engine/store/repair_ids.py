"""A lost or damaged `photo_ids.npy`, found again from the sources: cheapest way first, each proved by the checksum."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.progress import Progress
from engine.store import repair_files
from engine.store.identify import (
    ByContent,
    Contents,
    Digests,
    joined,
    one_after_the_other,
    record_digests,
    row_digests,
    stream_digests,
)
from engine.store.manifest import Manifest
from engine.store.reread import Reread, Stream
from engine.store.sources import Found, find_sources
from engine.store.verify import examine_files
from kernels import Device

Ids = npt.NDArray[np.int64]


class IdSearch:
    """Looks for the ids of a store of `.dat` files whose own file is damaged; the caller holds the store."""

    def __init__(self, path: Path, manifest: Manifest, device: Device, progress: Progress) -> None:
        self._path, self._manifest, self._device, self._progress = path, manifest, device, progress
        self._named: dict[bytes, Ids] = {}
        self._turn = np.empty(0, np.int64)  # the ids of the sources, one source after the other

    def run(self, found: Found, sources: Sequence[Path], damaged: set[int]) -> str:
        """Mend the file; nothing, or what was tried in vain.

        found: of all sources together. damaged: numbers of the blocks whose rows cannot be compared.
        """
        if found.streams and self._by_name(found):
            return ""
        if repair_files.mend_ids(self._path, self._manifest, self._in_turn(sources)):
            return ""
        return self._by_content(found, damaged)

    def _by_name(self, found: Found) -> bool:
        """By the names in archives too, which only reading them shows; those of files were tried before."""
        left, _ = examine_files(self._path, self._manifest)
        ids = np.concatenate([found.listing.photo_ids, *map(self._names, found.streams)])
        repair_files.mend_files(self._path, self._manifest, left, ids)
        return examine_files(self._path, self._manifest)[1] is not None

    def _names(self, archive: bytes) -> Ids:
        archive = os.path.realpath(archive)
        if archive not in self._named:
            self._named[archive] = Stream(archive, self._device, self._progress).photo_ids()
        return self._named[archive]

    def _in_turn(self, sources: Sequence[Path]) -> Iterator[Ids]:
        """As if each source had been ingested after the one before it; with and without what was set aside."""
        parts = []
        for source in sources:
            found = find_sources([source], progress=self._progress)
            parts.append(np.concatenate([found.listing.photo_ids, *map(self._names, found.streams)]))
        self._turn = one_after_the_other(parts)
        good = self._turn[~np.isin(self._turn, repair_files.set_aside(self._path))]
        yield from (ids for ids in (self._turn, good) if len(ids) == self._manifest.rows)

    def _by_content(self, found: Found, damaged: set[int]) -> str:
        if not all((self._path / layer.file).is_file() for layer in self._manifest.layers.values()):
            damaged = set(range(len(self._manifest.block_rows)))
        streams = (Stream(archive, self._device, self._progress) for archive in found.streams)
        records = joined([
            record_digests(found.listing, Reread(self._device), self._progress),
            *(stream_digests(stream) for stream in streams),
        ])  # fmt: skip
        digests, rows = row_digests(self._path, self._manifest, damaged, self._progress)
        match = ByContent(self._manifest.rows, digests, rows, records)
        candidates = chain(match.in_turn(), match.fitted(), self._alike_in_turn(digests, rows, records))
        if repair_files.mend_ids(self._path, self._manifest, candidates):
            return ""
        if not match.without:
            return "each row found a record, but which of several photos of equal content it is could not be told"
        return f"{match.without:,} of {self._manifest.rows:,} rows found no record"

    def _alike_in_turn(self, digests: Digests, rows: Ids, records: Contents) -> Iterator[Ids]:
        """Photos of equal content in the order of their sources."""
        yield from ByContent(self._manifest.rows, digests, rows, records, self._turn).in_turn()
