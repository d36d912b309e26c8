"""JSON documents bent at one place: what a fuzzer does to manifests, commit records and journals."""

import copy
import json
from typing import Any

from tests.fuzz.choices import Choices

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 5, 128, 4096, 1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 63, 1 << 64, 1 << 70, 0.5,
    1e308, float("inf"), float("nan"), "", "a", "a.npy", "b.npy", "../a.npy", "photo_ids.npy", "manifest.json", "é\n",
    "\ud800", "0" * 16, "x" * 200, [], {}, [1], [[]], {"a": 1}, "cosine", "rename", "delete", "header", "rows", ".lock",
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a document but itself."""
    found: list[tuple[Any, ...]] = []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        found += [(*at, key), *places(child, (*at, key))]
    return found


def bent(choices: Choices, document: Any, most: int = 2) -> Any:
    """A copy with 1 to `most` values or keys replaced, removed, doubled or exchanged."""
    document = copy.deepcopy(document)
    for _ in range(1 + choices.below(most)):
        ways = places(document)
        if not ways:
            return document
        way = choices.pick(ways)
        _bend(choices, _child(document, way[:-1]), way[-1], document, ways)
    return document


def _child(document: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        document = document[key]
    return document


def _bend(choices: Choices, parent: Any, key: Any, document: Any, ways: list[tuple[Any, ...]]) -> None:
    how = choices.below(8)
    if how < 3:
        parent[key] = copy.deepcopy(choices.pick(_VALUES))  # or a later bend would change the table, and run in circles
    elif how == 3:
        parent[key] = copy.deepcopy(_child(document, choices.pick(ways)))
    elif how == 4:
        del parent[key]
    elif isinstance(parent, dict):
        parent[choices.pick(["a", "b", "", "c", "rows", "version", "x y", "../a"])] = parent.pop(key)
    elif how == 5:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif how == 6:
        parent.reverse()
    elif isinstance(parent[key], int):
        parent[key] += choices.pick([-1, 1, 4])


def text(document: Any) -> bytes:
    """As JSON, where that can be."""
    return json.dumps(document).encode()
