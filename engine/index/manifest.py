"""`index.json`: what an index is, what it was built from, and the checksums of its parts."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from engine.errors import IndexUnusableError, StoreError
from engine.index.spec import IndexSpec
from engine.store.manifest import Digest, read_document, write_document

FORMAT_VERSION = 1
NAME = "index.json"


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
    """The manifest of an index. spec has no None in it; store_digest is that of the store's manifest.

    training: figures of the build: seconds by phase, share of variance kept, rows learned from, device, peak memory.
    probes, rerank: what a search uses when it is not told. scale: of the rows in all codes; see `Reduction`.
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
    digest: str = ""


def write_index_manifest(folder: Path, manifest: IndexManifest) -> None:
    """Write `index.json`, with its own checksum."""
    write_document(folder / NAME, manifest.model_dump(mode="json"))


def read_index_manifest(folder: Path) -> IndexManifest:
    """The manifest of an index; IndexUnusableError when it is absent, damaged or of a newer format."""
    try:
        layer = folder.name if folder.name in ("fc7", "fc8") else "LAYER"
        store = folder.parent.parent
        hint = f"There is no such index: `mirsearch build {store} --layer {layer}` makes it."
        document = read_document(folder / NAME, hint, FORMAT_VERSION)
        return IndexManifest.model_validate(document)
    except StoreError as error:
        raise IndexUnusableError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise IndexUnusableError(f"{folder / NAME}: {where}: {first['msg']}. Build the index again.") from error
