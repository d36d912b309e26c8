"""How fast `.dat` files become a store, beside the publisher's reader, `np.fromfile`, `cat` and a floor in C.

`python -m benchmarks.ingest` writes results/ingest.md and .json. All contestants read the same files in rounds that
take turns, so that a slow spell of the machine hits all alike; figures are medians over the rounds, and ratios are
taken within a round. Sample files and archives of them are made in `--dir` if they are not there.

mirsearch is measured as its users run it: `mirsearch ingest` in a process of its own, from the start of Python to the
flushed store, every number checked and every block summed. `cat` is `find` and `cat` of the same files into one, not
flushed. The floor is benchmarks/floor.c, compiled on the spot: the same system calls for the same bytes in and out
with as many threads, flushed, and nothing else: no listing, no checks, no sums. The decompressor is the one that
mirsearch uses, alone, its output thrown away; beside it indexed_bzip2, a library for the same, if it is installed.

Warm: everything read was read just before. Cold: the page cache was dropped before each run (needs root), and the
programs themselves read again. The share of checksums is of processor time, within an ingest. The store
that a run wrote is removed and its disk blocks discarded before the next.
"""

import argparse
import importlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.machine import table, write_result
from engine.store.copy import BLOCK_FILES
from engine.store.dat import RECORD_BYTES, relative_path
from engine.store.ingest import READERS
from engine.store.reader import Block, open_reader
from engine.store.sources import find_sources
from engine.store.synth import describe, synthesize
from kernels import Device
from kernels.device import cpu_threads

CPU = Device(kind="cpu")
SLOW_FILES = 4_000  # of the readers that take hundreds of microseconds for a file
DROP = Path("/proc/sys/vm/drop_caches")
Run = Callable[[], float]


def timed(work: Callable[[], object]) -> float:
    """Seconds that a piece of work took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def publisher(features: Path, photos: int) -> None:
    """The reader that the publisher prints on the collection's page, in the same steps."""
    for photo_id in range(photos):
        with (features / relative_path(photo_id)).open("rb") as file:
            dims8 = struct.unpack("=q", file.read(8))[0]
            row8 = list(struct.unpack(f"={dims8}f", bytearray(file.read(dims8 * 4))))
            dims7 = struct.unpack("=q", file.read(8))[0]
            row7 = list(struct.unpack(f"={dims7}f", bytearray(file.read(dims7 * 4))))
            np.asarray(row7).reshape(1, dims7), np.asarray(row8).reshape(1, dims8)


def fromfile(features: Path, photos: int) -> None:
    """A loop over `np.fromfile`, headers skipped."""
    for photo_id in range(photos):
        data = np.fromfile(features / relative_path(photo_id), np.float32)
        data[2:1002], data[1004:]


def read_only(features: Path) -> None:
    """Our reader on one thread: found, read, split and checked, nothing written."""
    records = find_sources([features]).listing
    reader, block = open_reader(CPU, BLOCK_FILES), Block(BLOCK_FILES)
    for start in range(0, len(records), BLOCK_FILES):
        reader.read(records.take(slice(start, start + BLOCK_FILES)), block)


class Contest:
    """Everything that can be run over one collection."""

    def __init__(self, sample: Path, photos: int, folder: Path) -> None:
        self.features, self.photos, self.folder = sample / "features", photos, folder
        self.work = folder / "work"
        self.tar, self.tar_bz2 = sample / "features.tar", sample / "features.tar.bz2"
        self.floor = folder / "floor"
        source = Path(__file__).with_name("floor.c")
        subprocess.run(["cc", "-O2", "-pthread", source, "-o", self.floor], check=True)
        self.list = "".join(f"{self.features / relative_path(photo_id)}\n" for photo_id in range(photos))

    def pack(self, *, compressed: bool) -> None:
        """Make the archives with tar and bzip2 (or lbzip2, which is quicker about it)."""
        part = self.tar.with_suffix(".part")
        if not self.tar.exists():
            subprocess.run(["tar", "--format=gnu", "-cf", part, "-C", self.features.parent, "features"], check=True)
            part.rename(self.tar)
        if compressed and not self.tar_bz2.exists():
            tool = "lbzip2" if shutil.which("lbzip2") else "bzip2"
            with part.open("wb") as out:
                subprocess.run([tool, "-9", "-c", self.tar], stdout=out, check=True)
            part.rename(self.tar_bz2)

    def clean(self) -> None:
        """Remove what the last run wrote."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def mirsearch(self, source: Path, threads: int) -> float:
        """The whole command in a process of its own."""
        command = [Path(sys.executable).with_name("mirsearch"), "ingest", source, "--store", self.work / "store"]
        return timed(lambda: _quietly([*command, "--device", "cpu", "--threads", threads]))

    def checksums(self) -> dict[str, float]:
        """Processor time of an ingest of the folders, and of its checksums: microseconds for a file."""
        self.clean()
        command = [sys.executable, "-m", "benchmarks.checksums", self.features, self.work / "store"]
        found: dict[str, float] = json.loads(_quietly(command))
        return {name: seconds / self.photos * 1e6 for name, seconds in found.items()}

    def cat(self) -> float:
        """`find` and `cat` of all files into one."""
        with (self.work / "cat").open("wb") as out:
            command = ["find", str(self.features), "-name", "*.dat", "-exec", "cat", "{}", "+"]
            return timed(lambda: subprocess.run(command, stdout=out, check=True))

    def floor_of_files(self, threads: int) -> float:
        """The system calls alone, for files."""
        command = [self.floor, "files", threads, self.work]
        return timed(lambda: _quietly(command, self.list))

    def floor_of_tar(self, threads: int) -> float:
        """The system calls alone, for the members of a tar, which all lie equally far apart within a folder."""
        stride = 512 + -(-RECORD_BYTES // 512) * 512
        first = (
            3 * 512
        )  # behind the headers of two folders and of the first file; other folders shift the rest a little
        command = [self.floor, "tar", threads, self.work, self.tar, first, stride, self.photos]
        return timed(lambda: _quietly(command))

    def read_tar(self) -> float:
        """The archive read once from front to back."""
        return timed(lambda: _quietly([self.floor, "read", self.tar]))

    def decompress(self, threads: int) -> float:
        """The decompressor that mirsearch uses, alone."""
        from engine.store.archives.decompress import decompress

        return timed(
            lambda: sum(len(piece) for piece, _ in decompress(os.fsencode(self.tar_bz2), "bzip2", threads=threads))
        )

    def indexed_bzip2(self, threads: int) -> float:
        """A library that decompresses bzip2 on several threads, alone."""
        library = importlib.import_module("indexed_bzip2")

        def work() -> None:
            with library.open(str(self.tar_bz2), parallelization=threads) as file:
                while file.read(1 << 22):
                    pass

        return timed(work)


def _quietly(command: list[object], text: str | None = None) -> str:
    done = subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[:4]}: {done.stderr}")
    return done.stdout


def drop_caches(folder: Path) -> None:
    """Forget every file that the page cache holds, but for the programs: an ingest of three files reads them again."""
    few = sample(folder, 3)
    os.sync()
    DROP.write_text("3")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        command = [Path(sys.executable).with_name("mirsearch"), "ingest", few / "features"]
        _quietly([*command, "--store", Path(work) / "store", "--device", "cpu"])


def measure(contest: Contest, runs: dict[str, tuple[Run, int]], rounds: int, *, cold: bool) -> dict[str, list[float]]:
    """Microseconds per file of each run in each round; runs: seconds taken, and how many files that were."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, rounds):  # the first round warms the page cache and what is compiled
        if cold and number < 0:
            continue
        print(f"{'cold' if cold else 'warm'}, round {number + 1} of {rounds}", flush=True)
        for name, (run, files) in runs.items():
            contest.clean()
            if cold:
                drop_caches(contest.folder)
            seconds = run()
            if number >= 0:
                found[name].append(seconds / files * 1e6)
    return found


def report(title: str, found: dict[str, list[float]], against: list[str]) -> str:
    """One table: microseconds per file, and how many times as fast as some of the others, round by round."""
    rows = []
    for name, values in found.items():
        median = statistics.median(values)
        ratios = [
            f"{statistics.median(b / a for a, b in zip(values, found[other], strict=True)):.2f}" for other in against
        ]
        spread = f"{min(values):.1f} – {max(values):.1f}"
        rows.append(
            [name, f"{median:.1f}", spread, f"{1e6 / median:,.0f}", f"{RECORD_BYTES / median / 1e3:.2f}", *ratios]
        )
    header = ["", "µs per file", "min – max", "files/s", "GB/s", *(f"× {other}" for other in against)]
    return f"## {title}\n\n{table(header, rows)}\n"


def report_checksums(sums: list[dict[str, float]]) -> str:
    """What share of the processor time the checksums take."""
    share = [run["checksums"] / run["whole"] for run in sums]
    cost = statistics.median(run["checksums"] for run in sums)
    return (
        f"## Checksums\n\nxxh3 of every block of rows: {cost:.2f} µs of processor time for a photo, "
        f"{statistics.median(share):.1%} ({min(share):.1%} – {max(share):.1%}) of that of the whole ingest of folders, "
        "warm (`benchmarks/checksums.py`).\n"
    )


def runs_of(contest: Contest, threads: int, *, slow: bool) -> dict[str, dict[str, tuple[Run, int]]]:
    """The runs by kind of source."""
    n, features = contest.photos, contest.features
    few = min(n, SLOW_FILES)
    reading: dict[str, tuple[Run, int]] = {
        "publisher's reader": (lambda: timed(lambda: publisher(features, few)), few),
        "np.fromfile": (lambda: timed(lambda: fromfile(features, few)), few),
        "mirsearch reader alone, 1 thread": (lambda: timed(lambda: read_only(features)), n),
    }
    folders: dict[str, tuple[Run, int]] = {
        "cat": (contest.cat, n),
        "floor, 1 thread": (lambda: contest.floor_of_files(1), n),
        "floor": (lambda: contest.floor_of_files(READERS), n),
        "mirsearch, 1 thread": (lambda: contest.mirsearch(features, 1), n),
        "mirsearch": (lambda: contest.mirsearch(features, READERS), n),
    }
    tar: dict[str, tuple[Run, int]] = {
        "reading the tar": (contest.read_tar, n),
        "floor": (lambda: contest.floor_of_tar(READERS), n),
        "mirsearch, 1 thread": (lambda: contest.mirsearch(contest.tar, 1), n),
        "mirsearch": (lambda: contest.mirsearch(contest.tar, READERS), n),
    }
    packed: dict[str, tuple[Run, int]] = {
        "decompressor": (lambda: contest.decompress(threads), n),
        **({"indexed_bzip2": (lambda: contest.indexed_bzip2(threads), n)} if find_spec("indexed_bzip2") else {}),
        "mirsearch": (lambda: contest.mirsearch(contest.tar_bz2, threads), n),
    }
    return {"folders": (reading if slow else {}) | folders, "tar": tar, "tar.bz2": packed}


AGAINST = {
    "folders": ["publisher's reader", "cat", "floor, 1 thread", "floor"],
    "tar": ["reading the tar", "floor"],
    "tar.bz2": ["decompressor", "indexed_bzip2"],
}


def sample(folder: Path, photos: int) -> Path:
    """A sample collection of so many photos."""
    found = folder / f"sample-{photos}"
    if describe(found) is None:
        synthesize(found, photos=photos, seed=0)
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--packed-photos", type=int, default=100_000, help="photos of the compressed archive")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold-rounds", type=int, default=3)
    parser.add_argument("--packed-rounds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    threads, results, texts = cpu_threads(), {}, []
    many = Contest(sample(options.dir, options.photos), options.photos, options.dir)
    few = Contest(sample(options.dir, options.packed_photos), options.packed_photos, options.dir)
    many.pack(compressed=False)
    few.pack(compressed=True)
    for cold in (False, True):
        rounds = options.cold_rounds if cold else options.rounds
        if cold and not os.access(DROP, os.W_OK):
            texts.append("Cold: not measured, the page cache cannot be dropped here.\n")
            continue
        for kind in ("folders", "tar") if cold else ("folders", "tar", "tar.bz2"):  # unpacking waits for no disk
            contest = few if kind == "tar.bz2" else many
            runs = runs_of(contest, threads, slow=not cold)[kind]
            found = measure(contest, runs, options.packed_rounds if kind == "tar.bz2" else rounds, cold=cold)
            title = f"{kind}, {contest.photos:,} photos, {'cold' if cold else 'warm'}"
            results[title] = found
            texts.append(report(title, found, [name for name in AGAINST[kind] if name in found]))
    sums = [many.checksums() for _ in range(options.rounds)]
    results["processor time"] = {name: [run[name] for run in sums] for name in sums[0]}
    texts.append(report_checksums(sums))
    shutil.rmtree(many.work, ignore_errors=True)
    head = f"# Ingest\n\n{READERS} reading threads where no other number is given, {threads} cores; medians of "
    head += f"{options.rounds} rounds (tar.bz2: {options.packed_rounds}, cold: "
    head += f"{options.cold_rounds}) that take turns. What stands in which row: the text of `benchmarks/ingest.py`."
    write_result("ingest", {"microseconds_per_file": results}, head + "\n\n" + "\n".join(texts))


if __name__ == "__main__":
    main()
