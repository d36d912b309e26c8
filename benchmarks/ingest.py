"""How fast `.dat` files become a store, beside the publisher's reader, `np.fromfile` and `cat`, in the same run.

`python -m benchmarks.ingest --photos 20000 100000` writes results/ingest.md and .json. All contestants read the same
files, warm in the page cache, in rounds that take turns, so that a slow spell of the machine hits all alike; figures
are medians over the rounds, ratios are of files per second. Sample files are made in `--dir` if they are not there.

Floor: 20,400 bytes copied from the page cache and, for a store, 20,384 copied back to it, at the memory's bandwidth;
beside that an open, a read and a close for each file, which is what the time goes to.
"""

import argparse
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import table, write_result
from engine.store.dat import RECORD_BYTES, relative_path
from engine.store.ingest import BLOCK_FILES, ingest
from engine.store.reader import Block, open_reader
from engine.store.sources import find_dat_files
from engine.store.synth import describe, synthesize
from kernels import Device
from kernels.device import cpu_threads

CPU = Device(kind="cpu")
SLOW_FILES = 4_000  # of the readers that take hundreds of microseconds for a file


def publisher(features: Path, photos: int) -> int:
    """The reader that the publisher prints on the collection's page, in the same steps."""
    for photo_id in range(photos):
        with (features / relative_path(photo_id)).open("rb") as file:
            dims8 = struct.unpack("=q", file.read(8))[0]
            row8 = list(struct.unpack(f"={dims8}f", bytearray(file.read(dims8 * 4))))
            dims7 = struct.unpack("=q", file.read(8))[0]
            row7 = list(struct.unpack(f"={dims7}f", bytearray(file.read(dims7 * 4))))
            np.asarray(row7).reshape(1, dims7), np.asarray(row8).reshape(1, dims8)
    return photos


def fromfile(features: Path, photos: int) -> int:
    """A loop over `np.fromfile`, headers skipped."""
    for photo_id in range(photos):
        data = np.fromfile(features / relative_path(photo_id), np.float32)
        data[2:1002], data[1004:]
    return photos


def concatenate(features: Path, photos: int, work: Path) -> int:
    """`cat` of all files into one."""
    folders = [str(features / str(number)) for number in range(-(-photos // 10_000))]
    with (work / "cat").open("wb") as out:
        subprocess.run(["find", *folders, "-name", "*.dat", "-exec", "cat", "{}", "+"], stdout=out, check=True)
    return photos


def read_only(features: Path, photos: int) -> int:
    """Our reader on one thread: found, read, split and checked, nothing written."""
    files = find_dat_files([features])
    reader, block = open_reader(CPU, BLOCK_FILES), Block(BLOCK_FILES)
    for start in range(0, photos, BLOCK_FILES):
        reader.read(files.take(slice(start, min(start + BLOCK_FILES, photos))), block)
    return photos


def whole(features: Path, work: Path, threads: int) -> int:
    """The whole ingest: found, read, checked, summed, written, flushed to the disk and renamed."""
    store = work / f"store-{threads}"
    return ingest([features], store, device=CPU, threads=threads).photos


def measure(features: Path, photos: int, rounds: int, work: Path) -> dict[str, list[float]]:
    """Microseconds per file of each contestant in each round."""
    slow = min(photos, SLOW_FILES)
    contestants: dict[str, Callable[[], int]] = {
        "publisher's struct reader, 1 thread": lambda: publisher(features, slow),
        "np.fromfile loop, 1 thread": lambda: fromfile(features, slow),
        "find and cat into one file": lambda: concatenate(features, photos, work),
        "mirsearch reader, 1 thread, nothing written": lambda: read_only(features, photos),
        "mirsearch ingest, 1 thread": lambda: whole(features, work, 1),
        f"mirsearch ingest, {cpu_threads()} threads": lambda: whole(features, work, cpu_threads()),
    }
    read_only(features, photos)  # compiles, and warms the page cache
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        print(f"{photos:,} photos, round {number + 1} of {rounds}", flush=True)
        for name, run in contestants.items():
            for old in work.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            started = time.perf_counter()
            files = run()
            found[name].append((time.perf_counter() - started) / files * 1e6)
    return found


def report(photos: int, found: dict[str, list[float]]) -> str:
    """One table: microseconds per file and the ratio to the publisher's reader, round by round."""
    base = next(iter(found.values()))
    rows = []
    for name, values in found.items():
        median = statistics.median(values)
        ratio = statistics.median([mine / other for mine, other in zip(base, values, strict=True)])
        spread = f"{min(values):.1f} – {max(values):.1f}"
        rows.append(
            [
                name,
                f"{median:.1f}",
                spread,
                f"{1e6 / median:,.0f}",
                f"{RECORD_BYTES / median / 1e3:.2f}",
                f"{ratio:.1f}",
            ]
        )
    header = ["", "µs per file", "min – max", "files/s", "GB/s", "× publisher's reader"]
    return f"## {photos:,} photos\n\n{table(header, rows)}\n"


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    results, texts = {}, []
    for photos in options.photos:
        sample = options.dir / f"sample-{photos}"
        if describe(sample) is None:
            synthesize(sample, photos=photos, seed=0)
        with tempfile.TemporaryDirectory(dir=options.dir) as work:
            results[str(photos)] = measure(sample / "features", photos, options.rounds, Path(work))
        texts.append(report(photos, results[str(photos)]))
    head = "# Ingest\n\nPage cache warm; medians of rounds that take turns. Rounds: " + str(options.rounds)
    write_result("ingest", {"microseconds_per_file": results}, head + "\n\n" + "\n".join(texts))


if __name__ == "__main__":
    main()
