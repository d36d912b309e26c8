"""Write a made-up photo collection exactly as the publisher of MIRFLICKR-1M s16a lays out the real one.

`DIR/features/10/103169.dat`, on request `DIR/images/10/103169.jpg` and `DIR/annotations/10/103169.json`, and
`DIR/truth.jsonl`: the planted duplicates. Photo i depends on the seed and on i alone, not on the size of the
collection or the workers.
"""

import json
import os
import shutil
import time
from collections import Counter
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import EngineError, InputError
from engine.progress import Progress, silent
from engine.store import dat
from engine.store.synth_annotations import ANNOTATIONS_VERSION
from engine.store.synth_blocks import Job, write_blocks
from engine.store.synth_copies import Float32, Pair
from engine.store.synth_model import BLOCK, VERSION, make_block
from engine.words import counted, sized

MARKER: Final = "synth.json"
TRUTH: Final = "truth.jsonl"
# Room on the disk: files take whole blocks of 4 KiB; a picture has 2 to 4 KB, annotations 4 KB on average.
DAT_ROOM: Final = 20_480
PICTURE_ROOM: Final = 4_096
ANNOTATIONS_ROOM: Final = 6_144


@dataclass(frozen=True, kw_only=True)
class SynthReport:
    """What was written: `bytes` counts file contents, `pairs` the planted pairs by kind."""

    directory: Path
    photos: int
    seed: int
    images: bool
    annotations: bool
    bytes: int
    seconds: float
    truth: Path
    pairs: dict[str, int]


def features(start: int, photos: int, *, seed: int) -> tuple[Float32, Float32]:
    """The rows of photos start .. start + photos - 1, without files.

    Returns fc7 (photos, 4096) and fc8 (photos, 1000), float32: bit for bit what `synthesize` writes.
    """
    _check(max(photos, 1), seed)
    if start < 0 or photos < 0:
        raise InputError(f"start {start}, photos {photos}: expected zero or more.")
    fc7 = np.empty((photos, dat.FC7_DIM), np.float32)
    fc8 = np.empty((photos, dat.FC8_DIM), np.float32)
    end = start + photos
    for number in range(start // BLOCK, -(-end // BLOCK) if photos else 0):
        block = make_block(seed, number)
        first, last = max(start, block.start), min(end, block.start + BLOCK)
        fc7[first - start : last - start] = block.fc7[first - block.start : last - block.start]
        fc8[first - start : last - start] = block.fc8[first - block.start : last - block.start]
    return fc7, fc8


def describe(directory: Path) -> dict[str, Any] | None:
    """What a finished sample collection is made of: photos, seed, images, version. None where there is none.

    With annotations, `annotations` is the version of what draws them. Two collections of equal descriptions hold equal
    features, pictures and annotations.
    """
    marker = _marker(directory)
    return marker if marker is not None and (directory / TRUTH).is_file() else None


def synthesize(
    directory: Path,
    *,
    photos: int,
    seed: int = 0,
    images: bool = False,
    annotations: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> SynthReport:
    """Write a collection of `photos` made-up photos, with ids 0 .. photos - 1, into `directory`.

    `workers` processes (all cores unless given) write blocks of 1,000 photos. truth.jsonl comes last: where
    it is, the collection is whole. A collection of the same settings is written anew: its folders are emptied.
    Raises InputError for impossible parameters, a directory that holds another collection or something else, or
    a disk that is too small.
    """
    started = time.perf_counter()
    _check(photos, seed)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}, expected 1 or more.")
    directory = Path(directory)
    try:
        _prepare(directory, _described(photos, seed, images=images, annotations=annotations))
        jobs = [
            Job(
                directory=directory,
                seed=seed,
                block=first // BLOCK,
                end=min(photos, first + BLOCK),
                images=images,
                annotations=annotations,
            )
            for first in range(0, photos, BLOCK)
        ]
        size, pairs = write_blocks(jobs, workers or os.cpu_count() or 1, progress)
        truth = _write_truth(directory, pairs)
    except BrokenProcessPool as error:
        raise EngineError(
            f"{directory}: a worker process died: for lack of memory, or because the calling script has no "
            "`if __name__ == '__main__':`. Run again with workers=1."
        ) from error
    except OSError as error:
        raise EngineError(
            f"{error.filename or directory}: {error.strerror or error}. The collection is unfinished; run again."
        ) from error
    return SynthReport(
        directory=directory,
        photos=photos,
        seed=seed,
        images=images,
        annotations=annotations,
        bytes=size,
        seconds=time.perf_counter() - started,
        truth=truth,
        pairs=dict(Counter(pair.kind for pair in pairs)),
    )


def _check(photos: int, seed: int) -> None:
    if photos < 1:
        raise InputError(f"photos is {photos}, expected 1 or more.")
    if seed < 0:
        raise InputError(f"seed is {seed}, expected 0 or more.")


def _described(photos: int, seed: int, *, images: bool, annotations: bool) -> dict[str, Any]:
    """What the marker of a collection says of it; nothing of annotations where there are none, as ever."""
    marker = {"photos": photos, "seed": seed, "images": images, "version": VERSION}
    return marker | ({"annotations": ANNOTATIONS_VERSION} if annotations else {})


def _marker(directory: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and {"photos", "seed", "images", "version"} <= set(marker) else None


def _folders(marker: dict[str, Any]) -> list[str]:
    """The folders that a collection has."""
    return ["features", *(name for name in ("images", "annotations") if marker.get(name))]


def _room(marker: dict[str, Any]) -> int:
    rooms = {"features": DAT_ROOM, "images": PICTURE_ROOM, "annotations": ANNOTATIONS_ROOM}
    return int(marker["photos"]) * sum(rooms[name] for name in _folders(marker))


def _prepare(directory: Path, marker: dict[str, Any]) -> None:
    """Leave in `directory` a marker, empty folders and no truth; refuse what is not ours or cannot fit."""
    if directory.exists():
        if not directory.is_dir():
            raise InputError(f"{directory} is a file, expected a folder. Give another folder.")
        if _marker(directory) is None and {path.name for path in directory.iterdir()} - {MARKER + ".part"}:
            raise InputError(
                f"{directory} holds files that are not a sample collection (no {MARKER}). "
                "They were left alone; give an empty or a new folder."
            )
        _refuse_another(directory, marker)
    _check_room(directory, marker)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TRUTH).unlink(missing_ok=True)
    for name in ("features", "images", "annotations"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    _write_aside(directory / MARKER, json.dumps(marker) + "\n")
    folders = range(0, marker["photos"], dat.PHOTOS_PER_FOLDER)
    for name in _folders(marker):
        for first in folders:
            (directory / name / dat.relative_path(first)).parent.mkdir(parents=True)


def _refuse_another(directory: Path, wanted: dict[str, Any]) -> None:
    """InputError where a collection of other settings is, or was begun: nothing would be left of it."""
    there = _marker(directory)
    if there is None or _settings(there) == _settings(wanted):
        return
    unfinished = "" if (directory / TRUTH).is_file() else "unfinished "
    raise InputError(
        f"{directory}: holds another {unfinished}sample collection ({_settings(there)}; asked for: "
        f"{_settings(wanted)}). It was left alone; give another folder, or remove this one."
    )


def _settings(marker: dict[str, Any]) -> str:
    """What was asked for, in words."""
    drawn = "".join(f", with {name}" for name in ("images", "annotations") if marker.get(name))
    photos = marker["photos"]
    return f"{counted(photos, 'photo') if isinstance(photos, int) else photos}, seed {marker['seed']}{drawn}"


def _check_room(directory: Path, marker: dict[str, Any]) -> None:
    needed = _room(marker)
    existing = next(parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    before = describe(directory)
    if before is not None:
        free += _room(before)
    if needed > free:
        raise InputError(
            f"{directory}: {counted(marker['photos'], 'photo')} of {sized(needed)} in all, and {sized(free)} are free "
            "there. Make room, or ask for fewer photos."
        )


def _write_aside(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    aside = path.with_name(path.name + ".part")
    with aside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _write_truth(directory: Path, pairs: list[Pair]) -> Path:
    lines = [json.dumps(asdict(pair)) for pair in sorted(pairs, key=lambda pair: (pair.photo_id, pair.of))]
    _write_aside(directory / TRUTH, "".join(line + "\n" for line in lines))
    return directory / TRUTH
