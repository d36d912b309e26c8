"""A store held by one process while it is changed, and what a change that was interrupted leaves beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StoreError
from engine.store import commit
from engine.store.durable import disk_errors, part_of
from engine.store.lock import WRITING, is_locked, take_lock
from engine.store.manifest import Manifest, document_bytes, read_manifest
from engine.store.publish import write_part
from engine.store.unfinished import unfinished_verb

# Parts with this ending belong to a change that is under way; a process that holds the store may remove all others'.
CHANGE_PART = ".change.part"


@contextmanager
def held(path: Path) -> Iterator[Manifest]:
    """Hold a store for a change; gives its manifest, after what another process left certain but undone was done.

    When the block is left, parts that no commit record speaks of are removed. StoreError when there is no store, or
    another process holds it. EngineError in place of a full disk or a missing permission.
    """
    commit.settle_store(path)
    if is_locked(path) and not (path / "manifest.json").exists():  # or it would be taken for an interrupted ingest
        raise StoreError(f"{path}: {WRITING}")
    read_manifest(path)
    with disk_errors(path):
        lock = take_lock(path, seconds=0.5)
        try:
            commit.finish_pending(path)
            sweep(path)
            yield read_manifest(path)
        finally:
            if not (path / commit.NAME).exists():
                sweep(path)
            os.close(lock)


def sweep(path: Path) -> None:
    """Remove what a change left that was killed; the caller holds the lock, and no commit record is there."""
    for part in (*path.glob(f"*{CHANGE_PART}"), part_of(path / commit.NAME)):
        part.unlink(missing_ok=True)


def change_part(file: str) -> str:
    """Where a change collects the bytes of `photo_ids.npy`: in `photo_ids.change.part`."""
    return Path(file).stem + CHANGE_PART


def write_change(path: Path, file: str, data: bytes) -> commit.Rename:
    """Write and flush the part of a small file; the step that gives it its name."""
    write_part(path / f"{Path(file).stem}.change", data)
    return commit.Rename(file=file, part=change_part(file))


def write_manifest(path: Path, manifest: Manifest) -> commit.Rename:
    """The same for a manifest; its own digest is made anew."""
    return write_change(path, "manifest.json", document_bytes(manifest.model_dump(mode="json", exclude={"digest"})))


def refuse_unfinished_ingest(path: Path) -> None:
    """StoreError when an ingest or import was interrupted that would lose what it has written; for who holds it."""
    if verb := unfinished_verb(path):
        other = ", or any other into this store" if verb == "ingest" else ""
        raise StoreError(f"{path}: an {verb} into it was interrupted. Run that {verb} again first{other}.")
