"""Write a made-up photo collection exactly as the publisher of MIRFLICKR-1M s16a lays out the real one.

`DIR/features/10/103169.dat`, on request `DIR/images/10/103169.jpg`, and `DIR/truth.jsonl`: the planted
duplicates. Photo i depends on the seed and on i alone, not on the size of the collection or the workers.
"""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Final

import numpy as np

from engine.errors import EngineError, InputError
from engine.progress import Progress, silent
from engine.store import dat
from engine.store.synth_model import BLOCK, VERSION, Float32, Pair, make_block
from engine.store.synth_pictures import draw_block

MARKER: Final = "synth.json"
TRUTH: Final = "truth.jsonl"
# Room on the disk: files take whole blocks of 4 KiB; a picture has 2 to 4 KB.
DAT_ROOM: Final = 20_480
PICTURE_ROOM: Final = 4_096
BLAS_THREADS: Final = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class SynthReport:
    """What was written: `bytes` counts file contents, `pairs` the planted pairs by kind."""

    directory: Path
    photos: int
    seed: int
    images: bool
    bytes: int
    seconds: float
    truth: Path
    pairs: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One block to write: photos block * 1000 up to, not including, `end`."""

    directory: Path
    seed: int
    block: int
    end: int
    images: bool


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

    Two collections of equal descriptions hold equal features.
    """
    marker = _marker(directory)
    return marker if marker is not None and (directory / TRUTH).is_file() else None


def synthesize(
    directory: Path,
    *,
    photos: int,
    seed: int = 0,
    images: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> SynthReport:
    """Write a collection of `photos` made-up photos, with ids 0 .. photos - 1, into `directory`.

    `workers` processes (all cores unless given) write blocks of 1,000 photos. truth.jsonl comes last: where
    it is, the collection is whole. Whatever collection was there before is replaced. Raises InputError for
    impossible parameters, a directory that holds something else, or a disk that is too small.
    """
    started = time.perf_counter()
    _check(photos, seed)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}, expected 1 or more.")
    directory = Path(directory)
    try:
        _prepare(directory, {"photos": photos, "seed": seed, "images": images, "version": VERSION})
        jobs = [
            Job(
                directory=directory,
                seed=seed,
                block=first // BLOCK,
                end=min(photos, first + BLOCK),
                images=images,
            )
            for first in range(0, photos, BLOCK)
        ]
        size, pairs = _write_blocks(jobs, workers or os.cpu_count() or 1, progress)
        truth = _write_truth(directory, pairs)
    except BrokenProcessPool as error:
        raise EngineError(
            f"{directory}: a worker process died, perhaps for lack of memory. Run again with fewer workers."
        ) from error
    except OSError as error:
        raise EngineError(
            f"{error.filename or directory}: {error.strerror}. The collection is unfinished; run again."
        ) from error
    return SynthReport(
        directory=directory,
        photos=photos,
        seed=seed,
        images=images,
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


def _marker(directory: Path) -> dict[str, Any] | None:
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (
        marker
        if isinstance(marker, dict) and {"photos", "seed", "images", "version"} <= set(marker)
        else None
    )


def _room(photos: int, images: bool) -> int:  # noqa: FBT001 - one of the two parameters of a collection's size
    return photos * (DAT_ROOM + (PICTURE_ROOM if images else 0))


def _prepare(directory: Path, marker: dict[str, Any]) -> None:
    """Leave in `directory` a marker, empty folders and no truth; refuse what is not ours or cannot fit."""
    if directory.exists():
        if not directory.is_dir():
            raise InputError(f"{directory} is a file, expected a folder. Give another folder.")
        if _marker(directory) is None and any(directory.iterdir()):
            raise InputError(
                f"{directory} holds files that are not a sample collection (no {MARKER}). "
                "They were left alone; give an empty or a new folder."
            )
    _check_room(directory, marker)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / TRUTH).unlink(missing_ok=True)
    for name in ("features", "images"):
        if (directory / name).exists():
            shutil.rmtree(directory / name)
    _write_aside(directory / MARKER, json.dumps(marker) + "\n")
    folders = range(0, marker["photos"], dat.PHOTOS_PER_FOLDER)
    for name in ("features", "images") if marker["images"] else ("features",):
        for first in folders:
            (directory / name / dat.relative_path(first)).parent.mkdir(parents=True)


def _check_room(directory: Path, marker: dict[str, Any]) -> None:
    needed = _room(marker["photos"], marker["images"])
    existing = next(
        parent for parent in (directory.absolute(), *directory.absolute().parents) if parent.exists()
    )
    free = shutil.disk_usage(existing).free
    before = describe(directory)
    if before is not None:
        free += _room(before["photos"], before["images"])
    if needed > free:
        raise InputError(
            f"{directory}: {marker['photos']:,} photos need {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free there. Make room, or ask for fewer photos."
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


def _write_blocks(jobs: list[Job], workers: int, progress: Progress) -> tuple[int, list[Pair]]:
    """Write all files; returns their bytes and the planted pairs."""
    photos, done, size, pairs = jobs[-1].end, 0, 0, list[Pair]()
    progress("synth", done, photos, unit="photos")
    # One block needs no second process, and starting one takes longer than writing it.
    alone = workers == 1 or len(jobs) == 1
    for job, (written, found) in _write_here(jobs) if alone else _write_apart(jobs, workers):
        done += job.end - job.block * BLOCK
        size += written
        pairs += found
        progress("synth", done, photos, unit="photos")
    return size, pairs


def _write_here(jobs: list[Job]) -> Iterator[tuple[Job, tuple[int, list[Pair]]]]:
    for job in jobs:
        yield job, write_block(job)


def _write_apart(jobs: list[Job], workers: int) -> Iterator[tuple[Job, tuple[int, list[Pair]]]]:
    """Write blocks in processes, in any order; an interrupt waits only for the blocks being written."""
    waiting = iter(jobs)
    running: dict[Future[tuple[int, list[Pair]]], Job] = {}
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), multiprocessing.get_context("spawn"), _leave_interrupts_to_parent
    )
    try:
        while True:
            with _quiet_start():
                for job in islice(waiting, workers + 1 - len(running)):
                    running[pool.submit(write_block, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Give processes started meanwhile one BLAS thread each, and keep an interrupt away from them.

    NumPy reads the thread count when it is imported there. A blocked signal is blocked in the child too,
    which could otherwise be interrupted, with a traceback, before it can ask not to be.
    """
    before = {name: os.environ.get(name) for name in BLAS_THREADS}
    resource_tracker.ensure_running()  # started by the first child otherwise, and it unblocks the signal
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def write_block(job: Job) -> tuple[int, list[Pair]]:
    """Write the files of one block; returns their bytes and the planted pairs among them."""
    block = make_block(job.seed, job.block)
    count = job.end - block.start
    records = dat.records(block.fc7[:count], block.fc8[:count])
    rows = records.view(np.uint8).reshape(count, dat.RECORD_BYTES)
    written = _write_files(job.directory / "features", block.start, ".dat", [row.data for row in rows])
    if job.images:
        written += _write_files(
            job.directory / "images", block.start, ".jpg", draw_block(block, job.seed, count)
        )
    return written, [pair for pair in block.pairs if pair.photo_id < job.end]


def _write_files(root: Path, start: int, suffix: str, contents: Sequence[bytes | memoryview]) -> int:
    """Write contents[i] as photo start + i, all in one folder; returns the bytes."""
    folder = os.open((root / dat.relative_path(start)).parent, os.O_RDONLY)
    try:
        size = 0
        for photo_id, content in enumerate(contents, start):
            size += _write_file(f"{photo_id}{suffix}", content, folder)
        return size
    finally:
        os.close(folder)


def _write_file(name: str, content: bytes | memoryview, folder: int) -> int:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=folder)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)
    return len(content)
