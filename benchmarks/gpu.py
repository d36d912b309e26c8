"""How fast on a GPU, against the goals: `python -m benchmarks.gpu --out DIR` writes DIR/gpu.md, within 10 minutes.

In parts, each in a process of its own that leaves DIR/PART-DEVICE.json when it is whole; what is there is not measured
again, so that the same command goes on, and the page is written anew after every part. A part that would not end in
time is not begun. First of all, whether the answers are right; then all parts on the GPU, then the same on this
machine's CPU. `gpu.md` beside this file has what is expected, and why.

`--device cpu --photos 4000` runs what has a form for the CPU. Needs NumPy, CuPy, FAISS, Typer, pydantic and xxhash
alone; the CPU's column Numba too. `.dat` files, store and indices lie in `--work` (DIR/work unless given; 20.5 and 23
KB a photo) and stay there. It has never run on a GPU.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import facts
from benchmarks.gpu_measure import Setting
from benchmarks.gpu_parts import PARTS, ROOT, expected_seconds
from benchmarks.gpu_peers import peers
from benchmarks.gpu_report import report
from benchmarks.machine import machine
from engine.errors import EngineError
from engine.index.device import settle
from kernels import Device, load

ALL = {**PARTS, "peers": peers}
CHOSEN = [part for part in ALL if part != "photos"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A part on a device. out: folder of the results."""

    part: str
    setting: Setting
    out: Path

    @property
    def name(self) -> str:
        """As its result is called."""
        return f"{self.part}-{self.setting.device.kind}"

    @property
    def asked(self) -> dict[str, Any]:
        """What a result must be of, not to be measured again."""
        return {"photos": self.setting.photos, "queries": self.setting.queries, "device": str(self.setting.device)}

    def result(self) -> dict[str, Any] | None:
        """What it left, if that is of what is asked for and the files that other parts need are still there."""
        try:
            document: dict[str, Any] = json.loads((self.out / f"{self.name}.json").read_text())
        except (OSError, ValueError):
            return None
        setting = self.setting
        left = {
            "photos": setting.features.parent / "truth.jsonl", "ingest": setting.store_path / "manifest.json",
            "build": setting.store_path / "indices" / f"bench-{setting.device.kind}",
        }.get(self.part)  # fmt: skip
        same = document.get("asked") == self.asked and (left is None or left.exists())
        return document if same else None

    def run(self) -> None:
        """Measure, here, and leave the result."""
        started = time.perf_counter()
        device = self.setting.device
        with load(device).xp.cuda.Device(device.gpus[0]) if device.kind == "cuda" else nullcontext():
            figures = ALL[self.part](self.setting)
        document = {"asked": self.asked, "figures": figures, "seconds": round(time.perf_counter() - started, 1)}
        part = self.out / f"{self.name}.json.part"
        part.write_text(json.dumps(document, indent=1, default=str) + "\n")
        part.rename(self.out / f"{self.name}.json")


def jobs_of(options: argparse.Namespace, device: Device) -> list[Job]:
    """All parts that were asked for, the GPU's first; before an ingest the files that it reads."""
    parts = options.parts.split(",") if options.parts else CHOSEN
    for part in parts:
        if part not in CHOSEN:
            raise EngineError(f"--parts {part}: expected some of {','.join(CHOSEN)}")
    parts = [part for part in ALL if part in parts or (part == "photos" and "ingest" in parts)]
    devices = [device] if device.kind == "cpu" or options.no_cpu else [device, Device(kind="cpu", why="beside the GPU")]
    work = (options.work or options.out / "work").absolute()
    return [
        Job(
            part=part, out=options.out,
            setting=Setting(work=work, device=some, photos=options.photos, queries=options.queries),
        )
        for some in devices
        for part in parts
        if part != "photos" or some is device
    ]  # fmt: skip


def run_all(jobs: list[Job], options: argparse.Namespace, tell: Callable[[dict[str, str]], object]) -> dict[str, str]:
    """Each job in a process of its own within the time; by name why one has no result. tell: asked after each."""
    end, missing = time.perf_counter() + 60 * options.minutes, dict[str, str]()
    for job in jobs:
        if job.result() is not None:
            print(f"{job.name}: there already", flush=True)
            continue
        left, needs = end - time.perf_counter(), expected_seconds(job.part, job.setting)
        if needs > left:
            missing[job.name] = f"not begun: takes about {needs:.0f} s, {max(left, 0):.0f} s were left"
        else:
            missing[job.name] = _in_process(job, options, left)
            tell(missing)
        print(f"{job.name}: {missing[job.name] or 'measured'}", flush=True)
        missing = {name: why for name, why in missing.items() if why}
    return missing


def _in_process(job: Job, options: argparse.Namespace, seconds: float) -> str:
    """Run a job; why it has no result, "" where it has. A part that fails, or ends its process, ends no other."""
    setting = job.setting
    words = ["--job", job.part, "--out", options.out.absolute(), "--work", setting.work, "--device", setting.device]
    words += ["--photos", setting.photos, "--queries", setting.queries]
    command = [sys.executable, "-m", "benchmarks.gpu", *map(str, words)]
    # A session of its own, so that what the part itself has started ends with it.
    done = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        said = done.communicate(timeout=seconds)[1]
    except BaseException as error:
        os.killpg(done.pid, signal.SIGKILL)
        done.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            return f"stopped after {seconds:.0f} s: the time was up"
        raise
    if done.returncode:
        (job.out / f"{job.name}.log").write_text(said)
        last = said.strip().splitlines()[-1:] or ["nothing was said"]
        return f"failed ({done.returncode}): {last[0]}"
    return ""


def describe(device: Device) -> dict[str, Any]:
    """The machine; with a GPU, that too."""
    found: dict[str, Any] = dict(machine())
    return found | facts(load(device), device) if device.kind == "cuda" else found


def main(arguments: list[str] | None = None) -> int:
    """Run everything; 0 when all parts on the device have results, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder of the files, 45 GB for a million photos; OUT/work")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--parts", help=f"some of {','.join(CHOSEN)}; all unless given")
    parser.add_argument("--minutes", type=float, default=10.0, help="time for all that is not there yet")
    parser.add_argument("--no-cpu", action="store_true", help="without the column of the CPU")
    parser.add_argument("--job", choices=list(ALL), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        device = settle(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        if options.job:
            setting = Setting(work=options.work, device=device, photos=options.photos, queries=options.queries)
            Job(part=options.job, setting=setting, out=options.out).run()
            return 0
        jobs = jobs_of(options, device)
        command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
        facts_of_it = describe(device) | {"command": command}
        every = jobs_of(argparse.Namespace(**vars(options) | {"parts": None}), device)  # also what was measured before
        missing = run_all(jobs, options, lambda missing: write_page(every, facts_of_it, missing))
    except EngineError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 1
    print(write_page(every, facts_of_it, missing))
    right = (every[0].result() or {}).get("figures", {}).get("agrees", True)
    return int(not right or any(name.endswith(f"-{device.kind}") for name in missing))


def write_page(every: list[Job], machine: dict[str, Any], missing: dict[str, str]) -> str:
    """Write gpu.json and gpu.md of all that has been measured so far; the page."""
    first = every[0]
    results = {job.name: found["figures"] for job in every if (found := job.result()) is not None}
    missing = {name: why for name, why in missing.items() if why}
    document = {"asked": first.asked, "machine": machine, "results": results, "missing": missing}
    (first.out / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    text = report(document, kind=first.setting.device.kind)
    (first.out / "gpu.md").write_text(text)
    return text


if __name__ == "__main__":
    raise SystemExit(main())
