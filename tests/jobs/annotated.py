"""Small stores with annotations, made by hand or planted in clusters of features."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.store.annotations.schema import schema
from engine.store.annotations.table import write_table
from engine.store.store import Store
from tests.builders import Array, make_store


def annotate_store(store: Store, columns: dict[str, list[Any]]) -> Store:
    """Write annotations: the given columns, the others null; every photo is annotated."""
    given = {"photo_id": store.photo_ids.tolist(), "annotated": [True] * len(store)} | columns
    arrays = [pa.array(given.get(field.name, [None] * len(store)), field.type) for field in schema()]
    write_table(store, pa.table(arrays, schema=schema()))
    return store


def places(*lists: Any) -> list[Any]:
    """Groups or albums from lists of their ids; None stays."""
    return [None if ids is None else [{"id": name, "title": f"The {name}"} for name in ids] for ids in lists]


def planted(path: Path, *, rows: int = 1500, clusters: int = 15, seed: int = 3) -> Store:
    """A store of layers `x` (16 dimensions) and `y` (8, noisier) whose clusters have their own tags and words, beside
    tags of chance; one photo in ten has no annotation. Owners have ten photos each in a row.
    """
    random = np.random.default_rng(seed)
    cluster = np.arange(rows) % clusters

    def layer(dim: int, noise: float) -> Array:
        centres = random.standard_normal((clusters, dim))
        return np.asarray(centres[cluster] + noise * random.standard_normal((rows, dim)), np.float32)

    store = make_store(path, {"x": layer(16, 0.5), "y": layer(8, 0.9)})
    tags: list[Any] = []
    for number in cluster.tolist():
        own = [f"thing{number}", f"colour{number % 5}"]
        kept = [tag for tag in own if random.random() < 0.8]
        chance = [f"chance{i}" for i in random.integers(0, 200, 3)]
        tags.append(None if random.random() < 0.1 else [*kept, *dict.fromkeys(chance)])
    titles = [None if tag is None else f"A thing{number} here" for tag, number in zip(tags, cluster, strict=True)]
    owners = [f"{i // 10}@N01" for i in range(rows)]
    return annotate_store(store, {"tags": tags, "title": titles, "owner": owners})
