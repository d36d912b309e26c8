"""The share of an ingest's processor time that its checksums take.

`python -m benchmarks.checksums SOURCE STORE` ingests as the command does, with a clock around every checksum of rows
that the writer takes, and prints one JSON document: seconds of processor time, of all threads, in the checksums and
in the whole process from its start. Processor time and not the clock on the wall: threads that wait cost nothing.
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from threading import get_ident
from typing import Any

from engine.store import arrays
from engine.store.ingest import ingest
from kernels import Device


def main() -> None:
    """Ingest sys.argv[1] to sys.argv[2]."""
    spent: dict[int, float] = defaultdict(float)  # by thread: no two add to one
    digest = vars(arrays)["digest"]

    def timed(data: Any) -> str:
        started = time.thread_time()
        found: str = digest(data)
        spent[get_ident()] += time.thread_time() - started
        return found

    vars(arrays)["digest"] = timed
    ingest([Path(sys.argv[1])], Path(sys.argv[2]), device=Device(kind="cpu"))
    print(json.dumps({"checksums": sum(spent.values()), "whole": time.process_time()}))


if __name__ == "__main__":
    main()
