"""A command in a process of its own: what it printed, how long it took, and its peak resident memory."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Between us and the command: the peak of a process counts the memory of the one it was started from
# (Linux, fs/exec.c, exec_mmap), and this is a small one.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - started
with open(sys.argv[1], "w") as file:
    json.dump({"rc": os.waitstatus_to_exitcode(status), "seconds": seconds, "peak": usage.ru_maxrss * 1024}, file)
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """out: what was printed. seconds: from start to end. peak: bytes of the largest resident set, maps included."""

    out: str
    seconds: float
    peak: int

    @property
    def document(self) -> Any:
        """What was printed, as JSON."""
        return json.loads(self.out)


def run(command: list[object], folder: Path | None = None, *, allowed: tuple[int, ...] = (0,)) -> Ran:
    """Run a command in a folder; SystemExit with the end of what it complained unless its exit code is allowed."""
    words = [str(word) for word in command]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as facts:
        launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, facts.name, *words]
        done = subprocess.run(launcher, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{words[:4]}: {done.stderr[-2000:]}")
        known = json.load(facts)
    if known["rc"] not in allowed:
        raise SystemExit(f"{words[:4]} ended with {known['rc']}: {done.stderr[-2000:]}")
    return Ran(out=done.stdout, seconds=known["seconds"], peak=known["peak"])


def mirsearch(*words: object) -> list[object]:
    """The command line of a verb."""
    return [Path(sys.executable).with_name("mirsearch"), *words]
