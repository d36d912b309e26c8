"""One peer of `benchmarks.dedup` in a process of its own, by any Python that has it; FAISS by ours.

`python dedup_peer.py PEER ROWS.npy PHOTOS THRESHOLD OUT.npz` takes the first PHOTOS rows and writes, for each setting
of the peer, the pairs of row numbers (m, 2) that it says have a cosine of at least THRESHOLD, and prints one JSON
document: for each setting its seconds, those of the build beside, and the peak of what the process and its children
hold for themselves (RssAnon). Rows are read into memory before the clock starts; all else that a peer needs counts.

- imagededup: `get_cosine_similarity` of its `CNN.find_duplicates`, and then its search line by line, as it does it. Its
  own encodings are replaced by the rows; it imports torch for those alone, which a stand-in takes the place of.
- faiss-flat: IndexFlatIP, `range_search`. faiss-ivf-flat: IndexIVFFlat of 4 √n lists trained on 40 rows for each,
  `range_search` with more and more probes.
- sklearn: `NearestNeighbors(metric="cosine", algorithm="brute")`, `radius_neighbors`.
- pynndescent: the neighbour graph of `NNDescent(metric="cosine")`: built, every row has its neighbours.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np

PACKAGES = {"imagededup": "imagededup", "faiss-flat": "faiss-cpu", "faiss-ivf-flat": "faiss-cpu",
            "sklearn": "scikit-learn", "pynndescent": "pynndescent"}  # fmt: skip
PROBES, NEIGHBORS = (1, 2, 4, 8, 16, 32), (10, 15, 30)
TORCH = ("torch", "torch.nn", "torchvision", "torchvision.transforms", "torchvision.models",
         "torchvision.models.vision_transformer")  # fmt: skip
ABSENT = 4  # exit code: the peer is not installed


class Answer(NamedTuple):
    """What a setting found, and the seconds of what comes before the search and stays for other settings."""

    setting: str
    pairs: Any
    build: float
    search: float


def imagededup(rows: Any, threshold: float) -> Iterator[Answer]:
    importlib.import_module("sklearn.metrics.pairwise")
    stand_ins = [name for name in TORCH if name not in sys.modules]
    sys.modules.update({name: MagicMock() for name in stand_ins})
    similarity = importlib.import_module("imagededup.handlers.search.retrieval").get_cosine_similarity
    for name in stand_ins:  # scikit-learn and SciPy would ask them for arrays
        del sys.modules[name]
    started = time.perf_counter()
    scores = similarity(rows, verbose=False, num_workers=os.cpu_count() or 1)
    np.fill_diagonal(scores, 2.0)
    found = []
    for i, line in enumerate(scores):
        near = np.flatnonzero((line >= threshold) & (line < 2))
        found.append(np.stack([np.full(len(near), i), near], axis=1))
    yield Answer("as it is", np.concatenate(found), 0.0, time.perf_counter() - started)


def unit(rows: Any) -> Any:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-30))


def of_ranges(limits: Any, near: Any) -> Any:
    """Pairs of the answer of FAISS's range search."""
    return np.stack([np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))), near], axis=1)


def faiss_flat(rows: Any, threshold: float) -> Iterator[Answer]:
    from engine.index import ivfpq

    faiss = ivfpq.faiss()
    started = time.perf_counter()
    rows = unit(rows)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    built = time.perf_counter()
    limits, _, near = index.range_search(rows, threshold)
    yield Answer("exact", of_ranges(limits, near), built - started, time.perf_counter() - built)


def faiss_ivf_flat(rows: Any, threshold: float) -> Iterator[Answer]:
    from engine.index import ivfpq

    faiss = ivfpq.faiss()
    started = time.perf_counter()
    rows = unit(rows)
    lists = 1 << round(np.log2(4 * np.sqrt(len(rows))))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    some = np.random.default_rng(0).choice(len(rows), min(40 * lists, len(rows)), replace=False)
    index.train(rows[np.sort(some)])
    index.add(rows)
    build = time.perf_counter() - started
    for probes in PROBES:
        index.nprobe = probes
        started = time.perf_counter()
        limits, _, near = index.range_search(rows, threshold)
        yield Answer(f"{lists} lists, {probes} probed", of_ranges(limits, near), build, time.perf_counter() - started)


def sklearn(rows: Any, threshold: float) -> Iterator[Answer]:
    neighbors = importlib.import_module("sklearn.neighbors")
    started = time.perf_counter()
    index = neighbors.NearestNeighbors(radius=1 - threshold, metric="cosine", algorithm="brute", n_jobs=-1).fit(rows)
    near = index.radius_neighbors(rows, return_distance=False)
    numbers = np.repeat(np.arange(len(rows)), [len(each) for each in near])
    pairs = np.stack([numbers, np.concatenate(near)], axis=1)
    yield Answer("brute force", pairs, 0.0, time.perf_counter() - started)


def pynndescent(rows: Any, threshold: float) -> Iterator[Answer]:
    package = importlib.import_module("pynndescent")
    for k in (2, *NEIGHBORS):  # the first compiles; it is not counted
        some = rows if k > 2 else rows[:2000]
        started = time.perf_counter()
        near, distances = package.NNDescent(some, metric="cosine", n_neighbors=max(k, 5), n_jobs=-1).neighbor_graph
        who, place = np.nonzero(distances <= 1 - threshold)
        if k > 2:
            pairs = np.stack([who, near[who, place]], axis=1)
            yield Answer(f"{k} neighbours", pairs, 0.0, time.perf_counter() - started)


PEERS = {"imagededup": imagededup, "faiss-flat": faiss_flat, "faiss-ivf-flat": faiss_ivf_flat, "sklearn": sklearn,
         "pynndescent": pynndescent}  # fmt: skip


def own_memory() -> int:
    """Bytes that this process and its children hold for themselves."""
    total = 0
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for process in ("self", *children):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:  # it has ended
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


class Watch(threading.Thread):
    """Looks at `own_memory` every 50 ms; peak: the most that was seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.peak = max(self.peak, own_memory())
            time.sleep(0.05)


def ordered(pairs: Any) -> Any:
    """Each unordered pair of different rows once, ascending."""
    pairs = np.sort(np.asarray(pairs, np.int64).reshape(-1, 2), axis=1)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs[:, 0] >= 0)]
    return np.unique(pairs, axis=0)


def main() -> int:
    name, file, photos, threshold, out = sys.argv[1:]
    try:
        version = importlib.metadata.version(PACKAGES[name])
    except importlib.metadata.PackageNotFoundError:
        return ABSENT
    rows = np.array(np.load(file, mmap_mode="r")[: int(photos)])
    before = own_memory()
    (watch := Watch()).start()
    settings: list[dict[str, Any]] = []
    pairs = {}
    for answer in PEERS[name](rows, float(threshold)):
        pairs[str(len(settings))] = ordered(answer.pairs)
        settings.append({"name": answer.setting, "build": answer.build, "search": answer.search})
    np.savez(out, **pairs)
    known = {"version": version, "settings": settings, "own_bytes": watch.peak, "rows_bytes": before}
    print(json.dumps(known))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
