"""A folder taken by one writer: accepted or refused by what is in it, and left as it was if nothing comes of it."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from engine.errors import StoreError
from engine.store import commit, journal, publish
from engine.store.hold import sweep
from engine.store.lock import NAME as LOCK
from engine.store.lock import take_lock
from engine.store.manifest import Manifest, read_manifest
from engine.store.publish import IDS

LOOKS = 10  # how often a folder may vanish while it is being made


class Claim:
    """The folder of a store, for this process alone until `release`.

    layers: the dim of each. append: a store that is there is taken, and `base` is its manifest; else it is refused.
    StoreError when another process writes here, or something else is here.
    """

    def __init__(self, path: Path, layers: Mapping[str, int], *, append: bool) -> None:
        self.path = path
        self._new_folder = not path.exists()
        _make_folder(path)
        first = not (path / LOCK).exists()
        self._lock = take_lock(path)
        try:
            commit.finish_pending(path)
            sweep(path)
            try:
                self.base = _accept(path, dict(layers), append=append)
            except StoreError:
                if first:
                    (path / LOCK).unlink()
                raise
        except BaseException:
            self.release()
            raise

    def leave_nothing(self) -> None:
        """Remove the lock's file, unless a store was there, and a folder that was made for this."""
        if not self.base:
            (self.path / LOCK).unlink(missing_ok=True)
        if self._new_folder:
            with suppress(OSError):
                self.path.rmdir()

    def release(self) -> None:
        """Let others have the folder."""
        os.close(self._lock)


def _make_folder(path: Path) -> None:
    """Make the folder unless it is there; whoever gives up at the same moment may remove it between two looks."""
    for _ in range(LOOKS):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            if path.exists():
                raise
        else:
            return
    path.mkdir(parents=True, exist_ok=True)


def _accept(path: Path, dims: dict[str, int], *, append: bool) -> Manifest | None:
    """Accept a folder or refuse it: a store to append to, an interrupted run, or nothing of ours."""
    base, problem = None, ""
    if (path / "manifest.json").exists():
        if append:
            base = read_manifest(path)
            publish.check_quarantine(path, base)
            found = {name: layer.dim for name, layer in base.layers.items()}
            if found != dims:
                problem = f"holds layers {_named(found)}, expected {_named(dims)}. Name another folder"
        else:
            problem = "already holds a store. Name another folder with --store, or remove this one first"
    elif (begun := journal.job_of(path)) is not None and begun.get("layers") != dims:
        problem = "holds an interrupted ingest or import of something else. Finish that one, or remove the folder"
    elif not (path / journal.NAME).exists():
        names = [*(f"{name}.npy" for name in (*dims, IDS)), publish.QUARANTINE]
        taken = [name for name in names if (path / name).exists()]
        if taken:
            problem = f"holds {taken[0]}, which no ingest began. Name another folder with --store"
    if problem:
        raise StoreError(f"{path}: {problem}.")
    return base


def _named(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({dim})" for name, dim in dims.items())
