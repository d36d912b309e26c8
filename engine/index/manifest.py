"""`index.json`: what an index is, what it was built from, and the checksums of its parts."""

import shlex
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from engine.errors import IndexUnusableError, StoreError
from engine.index.spec import IndexSpec
from engine.index.tuned import Tuned
from engine.store.manifest import Digest, Manifest, digest, read_document, read_manifest, row_state, write_document

FORMAT_VERSION = 2  # 1 knew no tuned points
NAME = "index.json"
STORE_NAME = "manifest.json"


class Part(BaseModel):
    """One file of an index: its length and the XXH3 checksum of all its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bytes: Annotated[int, Field(ge=0)]
    xxh3: Digest


class Shard(BaseModel):
    """The rows start to stop−1 of the store, in one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.faiss$")]
    start: int
    stop: int


class IndexManifest(BaseModel):
    """The manifest of an index. spec has no None in it; store_digest is the `state` of the store's manifest.

    rows: of the store when it was built, those of removed photos among them: they are left out when it is searched.
    training: figures of the build: seconds by phase, share of variance kept, rows learned from, device, peak memory.
    probes, rerank: what a search uses when it is not told. tuned: what was measured, and is used before these two.
    scale: of the rows in all codes; see `Reduction`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal["mirsearch-index"] = "mirsearch-index"
    version: int = FORMAT_VERSION
    engine_version: str
    store_digest: Digest
    rows: Annotated[int, Field(ge=0)]
    dim: Annotated[int, Field(ge=1)]
    spec: IndexSpec
    scale: Annotated[float, Field(gt=0)] = 1.0
    probes: Annotated[int, Field(ge=1)]
    rerank: Annotated[int, Field(ge=1)]
    shards: list[Shard]
    parts: dict[str, Part]
    training: dict[str, float | int | str]
    tuned: Tuned | None = None
    digest: str = ""


def write_index_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Write `index.json`, with its own checksum."""
    write_document(folder / NAME, manifest.model_dump(mode="json"))


def stale(index: IndexManifest, store: Manifest) -> str | None:
    """How the rows of a store differ from those that an index was built from, as far as is known; None if they do not.

    Photos that were only marked as removed make no index stale.
    """
    if index.store_digest == store.state:
        return None
    layer = index.spec.layer
    if layer not in store.layers:
        return f"it has no layer {layer!r} any more"
    if store.layers[layer].dim != index.dim:
        return f"its {layer} had {index.dim:,} dimensions then and has {store.layers[layer].dim:,} now"
    if store.rows == index.rows:
        return f"it has {store.rows:,} rows as it had then, but not the same ones"
    change = f"{abs(store.rows - index.rows):,} {'more' if store.rows > index.rows else 'fewer'}"
    return f"it had {index.rows:,} rows then and has {store.rows:,} now, {change}"


def grown(index: IndexManifest, store: Manifest, photo_ids: npt.NDArray[np.int64]) -> bool:
    """Whether a store's first rows are those that an index was built from, and more were added after them.

    Proved by the store's checksums: the rows that are added become blocks of their own, so those of the blocks before
    them, and of the ids (n,), must give the state that the index was built from.
    """
    if index.rows >= store.rows or index.rows not in (ends := list(accumulate(store.block_rows))):
        return False
    blocks = ends.index(index.rows) + 1
    layers = {name: layer.model_copy(update={"xxh3": layer.xxh3[:blocks]}) for name, layer in store.layers.items()}
    ids = digest(np.ascontiguousarray(photo_ids[: index.rows]))
    return row_state(ids, store.block_rows[:blocks], layers) == index.store_digest


def check_layer_of(folder: Path, layer: str) -> None:
    """IndexUnusableError where the index in a folder is over another layer than its name says.

    One that is absent or damaged passes: whoever opens it says so.
    """
    try:
        indexed = read_index_manifest(folder).spec.layer
    except IndexUnusableError:
        return
    if indexed != layer:
        again = shlex.join(["mirsearch", "build", str(folder.parent.parent), "--layer", layer])
        raise IndexUnusableError(f"{folder}: is over {indexed}, not over {layer}. Build it again: {again}")


def build_words(folder: Path, spec: IndexSpec, *, update: bool = False) -> list[str]:
    """The words after `mirsearch` that build an index again, or let what its store was given join it."""
    words = ["build", str(folder.parent.parent), "--layer", spec.layer]
    words += ["--name", folder.name] if folder.name != spec.layer else []
    if update:
        return [*words, "--update"]
    return [*words, *(["--metric", spec.metric] if spec.metric != "cosine" else [])]


def _what_makes_it(folder: Path) -> str:
    """The hint for an index that is not there: the command, as far as the name says which layer is meant."""
    if (folder / STORE_NAME).exists():  # the store's own folder was given
        with suppress(StoreError):
            there = [path.parent for path in sorted(folder.glob(f"indices/*/{NAME}"))]
            meant = there[0] if there else folder / "indices" / next(iter(read_manifest(folder).layers))
            return f"{folder} is a store, expected the folder of an index in it, such as {meant}."
    store, rest = folder.parent.parent, ["--layer", "LAYER", "--name", folder.name]
    with suppress(StoreError):  # said by whoever opens the store
        rest = ["--layer", folder.name] if folder.name in read_manifest(store).layers else rest
    return f"There is no such index: `{shlex.join(['mirsearch', 'build', str(store), *rest])}` makes it."


def read_index_manifest(folder: Path) -> IndexManifest:
    """The manifest of an index; IndexUnusableError when it is absent, damaged or of a newer format."""
    try:
        hint = "" if (folder / NAME).exists() else _what_makes_it(folder)
        document = read_document(folder / NAME, hint, FORMAT_VERSION)
        return IndexManifest.model_validate(document)
    except StoreError as error:
        raise IndexUnusableError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise IndexUnusableError(f"{folder / NAME}: {where}: {first['msg']}. Build the index again.") from error
