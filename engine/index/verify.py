"""Reading every file of an index again against its checksums."""

import shlex
import time
from contextlib import suppress
from pathlib import Path

from engine.errors import EngineError
from engine.index.manifest import NAME, IndexManifest, build_words, grown, read_index_manifest, stale
from engine.index.parts import sum_file
from engine.progress import Progress, silent
from engine.store.manifest import read_manifest
from engine.store.store import Store
from engine.store.verify import Damage, VerifyReport


def index_folders(store: Path) -> list[Path]:
    """The folders of the indices of a store, by name."""
    folder = store / "indices"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.suffix not in (".part", ".old"))


def verify_index(folder: Path, *, progress: Progress = silent) -> VerifyReport:
    """Read all parts of an index; what does not match is listed.

    An index of another state of the store is no damage: `stale` of the report says so, and what brings it up to date.
    """
    started = time.perf_counter()
    read, damage = 0, list[Damage]()
    try:
        manifest = read_index_manifest(folder)
    except EngineError as error:
        reason = str(error).removeprefix(f"{folder / NAME}: ")
        return VerifyReport(path=folder, bytes_read=0, seconds=0.0, damage=[Damage(file=NAME, reason=reason)])
    total = sum(part.bytes for part in manifest.parts.values())
    for file, expected in manifest.parts.items():
        progress(f"verify {folder.name}", read, total, unit="bytes")
        try:
            found = sum_file(folder / file)
        except OSError as error:
            damage.append(Damage(file=file, reason=f"cannot be read ({error.strerror})"))
            continue
        read += found.bytes
        if found.bytes != expected.bytes:
            damage.append(Damage(file=file, reason=f"{found.bytes:,} bytes, expected {expected.bytes:,}"))
        elif found != expected:
            damage.append(Damage(file=file, reason="does not match its checksum"))
    return VerifyReport(
        path=folder, bytes_read=read, seconds=time.perf_counter() - started, damage=damage,
        stale=_stale(folder, manifest),
    )  # fmt: skip


def _stale(folder: Path, manifest: IndexManifest) -> str | None:
    """That an index is of another state of its store, as a sentence. A damaged store is said by whoever verifies it."""
    try:
        store = read_manifest(folder.parent.parent)
    except EngineError:
        return None
    change = stale(manifest, store)
    if change is None:
        return None
    state = "an earlier state" if store.rows > manifest.rows else "another state"
    problem = f"Index {folder.name} is of {state} of the store: {change}."
    if manifest.spec.layer not in store.layers:
        return f"{problem} It cannot be searched any more: delete {folder}."
    with suppress(EngineError):
        if grown(manifest, store, Store.open(folder.parent.parent).photo_ids):
            words = build_words(folder, manifest.spec, update=True)
            return f"{problem} It cannot be searched until they join it: {shlex.join(['mirsearch', *words])}"
    return f"{problem} It cannot be searched until it is built again: {shlex.join(['mirsearch', *remake(folder)])}"


def remake(folder: Path) -> list[str]:
    """The verb and its words that build an index again, as far as its manifest can still say which it is."""
    store, name = folder.parent.parent, folder.name
    try:
        spec = read_index_manifest(folder).spec
    except EngineError:
        return ["build", str(store), "--layer", name]
    return build_words(folder, spec)
