"""Builds an index with autofaiss, by the Python of a virtual environment that has it; started by `peer_autofaiss`.

`PYTHON autofaiss_build.py ROWS FOLDER ip|l2 INDEX_MEMORY MEMORY THREADS` reads ROWS/*.npy (float32), writes
FOLDER/index and FOLDER/infos.json, and FOLDER/built.json: seconds, and the peak of what the process held for itself
(RssAnon, looked at every 20 ms). Everything else is left to autofaiss, as its documentation does. Imports nothing of
mirsearch, which is not installed there.
"""

import importlib
import json
import sys
import threading
import time
from pathlib import Path


def anonymous() -> int:
    """Bytes of memory that are this process's own."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def main() -> None:
    """Build."""
    rows, folder, metric, index_memory, memory, threads = sys.argv[1:]
    autofaiss = importlib.import_module("autofaiss")
    over, peak = threading.Event(), [anonymous()]

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.perf_counter()
    try:
        index, _ = autofaiss.build_index(
            embeddings=rows,
            index_path=str(Path(folder) / "index"),
            index_infos_path=str(Path(folder) / "infos.json"),
            metric_type=metric,
            max_index_memory_usage=index_memory,
            current_memory_available=memory,
            nb_cores=int(threads),
        )
    finally:
        over.set()
        watching.join()
    if index is None:
        raise SystemExit("autofaiss built nothing: the reason is in its log above")
    facts = {"seconds": time.perf_counter() - started, "peak_mib": peak[0] / (1 << 20)}
    (Path(folder) / "built.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
