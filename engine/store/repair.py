"""Damaged rows of a store, read again from the sources and taken where they are what the manifest's checksums say."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.errors import StoreError
from engine.progress import Progress, silent
from engine.store import commit, repair_files
from engine.store.blocks import Block, in_order, layer_blocks
from engine.store.copy import BLOCK_FILES
from engine.store.dat import LAYERS, RECORD_BYTES
from engine.store.hold import CHANGE_PART, held
from engine.store.manifest import Manifest, digest, read_manifest
from engine.store.publish import QUARANTINE
from engine.store.repair_ids import IdSearch
from engine.store.reread import REREADERS, Reread, Stream
from engine.store.rows_file import RowsFile
from engine.store.sources import Found, Listing, find_sources
from engine.store.verify import IDS, REMOVED, Damage, Findings, check_blocks, examine, examine_files, in_stretches
from engine.words import counted
from kernels import Device

Ids = npt.NDArray[np.int64]
_MISSING = "not all of its photos are in the sources"
# A block up to this long is tried with single rows of the sources too, when all of them together do not fit.
_TRIED_BY_ROW = 16 << 20


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What was mended, with the reason it was damaged; and what was not, with the reason why not.

    lost: files that could only be begun anew, and what that means.
    """

    path: Path
    repaired: list[Damage]
    left: list[Damage]
    bytes_read: int
    seconds: float
    lost: dict[str, str]


def repair_store(
    path: Path, sources: Sequence[Path], *, device: Device, forget_removed: bool = False, progress: Progress = silent
) -> RepairReport:
    """Verify a store and mend what is damaged: headers and lengths from the manifest, rows from the sources.

    Of the sources, folders and archives, the photos of damaged blocks alone are read. A block is written only when it
    then matches its checksum, so it may be damaged further by nothing; killed, the same call again completes it.
    `quarantine.jsonl` is begun anew with its whole lines where nothing else helps. No source knows what `removed.npy`
    marked: with `forget_removed` its photos are there again, else it is left. StoreError when the manifest is damaged:
    it holds the checksums.
    """
    started = time.perf_counter()
    commit.settle_store(path)
    try:
        read_manifest(path)
    except StoreError as error:
        raise StoreError(f"{error} Nothing can be repaired without it." if _is_there(path) else str(error)) from error
    with held(path) as manifest:
        before = examine(path, manifest, progress=progress)
        repaired, damage, lost = list[Damage](), list[Damage](), dict[str, str]()
        if before.whole or before.blocks:
            work = _Repair(path, manifest, device, progress)
            left = work.run(before, sources, forget_removed=forget_removed)
            repaired = [damage for damage in _mended(before, left, manifest) if damage.file not in work.lost]
            damage = [work.named(bad, left.ids, sources) for bad in left.damage(manifest)]
            lost = work.lost
        seconds = time.perf_counter() - started
        return RepairReport(
            path=path, repaired=repaired, left=damage, bytes_read=before.bytes_read, seconds=seconds, lost=lost
        )


def _is_there(path: Path) -> bool:
    return (path / "manifest.json").exists()


def _mended(before: Findings, left: Findings, manifest: Manifest) -> list[Damage]:
    files = {damage.file for damage in left.whole}
    # A header over rows that are still damaged has mended nothing yet.
    files |= {manifest.layers[block.layer].file for block, _ in left.blocks}
    blocks = {(block.layer, block.number) for block, _ in left.blocks}
    good = [(block, reason) for block, reason in before.blocks if (block.layer, block.number) not in blocks]
    whole = [damage for damage in before.whole if damage.file not in files]
    return [*whole, *in_stretches(good, left.ids, manifest)]


class _Repair:
    def __init__(self, path: Path, manifest: Manifest, device: Device, progress: Progress) -> None:
        self.path, self.manifest, self.device, self.progress = path, manifest, device, progress
        self.reread = Reread(device)
        self.known = np.empty(0, np.int64)
        self.lost: dict[str, str] = {}
        self.tried = ""  # of photo_ids.npy, in vain
        self.from_dat = {name: layer.dim for name, layer in manifest.layers.items()} == LAYERS

    def run(self, before: Findings, sources: Sequence[Path], *, forget_removed: bool) -> Findings:
        """Mend what can be; what is left, each block with the reason why it could not be."""
        found = find_sources(sources, progress=self.progress)
        reshaped = {damage.file for damage in before.whole}
        for name, layer in self.manifest.layers.items():
            if layer.file in reshaped:
                repair_files.mend_shape(self.path, name, self.manifest)
        bad = self._bad_now(before, reshaped)
        repair_files.mend_files(self.path, self.manifest, before.whole, found.listing.photo_ids)
        if examine_files(self.path, self.manifest)[1] is None and self.from_dat and sources:
            search = IdSearch(self.path, self.manifest, self.device, self.progress)
            self.tried = search.run(found, sources, {block.number for block in bad})
        self._begin_anew(forget_removed=forget_removed)
        whole, ids = examine_files(self.path, self.manifest)
        reason = ""
        if not self.from_dat:
            reason = "did not come from .dat files. Restore them from a copy, or import again"
        elif ids is None:
            reason = f"cannot be mended while {IDS} is damaged, which says what photos these are"
        else:
            bad = self._rows(bad, ids, found)
        left = [(block, reason or self._why(ids, block)) for block in bad]
        return Findings(whole=whole, blocks=left, ids=ids, bytes_read=0)

    def _begin_anew(self, *, forget_removed: bool) -> None:
        """What can only be begun anew: the list of what was set aside; the removed photos, if that is wanted."""
        bad = {damage.file for damage in examine_files(self.path, self.manifest)[0]}
        restarts = {QUARANTINE: repair_files.restart_quarantine}
        if forget_removed:
            restarts[REMOVED] = repair_files.forget_removed
        for file, restart in restarts.items():
            if file in bad and not (self.path / file).is_dir():
                self.manifest, self.lost[file] = restart(self.path, self.manifest)

    def _bad_now(self, before: Findings, reshaped: set[str]) -> list[Block]:
        """The damaged blocks; of a file whose length was wrong, that of what it holds now."""
        bad: list[Block] = []
        for name, layer in self.manifest.layers.items():
            if layer.file in reshaped and (self.path / layer.file).is_file():
                blocks = list(layer_blocks(self.manifest, name))
                checked = check_blocks(self.path / layer.file, blocks, phase=f"verify {name}", progress=self.progress)
                bad += [block for block, _ in checked]
            else:
                bad += [block for block, _ in before.blocks if block.layer == name]
        return bad

    def _why(self, ids: Ids | None, block: Block) -> str:
        here = np.isin(ids[block.start : block.stop], self.known) if ids is not None else np.zeros(0)
        return "the sources hold other content" if here.all() else _MISSING

    def named(self, damage: Damage, ids: Ids | None, sources: Sequence[Path]) -> Damage:
        """The same with what is missing: photos in the sources, or the sources themselves."""
        if damage.rows is None:
            return replace(damage, reason=f"{damage.reason}. {self._advice(damage.file)}")
        if damage.reason != _MISSING or ids is None:
            return damage
        if not sources:
            return replace(damage, reason="cannot be read again, for no SOURCE was named")
        missing = np.setdiff1d(ids[slice(*damage.rows)], self.known)
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        return replace(damage, reason=f"photo {missing[0]}{more} is not in the sources")

    def _advice(self, file: str) -> str:
        """What to do about a file that could not be mended."""
        if (self.path / file).is_dir():
            return "A folder has its name: move that away and repair again."
        if file == IDS and self.from_dat:
            tried = f", tried in order, source after source, and by content ({self.tried})" if self.tried else ""
            return (
                f"Its ids are the names of the .dat files{tried}: name all sources of the store, or restore it from a "
                "copy."
            )
        if file == REMOVED and (removed := self.manifest.removed):
            return (
                f"It marked {counted(removed.count, 'photo')} as removed, and nothing else says which: restore it from "
                "a copy, or add --forget-removed, and all of them can be found again."
            )
        return "Restore it from a copy, or import again." if file != QUARANTINE else "Restore it from a copy."

    def _rows(self, bad: list[Block], ids: Ids, found: Found) -> list[Block]:
        """Mend blocks from records that can be read in any order, then from one stream after the other."""
        wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(ids[b.start : b.stop] for b in bad)]))
        listing = found.listing
        records = listing.take(np.flatnonzero(np.isin(listing.photo_ids, wanted)))
        self.known = np.unique(records.photo_ids)
        bad = self._from(records, bad, ids)
        for archive in found.streams:
            if bad:
                spooled = self._spooled(archive, np.unique(np.concatenate([ids[b.start : b.stop] for b in bad])))
                records = _joined(records, spooled)
                self.known = np.union1d(self.known, spooled.photo_ids)
                bad = self._from(records, bad, ids)
        return bad

    def _spooled(self, archive: bytes, wanted: Ids) -> Listing:
        """The good records of an archive that are wanted, in a file beside the store, where they are read as others."""
        spool = self.path / f"repair{CHANGE_PART}"
        photo_ids: list[Ids] = []
        with spool.open("ab") as file:
            start = file.tell()
            for ids, records, _, good, _ in Stream(archive, self.device, self.progress).batches(wanted):
                file.write(records[good].tobytes())
                photo_ids.append(ids[good].copy())
        found = np.concatenate([np.empty(0, np.int64), *photo_ids])
        n = len(found)
        return Listing(
            places=[os.fsencode(spool)], photo_ids=found, place=np.zeros(n, np.int32),
            offset=start + np.arange(n) * RECORD_BYTES, name_at=np.zeros(n, np.int64), names=np.zeros(1, np.uint8),
        )  # fmt: skip

    def _from(self, records: Listing, bad: list[Block], ids: Ids) -> list[Block]:
        """Mend what these records, ascending by id, can mend; the blocks that are left."""
        by_rows: dict[int, list[Block]] = {}
        for block in bad:
            by_rows.setdefault(block.number, []).append(block)
        files = {b.layer: RowsFile(self.path / self.manifest.layers[b.layer].file, create=False) for b in bad}
        mended: set[Block] = set()
        try:
            with ThreadPoolExecutor(REREADERS, thread_name_prefix="repair") as pool:
                work = in_order(pool, lambda blocks: self._mend(files, blocks, records, ids), by_rows.values())
                for done, good in enumerate(work, 1):
                    mended |= set(good)
                    self.progress("repair", done, len(by_rows), unit="blocks")
            for file in files.values():
                file.sync()
        finally:
            for file in files.values():
                file.close()
        return [block for block in bad if block not in mended]

    def _mend(self, files: dict[str, RowsFile], blocks: list[Block], records: Listing, ids: Ids) -> list[Block]:
        """Mend blocks of the same rows in several layers; those for which that was possible."""
        mine = ids[blocks[0].start : blocks[0].stop]
        by_id = np.argsort(mine)
        first, last = (np.searchsorted(records.photo_ids, mine, side=side) for side in ("left", "right"))
        at = np.concatenate([np.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)])
        trials = [_Trial(files[block.layer], block) for block in blocks]
        for start in range(0, len(at), BLOCK_FILES):
            photo_ids, layers, _ = self.reread.read(records.take(at[start : start + BLOCK_FILES]))
            rows = by_id[np.searchsorted(mine[by_id], photo_ids)]
            for trial in trials:
                trial.offer(rows, layers[trial.block.layer])
        return [trial.block for trial in trials if trial.settle()]


class _Trial:
    """One damaged block: what its file holds, and what the sources hold of its rows."""

    def __init__(self, file: RowsFile, block: Block) -> None:
        self.file, self.block = file, block
        n = block.stop - block.start
        self._rows = np.zeros((n, block.size // n), np.uint8)
        try:
            data = file.read(block.size, block.offset)
        except OSError:  # the disk does not give it any more
            data = b""
        self._rows.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
        self._new = self._rows.copy()
        self._offered = np.zeros(n, np.bool_)

    def offer(self, rows: npt.NDArray[np.int64], layer: npt.NDArray[np.float32]) -> None:
        """Take records (m, dim) for rows (m,). Of several for one photo, that which the file holds, or the first."""
        for row, data in zip(rows.tolist(), layer.view(np.uint8), strict=True):
            if not self._offered[row] or (self._rows[row] == data).all():
                self._new[row], self._offered[row] = data, True

    def settle(self) -> bool:
        """Write the block if all the new rows, or one, or all but one make it match its checksum."""
        differ = np.flatnonzero((self._new != self._rows).any(axis=1))
        by_row = differ if self.block.size <= _TRIED_BY_ROW else differ[:0]
        subsets = chain([differ], (np.array([row]) for row in by_row), (differ[differ != row] for row in by_row))
        for rows in subsets:
            kept = self._rows[rows]
            self._rows[rows] = self._new[rows]
            if digest(self._rows) == self.block.xxh3:
                self.file.write(self._rows.reshape(-1).data, self.block.offset)
                return True
            self._rows[rows] = kept
        return False


def _joined(a: Listing, b: Listing) -> Listing:
    """Both, ascending by photo id, those of `a` first."""
    ids = np.concatenate([a.photo_ids, b.photo_ids])
    both = Listing(
        places=[*a.places, *b.places], photo_ids=ids, names=np.concatenate([a.names, b.names]),
        place=np.concatenate([a.place, b.place + np.int32(len(a.places))]),
        offset=np.concatenate([a.offset, b.offset]), name_at=np.concatenate([a.name_at, b.name_at + len(a.names)]),
    )  # fmt: skip
    return both.take(np.argsort(ids, kind="stable"))
