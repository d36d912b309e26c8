"""Stores with annotations, made up by arithmetic: for tests of what reads them."""

import datetime
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from engine.store.annotations.schema import schema
from engine.store.annotations.table import write_table
from engine.store.store import Store

WORDS = ("sunset", "beach", "dog", "cat", "newyork", "2009", "macro", "été")
LICENCES = ("All Rights Reserved", "CC BY-NC 2.0", "CC BY 2.0")


def annotate(store: Store, rows: Iterable[dict[str, Any]]) -> Store:
    """Give a store annotations: a dictionary for each row, {} for none; what it lacks is null."""
    blank: dict[str, Any] = dict.fromkeys(schema().names)
    table = [
        blank | {"photo_id": photo_id, "annotated": bool(row)} | row
        for photo_id, row in zip(store.photo_ids.tolist(), rows, strict=True)
    ]
    write_table(store, pa.Table.from_pylist(table, schema=schema()))
    return store


def made_up(photo_ids: Iterable[int], seed: int = 0) -> list[dict[str, Any]]:
    """Annotations of photos: a tenth have none, and every field of the others is missing now and then."""
    random = np.random.default_rng(seed)
    return [_one(int(photo_id), random) if random.random() < 0.9 else {} for photo_id in photo_ids]


def _one(photo_id: int, random: np.random.Generator) -> dict[str, Any]:
    number = random.integers
    owner = int(number(12))
    taken = datetime.datetime(2005 + int(number(9)), 1 + int(number(12)), 1 + int(number(28)), int(number(24)), 30)
    tags = [str(word) for word in random.permutation(WORDS)[: number(5)]]
    placed = random.random() < 0.5
    row: dict[str, Any] = {
        "title": f"{WORDS[photo_id % len(WORDS)].title()} no. {photo_id % 17}",
        "description": "" if photo_id % 5 else 'It\'s "quoted"; 100 % -- real\nand a second line',
        "tags": tags,
        "tags_raw": [tag.title() for tag in tags],
        "camera": ("Canon EOS 5D", "NIKON D90", "iPhone 4")[number(3)],
        "aperture": float(np.float32((1.8, 2.8, 5.6)[number(3)])),
        "iso": int((100, 200, 400, 1600)[number(4)]),
        "latitude": float(random.uniform(-90, 90)) if placed else None,
        "longitude": float(random.uniform(-180, 180)) if placed else None,
        "groups": [{"id": str(i), "title": f"Group {i}"} for i in range(number(3))],
        "exif": [("Flash", "No Flash"), ("ISO", "100")],
        "owner": f"{owner}@N01",
        "owner_name": f"user{owner}",
        "licence_id": owner % 3,
        "licence": LICENCES[owner % 3],
        "licence_url": "https://creativecommons.org/licenses/by/2.0/",
        "url": f"https://www.flickr.com/photos/{owner}/{photo_id}/",
        "views": int(number(1000)),
        "taken": taken,
        "posted": taken.replace(tzinfo=datetime.UTC) + datetime.timedelta(days=3),
    }
    return {name: value for name, value in row.items() if random.random() < 0.85}
