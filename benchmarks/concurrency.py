"""Searching at the same time, opening, and searching with raw rows that are not all in memory.

`python -m benchmarks.concurrency` writes results/concurrency-LAYER-PHOTOS.md and .json. All processes are
`benchmarks/searching.py`, on one index (4-bit codes) of one store.

- Single queries, one after the other, on 1, 2 and 4 threads of one process and in 1, 2 and 4 processes of one thread.
- Opening, in a process whose libraries are imported already: with the files of the index and the ids of the store in
  the page cache, and not; then the first query.
- Memory: the largest resident set of a process that has answered 1,000 queries in one call, and what of it is its own.
- Rows that are not in memory: before each round the page cache is made to forget a share of the file of the raw rows
  (`posix_fadvise`, MiB by MiB at random), then 1,000 queries in four calls; with the bytes read from the disk. No
  limit of memory is set: what a query reads stays for the next ones, so the first calls are slower than the last.

Kinds take turns; figures are medians of the rounds.
"""

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.held_out import held_out, index_of
from benchmarks.machine import table, write_result
from benchmarks.points import K
from benchmarks.search import QUERIES
from benchmarks.searching import Searching, forget_files
from engine.index.search import Index

COUNTS = (1, 2, 4)
FORGOTTEN = (0.0, 0.5, 1.0)
CALLS = 4
MIB = 1 << 20
Results = dict[str, list[dict[str, Any]]]


class Bench:
    """One index, one file of queries, one setting."""

    def __init__(self, index: Index, queries: Path, probes: int, rerank: int) -> None:
        self.index, layer = index.path, index.store.manifest.layers[index.layer]
        self.raw = index.store.path / layer.file
        self.opened = [file for file in index.path.iterdir() if file.is_file()] + [index.store.path / "photo_ids.npy"]
        self.words = {
            "index": str(index.path),
            "queries": str(queries),
            "spec": {"k": K, "probes": probes, "rerank": rerank},
        }

    def at_once(self, rounds: int, seconds: float) -> Results:
        """Throughput of threads and of processes."""
        found: Results = {f"{n} {kind}": [] for n in COUNTS for kind in ("threads", "processes")}
        with ExitStack() as stack:
            every = [stack.enter_context(Searching()) for _ in range(max(COUNTS))]
            for each in every:
                each.ask("open", **self.words)
                each.ask("singles", threads=1, seconds=0.2)
            for number in range(rounds):
                print(f"threads and processes, round {number + 1} of {rounds}", flush=True)
                for n in COUNTS:
                    found[f"{n} threads"].append(every[0].ask("singles", threads=n, seconds=seconds))
                    for each in every[:n]:
                        each.tell("singles", threads=1, seconds=seconds)
                    answers = [each.answer() for each in every[:n]]
                    found[f"{n} processes"].append(
                        {"qps": sum(one["qps"] for one in answers)}
                        | {key: statistics.mean(one[key] for one in answers) for key in ("p50", "p99")}
                    )
        return found

    def opening(self, rounds: int) -> Results:
        """Seconds of opening and of the first query, warm and cold."""
        found: Results = {"warm": [], "cold": []}
        for number in range(rounds):
            print(f"opening, round {number + 1} of {rounds}", flush=True)
            for kind, runs in found.items():
                with Searching() as process:
                    if kind == "cold":
                        forget_files(self.opened)
                    runs.append(process.ask("open", **self.words))
        return found

    def memory(self) -> dict[str, int]:
        """Of a process that has answered all queries, in one call and one by one."""
        with Searching() as process:
            process.ask("open", **self.words)
            process.ask("batch", start=0, count=QUERIES)
            process.ask("singles", threads=1, seconds=0.5)
            known: dict[str, int] = process.ask("memory")
        return known

    def out_of_memory(self, rounds: int) -> Results:
        """Throughput after a share of the raw rows was forgotten."""
        found: Results = {f"{share:.0%}": [] for share in FORGOTTEN}
        with Searching() as process:
            process.ask("open", **self.words)
            process.ask("batch", start=0, count=QUERIES)
            for number in range(rounds):
                print(f"forgotten rows, round {number + 1} of {rounds}", flush=True)
                for share in FORGOTTEN:
                    process.ask("warm")
                    cached = process.ask("forget", share=share, seed=number)["cached"]
                    each = QUERIES // CALLS
                    runs = [process.ask("batch", start=call * each, count=each) for call in range(CALLS)]
                    found[f"{share:.0%}"].append(
                        {"cached": cached} | {key: [run[key] for run in runs] for key in ("seconds", "read")}
                    )
            process.ask("warm")
        return found


def _named(name: str) -> str:
    return name.removesuffix("es" if name == "1 processes" else "s") if name.startswith("1 ") else name


def median(runs: list[dict[str, Any]], key: str) -> float:
    """Over the rounds."""
    return float(statistics.median(run[key] for run in runs))


def report(found: dict[str, Any]) -> str:
    """The tables."""
    base = median(found["at once"]["1 threads"], "qps")
    lines = [
        [_named(name), f"{median(runs, 'qps'):,.0f}", f"{median(runs, 'qps') / base:.2f}"]
        + [f"{median(runs, key):.2f}" for key in ("p50", "p99")]
        for name, runs in found["at once"].items()
    ]
    texts = ["## Single queries at the same time\n", table(["", "queries/s", "× 1 thread", "p50 ms", "p99 ms"], lines)]
    lines = [
        [kind, *(f"{median(runs, key) * 1e3:,.0f}" for key in ("seconds", "first"))]
        for kind, runs in found["opening"].items()
    ]
    texts += ["\n## Opening\n", table(["page cache", "open, ms", "first query, ms"], lines)]
    own = found["memory"]
    texts.append(
        f"\nResident after {QUERIES:,} queries in one call and some one by one: at most {own['peak'] / MIB:,.0f} MiB, "
        f"then {own['own'] / MIB:,.0f} of its own and {own['mapped'] / MIB:,.0f} of mapped files, which the system can "
        "take back."
    )
    lines = [
        [
            share,
            f"{statistics.median(run['cached'] for run in runs):.0%}",
            f"{QUERIES / statistics.median(sum(run['seconds']) for run in runs):,.0f}",
            *(f"{QUERIES / CALLS / statistics.median(run['seconds'][call] for run in runs):,.0f}" for call in (0, -1)),
            f"{statistics.median(sum(run['read']) for run in runs) / QUERIES / 1024:,.0f}",
        ]
        for share, runs in found["forgotten"].items()
    ]
    header = ["forgotten", "then cached", "queries/s", "of the first 250", "of the last 250", "KiB read a query"]
    texts += ["\n## Raw rows that are not in memory\n", table(header, lines)]
    return "\n".join(texts)


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layer", default="fc7", choices=["fc7", "fc8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run of single queries")
    parser.add_argument("--probes", type=int, default=8)
    parser.add_argument("--rerank", type=int, default=150)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    store, queries = held_out(options.dir, options.photos, options.layer)
    index = index_of(store, options.layer, "cosine")
    file = options.dir / f"queries-{options.layer}-{options.photos}.npy"
    np.save(file, queries)
    bench = Bench(index, file, options.probes, options.rerank)
    del index, store  # what is mapped cannot be forgotten
    found = {
        "at once": bench.at_once(options.rounds, options.seconds),
        "opening": bench.opening(options.rounds),
        "memory": bench.memory(),
        "forgotten": bench.out_of_memory(options.rounds),
    }
    title = f"# Searching at the same time: {options.layer}, cosine, {options.photos:,} photos, k = {K}"
    head = f"{title}\n\n{options.probes} probes, {options.rerank} candidates; medians of {options.rounds} rounds. "
    head += "What was done how: the text of `benchmarks/concurrency.py`.\n\n"
    write_result(f"concurrency-{options.layer}-{options.photos}", found, head + report(found))


if __name__ == "__main__":
    main()
