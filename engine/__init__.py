"""mirsearch: GPU-accelerated similarity search over the deep features of a photo collection.

    from engine import Index, IndexSpec, SearchSpec, Store

The names below are imported when they are first used, so that `import engine` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.errors import EngineError
    from engine.index.build import build_index
    from engine.index.filter import Filter
    from engine.index.fused import FusedIndex
    from engine.index.result import SearchResult
    from engine.index.search import Index
    from engine.index.spec import IndexSpec, SearchSpec
    from engine.store.ingest import ingest
    from engine.store.manifest import Manifest
    from engine.store.store import Store

_HOME = {
    "EngineError": "engine.errors",
    "Filter": "engine.index.filter",
    "FusedIndex": "engine.index.fused",
    "Index": "engine.index.search",
    "IndexSpec": "engine.index.spec",
    "Manifest": "engine.store.manifest",
    "SearchResult": "engine.index.result",
    "SearchSpec": "engine.index.spec",
    "Store": "engine.store.store",
    "build_index": "engine.index.build",
    "ingest": "engine.store.ingest",
}

__all__ = [
    "EngineError", "Filter", "FusedIndex", "Index", "IndexSpec", "Manifest", "SearchResult", "SearchSpec", "Store",
    "build_index", "ingest",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
