"""One target under Atheris, in a process of its own, which ends with the process."""

import argparse
import json
import os
import resource
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

INSTALL = "python -m tests.fuzz needs Atheris. Install it: pip install atheris"
# Compiled by Numba, which reads their byte code: it must stay as it is.
_COMPILED = ["engine.store.loops", "engine.store.scan", "engine.store.archives.walk",
             "engine.store.archives.bits"]  # fmt: skip
_LOOK_EVERY = 256
_KEPT_FINDINGS = 20


class Worker:
    """Counts what becomes of inputs, keeps those that are findings, and ends the process after the last."""

    def __init__(self, target: Any, out: Path, inputs: int, seconds: float) -> None:
        self._target, self._out = target, out
        self._inputs, self._seconds = inputs, seconds
        self._outcomes: Counter[str] = Counter()
        self._findings: dict[str, int] = {}
        self._done, self._slowest, self._started = 0, 0.0, time.perf_counter()
        self._open = (0, 0)

    def run(self, data: bytes) -> None:
        """One input; what libFuzzer calls."""
        from tests.fuzz.choices import Choices

        begun = time.perf_counter()
        try:
            self._outcomes[self._target.run(Choices(data))] += 1
        except Exception as error:
            self._found(data, error)
        self._done += 1
        now = time.perf_counter()
        self._slowest = max(self._slowest, now - begun)
        if self._done % _LOOK_EVERY == 0:
            self._look()
        if self._done >= self._inputs or (self._seconds and now - self._started >= self._seconds):
            self._write()
            os._exit(0)

    def _look(self) -> None:
        """Files or threads that stay open are findings too."""
        now = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
        if self._open == (0, 0):
            self._open = now
        elif now[0] > self._open[0] + 8 or now[1] > self._open[1] + 8:
            self._found(b"", AssertionError(f"open files and threads {now}, were {self._open}"))
            self._open = now
        self._write()

    def _found(self, data: bytes, error: Exception) -> None:
        """Keep the first input of each kind: of error, and of place where it came from."""
        self._outcomes["finding"] += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "after many inputs"
        kind = f"{type(error).__name__} at {place}"
        self._findings[kind] = self._findings.get(kind, 0) + 1
        if self._findings[kind] == 1 and len(self._findings) <= _KEPT_FINDINGS:
            name = self._out / f"finding-{len(self._findings)}"
            name.with_suffix(".bin").write_bytes(data)
            name.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))

    def _write(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = {
            "inputs": self._done, "seconds": time.perf_counter() - self._started, "outcomes": self._outcomes,
            "findings": self._findings, "peak_mib": peak, "slowest": self._slowest,
            "cpu_seconds": time.process_time(),
        }  # fmt: skip
        part = self._out / "result.part"
        part.write_text(json.dumps(found))
        part.replace(self._out / "result.json")


def main() -> None:
    """Instrument the engine, then hand the process to libFuzzer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    import atheris

    import kernels.cpu  # noqa: F401 (before the instrumentation begins)

    with atheris.instrument_imports(include=["engine"], exclude=_COMPILED):
        from tests.fuzz.targets import TARGETS

    worker = Worker(TARGETS[options.target](options.folder), options.out, options.inputs, options.seconds)
    flags = [f"-seed={options.seed % (1 << 31)}", "-max_len=1024", "-len_control=0", "-timeout=60",
             "-rss_limit_mb=2048", f"-artifact_prefix={options.out}/", "-verbosity=0"]  # fmt: skip
    atheris.Setup([sys.argv[0], *flags, str(options.out / "corpus")], worker.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
