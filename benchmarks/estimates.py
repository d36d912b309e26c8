"""`mirsearch estimate` and `mirsearch tune` against what then happens.

`python -m benchmarks.estimates` writes results/estimates-PHOTOS.md and .json. `estimate --photos N` is asked first, and
again before every round, since it measures the machine. Then, in processes of their own (`benchmarks/child.py`):

- ingest of the sample collection (folders, in the page cache or, with `--cold`, out of it): wall time and peak
  resident memory; bytes of the store;
- build of each layer with the defaults: the same, and the bytes of the index; once with each other kind of codes;
- query of 1,000 photos by the command: peak resident memory; and, in a process that has the index open, the time of
  1,000 queries in one call at the index's defaults;
- the truth of 1,000 queries: bytes.

Times and memory are medians of the rounds. Ratio: estimate by measured.

Tune: for each recall, `tune --recall R` of the first layer's index, then 1,000 photos that are not in the store as
queries: the recall that the chosen setting gives them, and batches of as many queries as `tune` takes, and single ones.
"""

import argparse
import os
import re
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks.child import mirsearch, run
from benchmarks.ingest import sample
from benchmarks.machine import table, write_result
from benchmarks.points import K
from benchmarks.search import QUERIES, TARGETS, following
from benchmarks.searching import CPU, Searching
from engine.index.exact import exact_search
from engine.index.spec import IndexSpec
from engine.jobs.estimate import KNOWN
from engine.jobs.truth import TruthSpec, ground_truth, recall
from engine.store.dat import PHOTOS_PER_FOLDER
from engine.store.store import Store
from kernels import load

MIB, CLOSE = 1 << 20, 0.25
TUNED_ON, CALLS, SINGLES_SECONDS = 500, 5, 2.0
Key = tuple[str, str]
Figures = dict[Key, list[float]]


def sources(folder: Path, photos: int) -> list[Path]:
    """What is ingested: the first folders of the collection that `benchmarks.search` takes too."""
    if photos % PHOTOS_PER_FOLDER:
        return [sample(folder, photos) / "features"]
    features = sample(folder, photos + QUERIES) / "features"
    return [features / str(number) for number in range(photos // PHOTOS_PER_FOLDER)]


def size_of(folder: Path) -> int:
    """Bytes of the files right in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def forget(file: Path) -> None:
    """Take a file out of the page cache."""
    handle = os.open(file, os.O_RDONLY)
    os.fdatasync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


class Trial:
    """One collection, made again in every round. found: what was measured; phases: seconds of the parts of a build."""

    def __init__(self, folder: Path, photos: int, *, cold: bool = False) -> None:
        self.folder, self.photos, self.store, self.cold = folder, photos, folder / "estimated", cold
        self.sources = sources(folder, photos)
        self.found: Figures = {}
        self.estimated: Figures = {}
        self.made_of: dict[Key, str] = {}
        self.phases: dict[str, dict[str, list[float]]] = {}

    def _note(self, group: str, name: str, value: float) -> None:
        self.found.setdefault((group, name), []).append(value)

    def estimate(self) -> None:
        """What `mirsearch estimate` says now of this machine and this disk."""
        document = run(mirsearch("estimate", "--photos", self.photos, "--json"), self.folder).document
        for figure in document["figures"]:
            key = figure["group"], figure["name"]
            self.estimated.setdefault(key, []).append(figure["value"])
            self.made_of[key] = figure["made_of"]

    def ingest(self) -> None:
        """A new store."""
        shutil.rmtree(self.store, ignore_errors=True)
        for source in self.sources:  # into the page cache, or out of it
            for file in source.rglob("*.dat"):
                if self.cold:
                    forget(file)
                else:
                    file.read_bytes()
        done = run(mirsearch("ingest", *self.sources, "--store", self.store, "--device", "cpu", "--json"))
        self._note("time", "ingest, files not in memory" if self.cold else "ingest", done.seconds)
        self._note("memory", "ingest", done.peak)
        self._note("disk", "store", size_of(self.store))

    def build(self, layer: str) -> None:
        """An index with the defaults."""
        words = ["--layer", layer, "--device", "cpu", "--force", "--json"]
        done = run(mirsearch("build", self.store, *words))
        self._note("time", f"build {layer}", done.seconds)
        self._note("memory", f"build {layer}", done.peak)
        (built,) = done.document["indices"]
        self._note("disk", f"index {layer}, refine {built['spec']['refine']}", size_of(Path(built["path"])))
        mine = self.phases.setdefault(layer, {})
        for name, value in built["training"].items():
            if name.startswith("seconds_"):
                mine.setdefault(name.removeprefix("seconds_"), []).append(value)

    def other_refines(self, layer: str) -> None:
        """Indices with the other kinds of codes, for their size."""
        for refine in get_args(IndexSpec.model_fields["refine"].annotation):
            if ("disk", f"index {layer}, refine {refine}") not in self.found:
                words = ["--layer", layer, "--refine", refine, "--name", f"{layer}-{refine}", "--json"]
                done = run(mirsearch("build", self.store, *words, "--device", "cpu"))
                (built,) = done.document["indices"]
                self._note("disk", f"index {layer}, refine {refine}", size_of(Path(built["path"])))
                shutil.rmtree(built["path"])

    def query(self, layer: str, queries: Path) -> None:
        """1,000 queries by the command, for its memory; and in one call, for the time."""
        words = ["--layer", layer, "--vectors", queries, "-k", K, "--json", "--device", "cpu"]
        self._note("memory", f"query {layer}", run(mirsearch("query", self.store, *words)).peak)
        with Searching() as process:
            process.ask("open", index=str(self.store / "indices" / layer), queries=str(queries), spec={"k": K})
            process.ask("batch", start=0, count=QUERIES)
            seconds = [process.ask("batch", start=0, count=QUERIES)["seconds"] for _ in range(CALLS)]
        self._note("time", f"1,000 queries {layer}", statistics.median(seconds))

    def truth(self, layer: str) -> None:
        """What `bench` keeps."""
        shutil.rmtree(self.store / "truth", ignore_errors=True)
        ground_truth(Store.open(self.store), TruthSpec(layer=layer, metric="cosine"), device=CPU)
        self._note("disk", f"truth {layer}", size_of(self.store / "truth"))


def tuning(trial: Trial, layer: str, file: Path, targets: tuple[float, ...]) -> list[dict[str, Any]]:
    """What `tune` promises for each recall, and what fresh queries get."""
    store, queries = Store.open(trial.store), np.load(file)
    truth = exact_search(store, layer, queries, K, metric="cosine", kernels=load(CPU)).scores
    lines = []
    for target in targets:
        print(f"tune --recall {target:g}", flush=True)
        words = ["--layer", layer, "--recall", target, "--device", "cpu", "--json", "--queries", TUNED_ON]
        done = run(mirsearch("tune", trial.store, *words), allowed=(0, 3))  # 3: not reached
        chosen = done.document["chosen"]
        setting = {"k": K, "probes": chosen["probes"], "rerank": chosen["rerank"]}
        with Searching() as process:
            process.ask("open", index=str(trial.store / "indices" / layer), queries=str(file), spec=setting)
            scores = np.array(process.ask("batch", start=0, count=QUERIES)["scores"], np.float32)
            seconds = [process.ask("batch", start=0, count=TUNED_ON)["seconds"] for _ in range(CALLS)]
            singles = process.ask("singles", threads=1, seconds=SINGLES_SECONDS)
        got = {
            "recall": recall(scores, truth, K),
            "qps": TUNED_ON / statistics.median(seconds),
            "p50_ms": singles["p50"],
            "p99_ms": singles["p99"],
        }
        lines.append({"target": target, "chosen": chosen, "got": got, "seconds": done.seconds})
    return lines


def report(trial: Trial) -> str:
    """Estimate beside measured."""
    lines = []
    for key, values in trial.found.items():
        group, name = key
        said, measured = statistics.median(trial.estimated[key]), statistics.median(values)
        shown = [f"{value:,.2f} s" if group == "time" else f"{value / MIB:,.1f} MiB" for value in (said, measured)]
        ratio = said / measured if measured else float("nan")
        lines.append([group, name, *shown, f"{ratio:.2f}", "yes" if abs(ratio - 1) <= CLOSE else "**no**"])
    lines.sort(key=lambda line: ("disk", "memory", "time").index(line[0]))
    close = sum(line[-1] == "yes" for line in lines)
    header = ["", "of", "estimate", "measured", "ratio", "within 25 %"]
    return f"{close} of {len(lines)} within 25 %.\n\n{table(header, lines)}"


def report_phases(trial: Trial) -> str:
    """The parts of a build's time, as estimated last and as measured."""
    lines = []
    for layer, measured in trial.phases.items():
        said = dict(re.findall(r"(\w+) ([\d.]+) s", trial.made_of["time", f"build {layer}"]))
        for name, values in measured.items():
            lines.append([layer, name, said.pop(name, "–"), f"{statistics.median(values):.1f}"])
        whole = statistics.median(trial.found["time", f"build {layer}"])
        rest = whole - sum(statistics.median(values) for values in measured.values())
        lines.append([layer, "the rest", f"{sum(map(float, said.values())):.1f}", f"{rest:.1f}"])
    return table(["layer", "phase of the build", "estimate, s", "measured, s"], lines)


def report_tuning(lines: list[dict[str, Any]]) -> str:
    """What was promised beside what was got."""
    rows = []
    for line in lines:
        said, got = line["chosen"], line["got"]
        rows.append(
            [
                f"{line['target']:g}", f"{said['probes']} / {said['rerank']}", f"{said['recall']:.4f}",
                f"{said['least']:.4f}", f"{got['recall']:.4f}", f"{said['qps']:,.0f}", f"{got['qps']:,.0f}",
                f"{said['p99_ms']:.2f}", f"{got['p99_ms']:.2f}", f"{line['seconds']:.0f}",
            ]
        )  # fmt: skip
    header = ["recall wanted", "probes / candidates", "recall said", "at least", "recall of fresh queries"]
    return table([*header, "queries/s said", "measured", "p99 ms said", "measured", "tune took, s"], rows)


def main() -> None:
    """Estimate, do, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layers", nargs="+", default=list(KNOWN), choices=list(KNOWN))
    parser.add_argument("--targets", nargs="+", type=float, default=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-other-codes", action="store_true", help="leave out the indices with other codes")
    parser.add_argument("--cold", action="store_true", help="files that come from the disk, as a million of them must")
    parser.add_argument("--keep", action="store_true", help="leave the store where it is, as DIR/estimated")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    options = parser.parse_args()
    trial = Trial(options.dir, options.photos, cold=options.cold)
    files = {layer: options.dir / f"queries-{layer}-{options.photos}.npy" for layer in options.layers}
    for layer, file in files.items():
        np.save(file, following(options.photos, layer))
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        trial.estimate()
        trial.ingest()
        for layer, file in files.items():
            trial.build(layer)
            trial.query(layer, file)
    for layer in files:
        if not options.no_other_codes:
            trial.other_refines(layer)
        trial.truth(layer)
    first = options.layers[0]
    tuned = tuning(trial, first, files[first], tuple(options.targets))
    if not options.keep:
        shutil.rmtree(trial.store)
    document = {
        "figures": [
            {"group": key[0], "name": key[1], "estimated": trial.estimated[key], "measured": values}
            for key, values in trial.found.items()
        ],
        "phases": trial.phases,
        "tune": tuned,
    }
    text = (
        f"# Estimates beside what then happens: {options.photos:,} photos\n\n{report(trial)}\n\n{report_phases(trial)}"
    )
    text += f"\n\n## Tune\n\n{first}; {TUNED_ON} photos held out by `tune`, {QUERIES:,} fresh ones after.\n\n"
    write_result(f"estimates-{options.photos}", document, text + report_tuning(tuned))


if __name__ == "__main__":
    main()
