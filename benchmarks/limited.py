"""Searching a store that is larger than the memory it may use, beside usearch over its own mapped file.

`python -m benchmarks.limited` (as root: it sets a limit of memory, by control groups) writes
results/limited-LAYER-PHOTOS.md and .json. Each run is a process of its own in a group of its own, whose limit counts
what it maps too; before it, all files are dropped from memory. It answers 6,000 queries, no two alike, in calls of
100, or what it can in a minute; the first calls find nothing in memory, and the figure is the median of the later half.

- mirsearch: 8 probes, 150 candidates; codes of 4 bits and raw rows are maps.
- the same, waiting for each page as it is met: what `kernels.paging` asks for in advance is switched off.
- usearch: float16, its file mapped (`view`), expansion 32.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import table, write_result
from benchmarks.peer_task import CPU, F32, Task
from benchmarks.peers import PEERS
from benchmarks.points import Recall
from benchmarks.search import build, collection, following
from benchmarks.searching import forget_files

QUERIES, EACH, EXPANSION = 6_000, 100, 32
ENOUGH = 60.0  # seconds, after which a run ends early
TOO_LONG = 180.0  # seconds, after which one that has not even made two calls is ended
LIMITS = (0, 1024, 512, 384)  # MiB; 0 = none
KINDS = ("mirsearch", "mirsearch, page by page", "usearch, mapped")
GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def limited(mib: int) -> Iterator[list[Path]]:
    """Files to write a process's number to, so that it and what it maps may take so much memory."""
    if not mib:
        yield []
        return
    old = GROUPS / "memory"  # version 1 of control groups, beside the unified version 2
    group = (old if old.is_dir() else GROUPS) / f"mirsearch-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(str(mib << 20))
        yield [group / "cgroup.procs"]
    finally:
        group.rmdir()


def search_all(options: argparse.Namespace) -> None:
    """What the process does: answers all queries and prints how fast each call was."""
    queries = np.load(options.queries, mmap_mode="r")
    answer = _searcher(options)
    rates, begun = [], time.perf_counter()
    for start in range(0, QUERIES, EACH):
        some = np.array(queries[start : start + EACH])
        started = time.perf_counter()
        answer(some)
        rates.append(EACH / (time.perf_counter() - started))
        if len(rates) > 1 and time.perf_counter() - begun > ENOUGH:
            break
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"rates": rates, "read": usage.ru_inblock * 512, "queries": EACH * len(rates)}))


def _searcher(options: argparse.Namespace) -> Callable[[F32], Any]:
    if options.kind == "usearch, mapped":
        index: Any = importlib.import_module("usearch.index").Index.restore(options.peer / "index", view=True)
        index.expansion_search = EXPANSION
        return lambda rows: index.search(rows, 10, threads=2).keys
    from engine.index.search import Index
    from engine.index.spec import SearchSpec
    from kernels import load

    if options.kind == "mirsearch, page by page":
        module: Any = sys.modules[load(CPU).cascade.__module__]
        module.disk_was_read = lambda: False
    ours, spec = Index.open(options.index, device=CPU), SearchSpec(probes=8, rerank=150)
    return lambda rows: ours.search(rows, spec)


def run(options: argparse.Namespace, kind: str, mib: int, files: list[Path]) -> dict[str, Any]:
    """One process."""
    forget_files(files)
    words = [sys.executable, "-m", "benchmarks.limited", "--kind", kind]
    for name in ("queries", "index", "peer"):
        words += [f"--{name}", str(getattr(options, name))]
    with limited(mib) as joins:

        def join() -> None:
            for file in joins:
                file.write_text(str(os.getpid()))

        try:
            done = subprocess.run(words, preexec_fn=join, capture_output=True, text=True, check=False, timeout=TOO_LONG)
        except subprocess.TimeoutExpired:
            return {"rates": [], "ended": f"fewer than {2 * EACH} queries in {TOO_LONG:.0f} s"}
        if done.returncode:  # killed for its memory, say
            return {"rates": [], "ended": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layer", default="fc7", choices=["fc7", "fc8"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    for name in ("kind", "queries", "index", "peer"):
        parser.add_argument(f"--{name}", type=str if name == "kind" else Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        search_all(options)
        return
    store, few = collection(options.dir, options.photos, options.layer)
    peers = options.dir / f"peers-{options.layer}-cosine-{options.photos}"
    recalls = {}
    for name, setting in (("mirsearch", (8, 150)), ("usearch float16", EXPANSION)):
        task = Task(store=store, layer=options.layer, metric="cosine", folder=peers / name.replace(" ", "-"))
        build(task, name)
        PEERS[name].open(task)
        recalls[name.split()[0]] = Recall(task, few)(PEERS[name].search(few, 10, setting))
    options.index = store.path / "indices" / f"bench-{options.layer}-cosine-uint4"
    options.peer = peers / "usearch-float16"
    options.queries = options.dir / f"queries-{options.layer}-{options.photos}-{QUERIES}.npy"
    if not options.queries.exists():
        np.save(options.queries, following(options.photos, options.layer, QUERIES))
    raw = store.path / store.manifest.layers[options.layer].file
    files = [raw, *options.index.iterdir(), options.peer / "index"]
    del store, task
    PEERS.clear()  # what is mapped is not forgotten
    found: dict[str, list[Any]] = {f"{mib} {kind}": [] for mib in LIMITS for kind in KINDS}
    for number in range(options.rounds):
        for mib in LIMITS:
            for kind in KINDS:
                print(f"round {number + 1} of {options.rounds}: {mib or 'any number of'} MiB, {kind}", flush=True)
                found[f"{mib} {kind}"].append(run(options, kind, mib, files))
    sizes = {"mirsearch": _size([raw, *options.index.iterdir()]), "usearch": _size([options.peer / "index"])}
    write_result(
        f"limited-{options.layer}-{options.photos}",
        {"runs": found, "recall": recalls, "bytes": sizes},
        report(options, found, recalls, sizes),
    )


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files) >> 20


def report(options: argparse.Namespace, found: dict[str, Any], recalls: dict[str, float], sizes: dict[str, int]) -> str:
    """The table: queries per second, and KiB read for each."""
    lines = []
    for mib in LIMITS:
        cells = []
        for kind in KINDS:
            runs = [run for run in found[f"{mib} {kind}"] if run["rates"]]
            if not runs:
                ended = [run["ended"] for run in found[f"{mib} {kind}"]]
                cells.append(str(ended[0]) if isinstance(ended[0], str) else "ended by the system")
                continue
            steady = statistics.median(rate for run in runs for rate in run["rates"][len(run["rates"]) // 2 :])
            read = statistics.median(run["read"] / run["queries"] for run in runs) / 1024
            cells.append(f"{steady:,.0f} ({read:,.0f} KiB)")
        lines.append([f"{mib:,} MiB" if mib else "none", *cells])
    what = ", ".join(f"{name}: {size:,} MiB of files, recall@10 {recalls[name]:.3f}" for name, size in sizes.items())
    head = f"# Less memory than files: {options.layer}, cosine, {options.photos:,} photos, k = 10\n\n"
    head += "Queries per second of the later half of the calls, and what a query read from the disk.\n"
    return head + f"{what}.\n\n" + table(["limit", *KINDS], lines)


if __name__ == "__main__":
    main()
