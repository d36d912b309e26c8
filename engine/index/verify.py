"""Reading every file of an index again against its checksums."""

import time
from pathlib import Path

from engine.errors import EngineError
from engine.index.build import sum_file
from engine.index.manifest import read_index_manifest, stale
from engine.progress import Progress, silent
from engine.store.manifest import read_manifest
from engine.store.verify import Damage, VerifyReport


def index_folders(store: Path) -> list[Path]:
    """The folders of the indices of a store, by name."""
    folder = store / "indices"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.suffix not in (".part", ".old"))


def verify_index(folder: Path, *, progress: Progress = silent) -> VerifyReport:
    """Read all parts of an index; what does not match is listed. An index of another state of the store is damage."""
    started = time.perf_counter()
    read, damage = 0, list[Damage]()
    try:
        manifest = read_index_manifest(folder)
        if change := stale(manifest, read_manifest(folder.parent.parent)):
            reason = f"built from another state of the store, {change}: build it again"
            damage.append(Damage(file="index.json", reason=reason))
    except EngineError as error:
        return VerifyReport(
            path=folder, bytes_read=0, seconds=0.0, damage=[Damage(file="index.json", reason=str(error))]
        )
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
            damage.append(Damage(file=file, reason="does not match its checksum: build the index again"))
    return VerifyReport(path=folder, bytes_read=read, seconds=time.perf_counter() - started, damage=damage)
