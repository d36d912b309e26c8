"""Duplicates beside planted truth and beside peers: `python -m benchmarks.dedup` writes results/dedup-LAYER-PHOTOS.md.

In parts, each in a process of its own that leaves PART.json in the working folder (`--dir`, in it dedup-LAYER-PHOTOS);
what is there is not measured again, so that the same command goes on after an interruption. Delete a file to have that
part again; `--parts` measures some alone, and the page is about all that is there.

- The collection: `--photos` of the sample with the edited copies of `engine/store/synth_edits.py` (6 in 100 more).
- The truth: what of the planted pairs is found, by kind, micro-AP, recall at precision 0.9, purity of groups, with and
  without normalised scores; all of it beside the exhaustive join.
- The peers, on the same rows (`dedup_peer.py`): FAISS and pynndescent on all of them; imagededup and scikit-learn,
  whose cost is that of all pairs, on `--few`, from which their time on all is extrapolated by the square.
- The scale: the whole command, collections without edited copies, `--scale` photos.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dedup_parts import PARTS, Setting, peer, scale
from benchmarks.dedup_report import draw, report
from benchmarks.machine import RESULTS, write_result
from engine.errors import EngineError
from engine.store.dat import PHOTOS_PER_FOLDER

ROOT = Path(__file__).parents[1]
WHOLE, SQUARE = ("faiss-ivf-flat", "pynndescent", "faiss-flat"), ("imagededup", "sklearn")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part: a name of PARTS, peer-NAME-ROWS (a number, or all) or scale-PHOTOS."""

    name: str
    setting: Setting

    @property
    def file(self) -> Path:
        """Where its result lies: those of the scale are of no `--photos`."""
        folder = self.setting.work / f"dedup-{self.setting.layer}-scale" if self.is_scale else self.setting.out
        return folder / f"{self.name}.json"

    @property
    def is_scale(self) -> bool:
        """Whether it measures a whole command on a collection of its own."""
        return self.name.startswith("scale-")

    def result(self) -> dict[str, Any] | None:
        """What it left."""
        try:
            document: dict[str, Any] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return None
        return document

    def run(self) -> None:
        """Measure, here, and leave the result."""
        if self.is_scale:
            figures = scale(self.setting, int(self.name.split("-")[1]))
        elif self.name.startswith("peer-"):
            name, _, rows = self.name.removeprefix("peer-").rpartition("-")
            figures = peer(self.setting, name, None if rows == "all" else int(rows))
        else:
            figures = PARTS[self.name](self.setting)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(self.file.name + ".part")
        part.write_text(json.dumps(figures, indent=1) + "\n")
        part.rename(self.file)


def names_of(options: argparse.Namespace) -> list[str]:
    """All parts, in the order in which they need each other."""
    peers = [f"peer-{name}-{photos}" for name in SQUARE for photos in options.few if photos <= options.photos]
    peers += [f"peer-{name}-all" for name in WHOLE]
    return [*PARTS, *peers, *(f"scale-{photos}" for photos in sorted(options.scale))]


def run_all(jobs: list[Job]) -> dict[str, str]:
    """Each job in a process of its own; by name why one has no result. A part that fails ends no other."""
    missing = {}
    for job in jobs:
        if job.result() is not None:
            print(f"{job.name}: there already", flush=True)
            continue
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.dedup", "--job", job.name, *sys.argv[1:]]
        done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["nothing was said"]
            missing[job.name] = f"ended with {done.returncode}: {last[0]}"
        took = f"measured in {time.perf_counter() - started:.0f} s"
        print(f"{job.name}: {missing.get(job.name, took)}", flush=True)
    return missing


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dedup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--layer", default="fc7", choices=["fc7", "fc8"])
    parser.add_argument("--few", type=int, nargs="+", default=[10_000, 20_000], help="of peers that compare all pairs")
    parser.add_argument("--scale", type=int, nargs="*", default=[100_000, 300_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--python", default=sys.executable, help="that has imagededup, scikit-learn and pynndescent")
    parser.add_argument("--parts", nargs="+", help="these alone, by the beginnings of their names")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "mirsearch-bench")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for photos in options.scale:
        if photos % PHOTOS_PER_FOLDER:
            parser.error(f"--scale {photos}: expected multiples of {PHOTOS_PER_FOLDER:,}")
    return options


def main() -> int:
    """Measure what is not there yet and write the page; 0 when every part has a result."""
    options = options_of()
    setting = Setting(
        work=options.dir.absolute(), layer=options.layer, photos=options.photos, python=options.python,
        largest=max(options.scale, default=0), repeats=options.repeats,
    )  # fmt: skip
    if options.job:
        try:
            Job(name=options.job, setting=setting).run()
        except EngineError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    jobs = [Job(name=name, setting=setting) for name in names_of(options)]
    wanted = [job for job in jobs if not options.parts or job.name.startswith(tuple(options.parts))]
    missing = run_all(wanted)
    results = {job.name: found for job in jobs if (found := job.result()) is not None}
    name = f"dedup-{options.layer}-{options.photos}"
    RESULTS.mkdir(exist_ok=True)
    document, text = report(setting, results, missing)
    draw(document, RESULTS / f"{name}.png")
    write_result(name, document, text)
    return int(bool(missing))


if __name__ == "__main__":
    raise SystemExit(main())
