"""What one photo costs to ingest, from 10,000 to 1,000,000 of them, and how much memory it takes.

`python -m benchmarks.ingest_scale` writes results/ingest_scale.md, .json and .png. It makes the sample collection of as
many photos as the largest run (20.4 GB for a million) in `--dir`, and a store as large beside it; both are removed at
the end (`--keep` keeps the collection). A smaller run reads the first folders of the same collection.

Cold: the page cache is dropped before each run (needs root), so that every size reads its files from the disk; the
programs are read again first. Warm: the files were read just before, for the sizes whose files and store fit in three
quarters of the memory. The cost is that of the ingest, from the first folder to the flushed and renamed store; the
start of Python comes on top, once.
Peak memory is the largest resident set of the process.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ingest import DROP, drop_caches
from benchmarks.machine import RESULTS, table, write_result
from engine.store.dat import PHOTOS_PER_FOLDER, RECORD_BYTES
from engine.store.ingest import READERS
from engine.store.synth import describe, synthesize
from kernels.device import cpu_threads


def run(folders: list[Path], store: Path, threads: int) -> dict[str, float]:
    """One ingest in a process of its own: its seconds, those of the process, and its peak memory in MiB."""
    command = [str(Path(sys.executable).with_name("mirsearch")), "ingest", *map(str, folders), "--store", str(store)]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*command, "--json", "--device", "cpu", "--threads", str(threads)], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        out.seek(0)
        report = json.load(out)
    if process.returncode or report["photos"] != len(folders) * PHOTOS_PER_FOLDER:
        raise SystemExit(f"ingest ended with {process.returncode}: {report}")
    return {
        "seconds": report["seconds"],
        "wall": wall,
        "peak_mib": usage.ru_maxrss / 1024,
        "cpu": usage.ru_utime + usage.ru_stime,
    }


def measure(features: Path, work: Path, sizes: list[int], rounds: int, *, cold: bool) -> list[dict[str, Any]]:
    """So many runs of each size; the sizes take turns."""
    store = work / "store"
    found: dict[int, list[dict[str, float]]] = {photos: [] for photos in sizes}
    for number in range(0 if cold else -1, rounds):  # a first warm round is not counted
        for photos in sizes:
            shutil.rmtree(store, ignore_errors=True)
            if cold:
                drop_caches(work)
            result = run([features / str(folder) for folder in range(photos // PHOTOS_PER_FOLDER)], store, READERS)
            cost = f"{result['seconds'] / photos * 1e6:.1f} µs per file"
            print(f"{photos:,} {'cold' if cold else 'warm'}: {cost}", flush=True)
            if number >= 0:
                found[photos].append(result)
    shutil.rmtree(store, ignore_errors=True)
    return [
        {
            "photos": photos,
            "cold": cold,
            "runs": runs,
            "us_per_file": statistics.median(r["seconds"] for r in runs) / photos * 1e6,
            "wall_seconds": statistics.median(r["wall"] for r in runs),
            "peak_mib": max(r["peak_mib"] for r in runs),
        }
        for photos, runs in found.items()
    ]


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Cost of a photo and peak memory over the number of photos."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (cost, memory) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for cold, color in ((True, "#1f6fb2"), (False, "#d9822b")):
        mine = [point for point in points if point["cold"] == cold]
        if not mine:
            continue
        photos, label = [point["photos"] for point in mine], "cold page cache" if cold else "warm page cache"
        cost.plot(photos, [point["us_per_file"] for point in mine], "o-", color=color, label=label)
        every = [(point["photos"], r["seconds"] / point["photos"] * 1e6) for point in mine for r in point["runs"]]
        cost.plot(*zip(*every, strict=True), ".", color=color, alpha=0.4)
        memory.plot(photos, [point["peak_mib"] for point in mine], "o-", color=color, label=label)
    cost.set(title="Cost of one photo", ylabel="microseconds")
    memory.set(title="Peak resident memory", ylabel="MiB")
    memory.axhline(1024, color="#888888", linestyle=":", linewidth=1)
    memory.annotate("1 GiB", (points[0]["photos"], 1024), color="#666666", xytext=(0, -12), textcoords="offset points")
    for axes in (cost, memory):
        axes.set(xscale="log", xlabel="photos", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    threads = f"{READERS} reading threads, {cpu_threads()} cores"
    figure.suptitle(f"mirsearch ingest, {threads}: from folders of .dat files to a flushed store")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, clean up, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    parser.add_argument("--photos", type=int, nargs="+", default=sizes, help="multiples of 10,000")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each size, which take turns")
    parser.add_argument("--keep", action="store_true", help="keep the sample collection")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    most = max(options.photos)
    sample = options.dir / f"sample-{most}"
    there = describe(sample) is not None
    needed = (1 if there else 2) * most * RECORD_BYTES * 1.1
    options.dir.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(options.dir).free) < needed:
        raise SystemExit(f"{options.dir}: {needed / 1e9:.0f} GB needed, {free / 1e9:.0f} GB are free")
    if not there:
        print(f"making {most:,} photos", flush=True)
        synthesize(sample, photos=most, seed=0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    points = []
    with tempfile.TemporaryDirectory(dir=options.dir) as work:
        for cold in (True, False):
            sizes = [n for n in options.photos if cold or n * RECORD_BYTES * 2 < 0.75 * memory]
            if not cold or os.access(DROP, os.W_OK):
                points += measure(sample / "features", Path(work), sizes, options.rounds, cold=cold)
    if not (options.keep or there):
        shutil.rmtree(sample)
    RESULTS.mkdir(exist_ok=True)
    draw(points, RESULTS / "ingest_scale.png")
    rows = [
        [
            f"{p['photos']:,}", "cold" if p["cold"] else "warm", len(p["runs"]), f"{p['us_per_file']:.1f}",
            f"{p['photos'] * RECORD_BYTES / p['us_per_file'] / p['photos'] / 1e3:.2f}", f"{p['wall_seconds']:.1f}",
            f"{p['peak_mib']:.0f}",
        ]
        for p in points
    ]  # fmt: skip
    header = ["photos", "page cache", "runs", "µs per file", "GB/s", "whole command, s", "peak memory, MiB"]
    text = f"# Ingest from 10,000 photos on\n\n![cost and memory](ingest_scale.png)\n\n{table(header, rows)}"
    write_result("ingest_scale", {"points": points}, text)


if __name__ == "__main__":
    main()
