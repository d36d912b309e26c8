"""A process that opens an index and searches it when told to: one JSON document a line, in and out.

`python -m benchmarks.searching` reads lines such as `{"do": "singles", "threads": 2, "seconds": 3}`; `Searching` is
the other end. Its imports are done before it says that it is ready, so that they are in no time that it reports.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq
from engine.index.search import Index
from engine.index.spec import SearchSpec
from kernels import Device, load

CPU = Device(kind="cpu")
CHUNK = 1 << 20  # bytes that are forgotten, or kept, together


class Searcher:
    """What the process can be told to do; each method's result is what it answers."""

    index: Index
    queries: npt.NDArray[np.float32]
    spec: SearchSpec

    def open(self, index: str, queries: str, spec: dict[str, Any]) -> dict[str, float]:
        """Open an index; queries: a .npy file. Seconds of opening, and of the first query."""
        self.queries, self.spec = np.load(queries), SearchSpec(**spec)
        started = time.perf_counter()
        self.index = Index.open(index, device=CPU)
        opened = time.perf_counter()
        self.index.search(self.queries[:1], self.spec)
        return {"seconds": opened - started, "first": time.perf_counter() - opened}

    def batch(self, start: int, count: int) -> dict[str, Any]:
        """Search for some queries in one call: seconds, the bytes read from disk meanwhile, and the scores found."""
        before, started = read_bytes(), time.perf_counter()
        found = self.index.search(self.queries[start : start + count], self.spec)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "read": read_bytes() - before, "scores": found.scores.tolist()}

    def singles(self, threads: int, seconds: float) -> dict[str, Any]:
        """Search query by query on so many threads for so long: queries a second, milliseconds of each."""
        taken: list[list[float]] = [[] for _ in range(threads)]
        ready = threading.Barrier(threads + 1)

        def work(number: int) -> None:
            at, mine = number * len(self.queries) // threads, taken[number]
            ready.wait()
            until = time.perf_counter() + seconds
            while (started := time.perf_counter()) < until:
                self.index.search(self.queries[at % len(self.queries)], self.spec)
                mine.append(time.perf_counter() - started)
                at += 1

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        ready.wait()
        started = time.perf_counter()
        for worker in workers:
            worker.join()
        passed, every = time.perf_counter() - started, np.concatenate(taken) * 1e3
        p50, p99 = np.percentile(every, (50, 99)).tolist()
        return {"qps": len(every) / passed, "p50": p50, "p99": p99}

    def forget(self, share: float, seed: int) -> dict[str, float]:
        """Let the page cache forget this share of the raw rows; cached: the share of them that it then has."""
        rows = self.index.store.layer(self.index.layer)
        assert isinstance(rows, np.memmap)
        data: mmap.mmap = rows._mmap  # type: ignore[attr-defined]
        data.madvise(mmap.MADV_DONTNEED)  # pages that a process has in its map are not forgotten
        file = self.index.store.path / self.index.store.manifest.layers[self.index.layer].file
        chosen = np.random.default_rng(seed).random(-(-file.stat().st_size // CHUNK)) < share
        handle = os.open(file, os.O_RDONLY)
        try:
            for number in np.flatnonzero(chosen).tolist():
                os.posix_fadvise(handle, number * CHUNK, CHUNK, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
        return {"cached": cached(rows)}

    def warm(self) -> dict[str, float]:
        """Read all raw rows."""
        rows = self.index.store.layer(self.index.layer)
        for start in range(0, len(rows), 4096):
            rows[start : start + 4096].max()
        return {"cached": cached(rows)}

    def memory(self) -> dict[str, int]:
        """Bytes: the largest resident set so far; of the present one, what is the process's own, and what is mapped."""
        names = {"VmHWM": "peak", "RssAnon": "own", "RssFile": "mapped"}
        lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        return {names[name]: int(value.split()[0]) * 1024 for name, value in lines if name in names}


def read_bytes() -> int:
    """Bytes that this process has had read from a disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def cached(rows: npt.NDArray[np.float32]) -> float:
    """The share of mapped rows that is in the page cache (`man 2 mincore`)."""
    page = mmap.PAGESIZE
    start = rows.ctypes.data // page * page
    length = rows.ctypes.data + rows.nbytes - start
    seen = np.zeros(-(-length // page), np.uint8)
    call = ctypes.CDLL(None, use_errno=True).mincore
    if call(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_void_p(seen.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore")
    return float((seen & 1).mean())


def forget_files(files: list[Path]) -> None:
    """Let the page cache forget files, which no process may have mapped."""
    os.sync()
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


class Searching:
    """Such a process, for a `with`: `tell` starts something, `answer` waits for it, `ask` is both."""

    def __enter__(self) -> "Searching":
        command = [sys.executable, "-m", "benchmarks.searching"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def tell(self, do: str, **words: Any) -> None:
        """Start something."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"do": do} | words) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What came of it; SystemExit when the process ended instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("benchmarks.searching ended early; what it complained is above")
        return json.loads(line)

    def ask(self, do: str, **words: Any) -> Any:
        """Have something done."""
        self.tell(do, **words)
        return self.answer()


def main() -> None:
    """Do what standard input says."""
    searcher = Searcher()
    load(CPU), ivfpq.faiss()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        words = json.loads(line)
        print(json.dumps(getattr(searcher, words.pop("do"))(**words)), flush=True)


if __name__ == "__main__":
    main()
