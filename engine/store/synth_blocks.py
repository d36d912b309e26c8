"""Write the files of the sample collection block by block, in this process or in several."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.progress import Progress
from engine.store import dat
from engine.store.processes import apart
from engine.store.synth_copies import Pair
from engine.store.synth_model import BLOCK, make_block


@dataclass(frozen=True, kw_only=True)
class Job:
    """One block to write: photos block * 1000 up to, not including, `end`."""

    directory: Path
    seed: int
    block: int
    end: int
    images: bool
    annotations: bool = False


def write_blocks(jobs: list[Job], workers: int, progress: Progress) -> tuple[int, list[Pair]]:
    """Write all files; returns their bytes and the planted pairs."""
    photos, done, size, pairs = jobs[-1].end, 0, 0, list[Pair]()
    progress("synth", done, photos, unit="photos")
    # One block needs no second process, and starting one takes longer than writing it.
    alone = workers == 1 or len(jobs) == 1
    for job, (written, found) in _write_here(jobs) if alone else apart(write_block, jobs, min(workers, len(jobs))):
        done += job.end - job.block * BLOCK
        size += written
        pairs += found
        progress("synth", done, photos, unit="photos")
    return size, pairs


def _write_here(jobs: list[Job]) -> Iterator[tuple[Job, tuple[int, list[Pair]]]]:
    for job in jobs:
        yield job, write_block(job)


def write_block(job: Job) -> tuple[int, list[Pair]]:
    """Write the files of one block; returns their bytes and the planted pairs among them."""
    block = make_block(job.seed, job.block)
    count = job.end - block.start
    records = dat.records(block.fc7[:count], block.fc8[:count])
    rows = records.view(np.uint8).reshape(count, dat.RECORD_BYTES)
    written = _write_files(job.directory / "features", block.start, ".dat", [row.data for row in rows])
    if job.images:
        from engine.store.synth_pictures import draw_block  # Pillow only where pictures are asked for

        written += _write_files(job.directory / "images", block.start, ".jpg", draw_block(block, job.seed, count))
    if job.annotations:
        from engine.store.synth_annotations import documents  # orjson only where annotations are asked for

        texts = documents(job.seed, job.block, count)
        written += _write_files(job.directory / "annotations", block.start, ".json", texts)
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
