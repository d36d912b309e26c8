"""`python -m tests.fuzz --inputs 1000000`: all targets under Atheris, one after another, each in its own process.

Prints a table; `--write` puts it into benchmarks/results/fuzz.json. Ends with 1 when there is a finding: its input and
its trace are kept in the folder that is named, and `--replay FILE --only TARGET` runs it again, without Atheris.
"""

# ruff: noqa: T201 (a command prints)

import argparse
import contextlib
import importlib.util
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from engine.jobs.doctor import cpu_model, memory
from tests.fuzz.choices import Choices
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import INSTALL

# Of all inputs, in parts of a hundred: more for what is cheap, a tenth at least for each.
SHARES = {"dat": 10, "tar": 12, "stream": 10, "zip": 10, "manifest": 12, "npy": 10, "commit": 10, "journal": 10,
          "formats": 16}  # fmt: skip
RESULT = Path("benchmarks/results/fuzz.json")
_SEEDS, _SEED_BYTES = 64, 200
_MOST_DEATHS = 20


@dataclass(kw_only=True)
class Result:
    """What became of the inputs of one target. findings: how often, by error and place; deaths: of the process."""

    target: str
    seed: int
    inputs: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    deaths: list[str] = field(default_factory=list)
    peak_mib: float = 0
    slowest: float = 0

    def add(self, found: dict[str, object]) -> None:
        """Take in what one process wrote."""
        for name in ("inputs", "seconds", "cpu_seconds"):
            setattr(self, name, getattr(self, name) + found[name])
        for name in ("peak_mib", "slowest"):
            setattr(self, name, max(getattr(self, name), found[name]))
        self.outcomes.update(found["outcomes"])  # type: ignore[call-overload]
        self.findings.update(found["findings"])  # type: ignore[call-overload]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory, where there is such a thing: millions of files are written and flushed."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def fuzz(target: str, inputs: int, seed: int, seconds: float, out: Path) -> Result:
    """One target; a process that dies is replaced, its last input kept by libFuzzer."""
    result, started = Result(target=target, seed=seed), time.perf_counter()
    while result.inputs < inputs and len(result.deaths) < _MOST_DEATHS:
        left = seconds - (time.perf_counter() - started) if seconds else 0
        if seconds and left <= 0:
            break
        run = out / f"{target}-{len(result.deaths)}"
        make_seeds(run / "corpus", seed + len(result.deaths))
        with scratch() as folder:
            command = [sys.executable, "-m", "tests.fuzz.worker", target, str(run), "--folder", str(folder),
                       "--inputs", str(inputs - result.inputs), "--seed", str(seed + len(result.deaths)),
                       "--seconds", str(left)]  # fmt: skip
            with (run / "log").open("wb") as log:
                code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        if (run / "result.json").exists():
            result.add(json.loads((run / "result.json").read_bytes()))
        if code:
            kept = [file.name for file in run.iterdir() if file.name.startswith(("crash-", "timeout-", "oom-"))]
            result.deaths.append(f"exit {code}, {', '.join(kept) or 'no input kept'}, see {run / 'log'}")
    return result


def make_seeds(corpus: Path, seed: int) -> None:
    """Random bytes to begin with: a corpus of one empty input takes long to grow."""
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    source = random.Random(seed)
    for i in range(_SEEDS):
        (corpus / str(i)).write_bytes(source.randbytes(source.randrange(4, _SEED_BYTES)))


def row(result: Result) -> str:
    """A line of the table."""
    shares = ", ".join(
        f"{name} {100 * count / max(result.inputs, 1):.1f} %" for name, count in result.outcomes.most_common()
    )
    found = sum(result.findings.values()) + len(result.deaths)
    return (
        f"| {result.target} | {result.inputs:,} | {result.seed} | {result.seconds:,.0f} | {result.cpu_seconds:,.0f} | "
        f"{result.slowest:.2f} | {result.peak_mib:,.0f} | {found} | {shares} |"
    )


HEAD = """| target | inputs | seed | seconds | CPU s | slowest s | peak MiB | findings | what became of them |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def replay(target: str, file: Path) -> None:
    """Run one kept input; its error comes out as it is."""
    with scratch() as folder:
        print(TARGETS[target](folder).run(Choices(file.read_bytes())))


def described() -> str:
    """What it ran on."""
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{cpu_model()}, {memory()}, {system}"


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all (of each target, with --only)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), action="append")
    parser.add_argument("--seconds", type=float, default=0, help="for each target at most")
    parser.add_argument("--write", action="store_true", help=f"write {RESULT}")
    parser.add_argument("--replay", type=Path, help="run this one input of --only TARGET")
    options = parser.parse_args()
    if options.replay:
        replay(options.only[0], options.replay)
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(INSTALL, file=sys.stderr)
        return 1
    out, results = Path(tempfile.mkdtemp(prefix="fuzz-")), list[Result]()
    print(HEAD, flush=True)
    for target in options.only or TARGETS:
        inputs = options.inputs if options.only else -(-options.inputs * SHARES[target] // 100)
        results.append(fuzz(target, inputs, options.seed, options.seconds, out))
        print(row(results[-1]), flush=True)
    bad = [result for result in results if result.findings or result.deaths]
    print(f"{sum(result.inputs for result in results):,} inputs, {len(bad)} targets with findings")
    if options.write:
        RESULT.write_text(json.dumps({
            "command": "python -m tests.fuzz " + " ".join(sys.argv[1:]), "machine": described(),
            "versions": {name: version(name) for name in ("atheris", "numpy", "numba", "pydantic")},
            "results": [vars(result) for result in results],
        }, indent=1) + "\n")  # fmt: skip
    for result in bad:
        print(f"{result.target}: {dict(result.findings)} {result.deaths}")
    if bad:
        print(f"Inputs and traces: {out}")
        return 1
    shutil.rmtree(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
