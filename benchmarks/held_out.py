"""A store of sample photos at any size, and 1,000 photos that are not in it as queries."""

from pathlib import Path

from benchmarks.ingest import sample
from benchmarks.peer_task import CPU, F32
from benchmarks.search import collection, following
from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.store.dat import PHOTOS_PER_FOLDER
from engine.store.ingest import ingest
from engine.store.store import Store
from kernels import Metric


def held_out(folder: Path, photos: int, layer: str) -> tuple[Store, F32]:
    """A store of so many photos, and the layer of the 1,000 that follow them, (1000, dim)."""
    if photos % PHOTOS_PER_FOLDER == 0:
        return collection(folder, photos, layer)
    store = folder / f"store-{photos}"
    if not (store / "manifest.json").exists():
        ingest([sample(folder, photos) / "features"], store, device=CPU)
    return Store.open(store), following(photos, layer)


def index_of(store: Store, layer: str, metric: Metric) -> Index:
    """The index with 4-bit codes that `benchmarks.search` measures, built if it is not there."""
    spec = IndexSpec(layer=layer, metric=metric, refine="uint4")
    built = build_index(store, spec, device=CPU, name=f"bench-{layer}-{metric}-uint4")
    return Index.open(built.path, device=CPU, store=store)
