"""How fast annotation files become the table of a store, beside `json.load` in a loop, and how much memory that takes.

`python -m benchmarks.annotations` writes results/annotations.md and .json. The files are those of the sample collection
(`mirsearch synth --annotations`), made in `--dir` if they are not there; smaller sizes read its first folders.

mirsearch is measured as its users run it: `mirsearch annotations ingest` in a process of its own, from the start of
Python to the flushed table. Two loops stand beside it, on one core each: `json.load` of each file, the result thrown
away; and the same with what it takes to end in the same table: our reader of fields, `Table.from_pylist`, one file of
Parquet. Peak memory is the sum over all processes of their proportional set sizes, looked at five times a second.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import table, write_result
from engine.store.annotations.flickr import parse
from engine.store.annotations.schema import schema
from engine.store.processes import apart
from engine.store.synth_annotations import documents
from engine.store.synth_model import BLOCK
from engine.store.writer import StoreWriter
from kernels.device import cpu_threads

FOLDER = 10_000  # photos of a folder, as the publisher has them
LOOP_FILES = 20_000  # of the loops, whose cost a file is the same for any number


def main() -> None:
    """Measure and write the result."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--photos", type=int, nargs="+", default=[10_000, 100_000, 300_000])
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    words.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.loop:
        LOOPS[given.loop](given.dir, given.photos[0])
        return
    files = given.dir / "annotations"
    make_files(files, max(given.photos))
    rows = [measure(files, given.dir, photos, given.rounds) for photos in sorted(given.photos)]
    write_result("annotations", {"sizes": rows}, report(rows))


def report(rows: list[dict[str, Any]]) -> str:
    """The result as text."""
    header = ["photos", "bytes a file", "ingest", "µs a file", "of all cores", "peak memory", "json.load loop, µs",
              "times", "loop to the same table, µs", "times"]  # fmt: skip
    cells = [
        [f"{row['photos']:,}", f"{row['bytes']:,.0f}", f"{row['seconds']:.1f} s", f"{row['ingest_us']:.0f}",
         f"{row['processor_us']:.0f}", f"{row['peak_mib']:.0f} MiB", f"{row['load_us']:.0f}",
         f"{row['load_us'] / row['ingest_us']:.2f}",
         f"{row['table_us']:.0f}", f"{row['table_us'] / row['ingest_us']:.2f}"]
        for row in rows
    ]  # fmt: skip
    return (
        f"# Annotations\n\n`mirsearch annotations ingest` with {cpu_threads()} processes; medians of rounds that take "
        f"turns, page cache warm. Times: how many times as long the loop takes for a file.\n\n{table(header, cells)}\n"
    )


def make_files(files: Path, photos: int) -> None:
    """Write the files that are not there yet, in the collection's layout."""
    jobs = [(files, block) for block in range(-(-photos // BLOCK)) if not (files / f".block{block}").exists()]
    for _ in apart(write_block, jobs, cpu_threads()):
        pass


def write_block(job: tuple[Path, int]) -> None:
    """Write the files of one block of the sample collection."""
    files, block = job
    folder = files / str(block * BLOCK // FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    for photo_id, data in enumerate(documents(0, block), block * BLOCK):
        (folder / f"{photo_id}.json").write_bytes(data)
    (files / f".block{block}").touch()


def folders_of(files: Path, photos: int) -> list[Path]:
    """The folders that hold the first photos."""
    return [files / str(number) for number in range(-(-photos // FOLDER))]


def measure(files: Path, work: Path, photos: int, rounds: int) -> dict[str, Any]:
    """Ingest and loops in turns; medians."""
    store = work / "annotations-store"
    found: dict[str, list[float]] = {name: [] for name in ("seconds", "processor", "peak", *LOOPS)}
    size = sum(path.stat().st_size for path in folders_of(files, FOLDER)[0].iterdir()) / FOLDER
    for number in range(rounds + 1):  # the first warms the page cache, and is not counted
        make_store(store, photos)  # anew, so that there is no table to compare with
        seconds, processor, peak = ingest(folders_of(files, photos), store, photos)
        loops = {name: loop(name, files, photos) for name in LOOPS}
        if number:
            found["seconds"].append(seconds)
            found["processor"].append(processor)
            found["peak"].append(peak)
            for name, took in loops.items():
                found[name].append(took)
    shutil.rmtree(store)
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {
        "photos": photos, "bytes": size, "seconds": middle["seconds"], "ingest_us": middle["seconds"] / photos * 1e6,
        "processor_us": middle["processor"] / photos * 1e6, "peak_mib": middle["peak"] / 2**20,
        "load_us": middle["load"], "table_us": middle["table"], "rounds": found,
    }  # fmt: skip


def make_store(path: Path, photos: int) -> None:
    """A store with a layer of one dimension, so that it is the annotations that count."""
    shutil.rmtree(path, ignore_errors=True)
    with StoreWriter(path, {"none": 1}) as writer:
        for start in range(0, photos, BLOCK):
            ids = np.arange(start, min(start + BLOCK, photos))
            writer.write(writer.reserve(len(ids)), ids, {"none": np.ones((len(ids), 1), np.float32)})
        writer.finish(["benchmark"])


def ingest(folders: list[Path], store: Path, photos: int) -> tuple[float, float, float]:
    """One ingest: seconds from start to end, of all cores, and bytes of memory at its peak."""
    command = [
        Path(sys.executable).with_name("mirsearch"),
        "annotations",
        "ingest",
        *folders,
        "--store",
        store,
        "--json",
    ]
    started, peak, before = time.perf_counter(), 0.0, processor_seconds()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*map(str, command)], stdout=out)
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - started
        out.seek(0)
        said = json.load(out)
    if process.returncode or said["annotated"] + said["said_nothing"] != photos:
        raise SystemExit(f"ingest ended with {process.returncode}: {said}")
    return seconds, processor_seconds() - before, peak


def processor_seconds() -> float:
    """What all processes have taken that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_of(pid: int) -> float:
    """Proportional set size of a process and all that it started, in bytes."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123
            own = next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        below = Path(f"/proc/{pid}/task").glob("*/children")
        return own + sum(memory_of(int(child)) for path in below for child in path.read_text().split())
    except (OSError, StopIteration):  # it has ended
        return 0.0


def loop(name: str, files: Path, photos: int) -> float:
    """Microseconds a file of a loop, in a process of its own."""
    words = ["-m", "benchmarks.annotations", "--loop", name, "--dir", files, "--photos", min(photos, LOOP_FILES)]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def load_loop(files: Path, photos: int) -> None:
    """`json.load` of each file."""
    started = time.perf_counter()
    for photo_id in range(photos):
        with open(files / str(photo_id // FOLDER) / f"{photo_id}.json") as file:  # noqa: PTH123 (as a loop would)
            json.load(file)
    print((time.perf_counter() - started) / photos * 1e6)


def table_loop(files: Path, photos: int) -> None:
    """`json.load` of each file, its fields, and one table of them all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    started, rows = time.perf_counter(), list[dict[str, Any]]()
    for photo_id in range(photos):
        with open(files / str(photo_id // FOLDER) / f"{photo_id}.json") as file:  # noqa: PTH123
            rows.append({"photo_id": photo_id, "annotated": True} | parse(json.load(file)))
    for row in rows:
        if "exif" in row:
            row["exif"] = [*row["exif"].items()]
    with tempfile.TemporaryFile() as out:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema()), out, compression="zstd")
    print((time.perf_counter() - started) / photos * 1e6)


LOOPS = {"load": load_loop, "table": table_loop}

if __name__ == "__main__":
    main()
