"""Which photo each row of a store is, when `photo_ids.npy` does not say it: from the order of sources, or by content.

What is found here is a candidate: the caller takes it where the manifest's checksum of the ids proves it.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from engine.progress import Progress
from engine.store.blocks import PIECE, DiskFile, in_order, read_threads
from engine.store.copy import BLOCK_FILES
from engine.store.dat import LAYERS
from engine.store.manifest import Manifest
from engine.store.reread import REREADERS, Layers, Reread, Stream
from engine.store.sources import Listing

Ids = npt.NDArray[np.int64]
Digests = npt.NDArray[np.bytes_]  # 16 bytes each: XXH3 128 of a photo's fc7 bytes, then its fc8 bytes
NONE = -1
_FITTED_MOST = 10_000  # rows that are tried one by one


def one_after_the_other(sources: Iterable[Ids]) -> Ids:
    """The ids (n,) of a store that has grown by source after source (m,): each ascending, known ones passed over."""
    known = np.empty(0, np.int64)
    for ids in sources:
        known = np.concatenate([known, np.setdiff1d(ids, known)])
    return known


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Records by content. ids: (m,) int64. digests: (m,) of 16 bytes. In any order."""

    ids: Ids
    digests: Digests


def row_digests(path: Path, manifest: Manifest, damaged: set[int], progress: Progress) -> tuple[Digests, Ids]:
    """Digests (m,) of the rows (m,) of all blocks but those with these numbers, read on all cores."""
    dims = [(layer.file, layer.dim * 4) for layer in (manifest.layers[name] for name in LAYERS)]
    step = max(PIECE // max(size for _, size in dims), 1)
    starts = np.append(0, np.cumsum(manifest.block_rows)).tolist()
    good = [number for number in range(len(manifest.block_rows)) if number not in damaged]
    pieces = [
        (start, min(start + step, starts[number + 1]))
        for number in good
        for start in range(starts[number], starts[number + 1], step)
    ]
    if not pieces:
        return np.empty(0, "S16"), np.empty(0, np.int64)
    with (
        DiskFile(path / dims[0][0]) as one,
        DiskFile(path / dims[1][0]) as two,
        ThreadPoolExecutor(read_threads(), thread_name_prefix="identify") as pool,
    ):

        def digest_rows(piece: tuple[int, int]) -> Digests:
            start, stop = piece
            layers = []
            for file, (_, size) in zip((one, two), dims, strict=True):
                # A thread's reads share their room, so that the first layer is kept aside.
                data = file.read((stop - start) * size, manifest.header_bytes + start * size).copy()
                layers.append(data.reshape(stop - start, size))
            return _digests(layers)

        found = list[Digests]()
        for piece, digests in zip(pieces, in_order(pool, digest_rows, pieces), strict=True):
            found.append(digests)
            progress("identify rows", piece[1], manifest.rows, unit="rows")
    return np.concatenate(found), np.concatenate([np.arange(*piece) for piece in pieces])


def record_digests(listing: Listing, reread: Reread, progress: Progress) -> Contents:
    """The good records of a listing, read on all cores."""

    def digest_records(start: int) -> tuple[Ids, Digests]:
        ids, layers, _ = reread.read(listing.take(slice(start, start + BLOCK_FILES)))
        return ids.copy(), _digests_of(layers)

    starts, found = range(0, len(listing), BLOCK_FILES), list[tuple[Ids, Digests]]()
    with ThreadPoolExecutor(REREADERS, thread_name_prefix="identify") as pool:
        for start, one in zip(starts, in_order(pool, digest_records, starts), strict=True):
            found.append(one)
            progress("identify photos", start, len(listing), unit="files")
    return joined([Contents(ids=ids, digests=digests) for ids, digests in found])


def stream_digests(stream: Stream) -> Contents:
    """The good records of an archive that is read from its beginning."""
    return joined([
        Contents(ids=ids[good].copy(), digests=_digests_of({name: data[good] for name, data in layers.items()}))
        for ids, _, layers, good, _ in stream.batches(None)
    ])  # fmt: skip


def joined(parts: Sequence[Contents]) -> Contents:
    """All of them as one."""
    return Contents(
        ids=np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)]),
        digests=np.concatenate([np.empty(0, "S16"), *(part.digests for part in parts)]),
    )


def _digests_of(layers: Layers) -> Digests:
    return _digests([np.ascontiguousarray(layers[name], "<f4") for name in LAYERS])


def _digests(layers: Sequence[npt.NDArray[np.generic]]) -> Digests:
    found = []
    for rows in zip(*layers, strict=True):
        one = xxhash.xxh3_128()
        for row in rows:
            one.update(row.data)
        found.append(one.digest())
    return np.array(found, "S16")


class ByContent:
    """Rows beside the records of the same content.

    rows: how many the store has. digests (m,) of the rows at (m,); the others are damaged and found by no content.
    turn: ids in the order in which rows of equal content get them, all that `records` has; ascending unless given.
    """

    def __init__(self, rows: int, digests: Digests, at: Ids, records: Contents, turn: Ids | None = None) -> None:
        order = np.lexsort((records.ids if turn is None else _places(records.ids, turn), records.digests))
        sums, ids = records.digests[order], records.ids[order]
        if len(ids):  # a photo may lie in the sources twice
            new = np.append(True, (sums[1:] != sums[:-1]) | (ids[1:] != ids[:-1]))
            sums, ids = sums[new], ids[new]
        by_sum = np.argsort(digests, kind="stable")
        self._ids = ids
        self._at = at[by_sum]
        self._first = np.searchsorted(sums, digests[by_sum], side="left")
        self._end = np.searchsorted(sums, digests[by_sum], side="right")
        n = len(self._at)
        begins = np.append(True, digests[by_sum][1:] != digests[by_sum][:-1])[:n]
        start = np.maximum.accumulate(np.where(begins, np.arange(n), 0))
        self._rank = np.arange(n) - start
        alike = np.bincount(start, minlength=n)[start] if n else start
        self._sure = (alike == 1) & (self._end - self._first == 1)
        self._rows = rows

    @property
    def without(self) -> int:
        """How many rows have no record in the sources, their own content being damaged or not."""
        return self._rows - int((self._first + self._rank < self._end).sum())

    def in_turn(self) -> Iterator[Ids]:
        """What the ids (rows,) may be, rows of equal content in the order given; none, or one.

        Rows without a record get the ids that are left over, if these are as many.
        """
        ids, _ = self._assigned()
        missing = np.flatnonzero(ids == NONE)
        left = np.setdiff1d(self._ids, ids) if len(missing) else missing
        if len(left) == len(missing):
            ids[missing] = left
            yield ids

    def fitted(self) -> Iterator[Ids]:
        """The same, rows of equal content and those without a record each with the id that stands in order there."""
        ids, found = self._assigned()
        missing = np.flatnonzero(ids == NONE)
        left = np.setdiff1d(self._ids, ids) if len(missing) else missing
        unsure = np.flatnonzero(found & ~self._sure)
        if len(missing) <= len(left) and 0 < len(unsure) + len(missing) <= _FITTED_MOST:
            ids[self._at[unsure]] = NONE
            yield _fitted(ids, self._pools(unsure, missing, left.tolist()))

    def _assigned(self) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The id of each row (rows,), or NONE; and which of the rows (m,) with a digest have one."""
        ids = np.full(self._rows, NONE, np.int64)
        found = self._first + self._rank < self._end
        ids[self._at[found]] = self._ids[self._first[found] + self._rank[found]]
        return ids, np.asarray(found)

    def _pools(self, unsure: Ids, missing: Ids, left: list[int]) -> dict[int, list[int]]:
        """Of each row that is to be settled the ids that it may have, ascending, shared by those of one content."""
        pools = dict[int, list[int]]()
        for i in unsure.tolist():
            first = int(self._first[i])
            if first not in pools:
                pools[first] = np.sort(self._ids[first : int(self._end[i])]).tolist()
        found = {int(self._at[i]): pools[int(self._first[i])] for i in unsure.tolist()}
        return found | dict.fromkeys(missing.tolist(), left)


def _places(ids: Ids, turn: Ids) -> Ids:
    """Where in `turn` these ids stand; at its end, should a file have come since."""
    order = np.append(np.argsort(turn), len(turn))
    return np.asarray(order[np.searchsorted(turn, ids, sorter=order[:-1])], np.int64)


def _fitted(ids: Ids, pools: dict[int, list[int]]) -> Ids:
    """The ids with each row that has a pool filled from it: with what stands in order between its neighbours."""
    fitted, sure = ids.copy(), np.flatnonzero(ids != NONE)
    after = np.searchsorted(sure, np.array(sorted(pools), np.int64)).tolist()
    for row, next_sure in zip(sorted(pools), after, strict=True):
        pool = pools[row]
        if not pool:
            continue
        low = int(fitted[row - 1]) if row else NONE
        high = int(ids[sure[next_sure]]) if next_sure < len(sure) else pool[-1] + 1
        fits = bisect(pool, low)
        if fits == len(pool) or (low < high <= pool[fits]):  # where photos were added later, the ids begin low again
            fits = 0
        fitted[row] = pool.pop(fits)
    return fitted
