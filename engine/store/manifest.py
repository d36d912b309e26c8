"""`manifest.json`: what a store holds and the checksums that prove it. Written last, so its presence means whole."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from engine.errors import StoreError
from engine.store.durable import write_whole
from engine.store.lock import is_locked

FORMAT_VERSION = 2
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.npy$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


def digest(data: Any) -> str:
    """The XXH3 64-bit checksum of a buffer, as 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


class Layer(BaseModel):
    """One float32 array of the store, its rows summed in blocks."""

    model_config = _STRICT
    file: FileName
    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    xxh3: list[Digest]


class Removed(BaseModel):
    """`removed.npy`: the rows marked as gone, int64 (count,), ascending."""

    model_config = _STRICT
    count: Annotated[int, Field(ge=1)]
    xxh3: Digest


class QuerySet(BaseModel):
    """Queries that came with a layer, and their true neighbours.

    queries: file of float32 (count, dim). neighbors: file of int64 photo ids (count, k), nearest first. distances:
    file of float32 (count, k) as they were given, if they were. xxh3: of each file's array bytes. state: of the store
    when they came; among other rows the neighbours would be others.
    """

    model_config = _STRICT
    count: Annotated[int, Field(ge=1, le=1 << 40)]
    k: Annotated[int, Field(ge=1, le=1 << 20)]
    metric: Literal["cosine", "ip", "l2"]
    state: Digest
    queries: FileName
    neighbors: FileName
    distances: FileName | None = None
    xxh3: dict[str, Digest]


class Manifest(BaseModel):
    """The manifest of a store.

    block_rows: rows of each checksummed block, in order; every layer has one checksum per block, of the rows'
    bytes in the file. photo_ids_xxh3: checksum of the ids' bytes. header_bytes: length of the header of every row
    file. state: a digest that changes when rows or ids do, and with nothing else: what an index was built from.
    digest: of this document without it.
    """

    model_config = _STRICT
    format: Literal["mirsearch-store"] = "mirsearch-store"
    version: int = FORMAT_VERSION
    engine_version: str
    rows: Annotated[int, Field(ge=0, le=1 << 40)]
    layers: dict[str, Layer]
    block_rows: list[Annotated[int, Field(ge=1, le=1 << 40)]]
    photo_ids_xxh3: Digest
    sources: list[str]
    quarantined: Annotated[int, Field(ge=0)] = 0
    quarantine_xxh3: Digest | None = None
    header_bytes: Literal[128, 4096] = 128
    state: str = ""
    removed: Removed | None = None
    query_sets: dict[str, QuerySet] = {}
    digest: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.block_rows) != self.rows:
            raise ValueError(f"blocks of {sum(self.block_rows)} rows in all, expected {self.rows}")
        for name, layer in self.layers.items():
            if len(layer.xxh3) != len(self.block_rows):
                raise ValueError(f"layer {name}: {len(layer.xxh3)} checksums for {len(self.block_rows)} blocks")
        if self.removed and self.removed.count > self.rows:
            raise ValueError(f"{self.removed.count} rows removed of {self.rows}")
        for name in self.query_sets:
            if name not in self.layers:
                raise ValueError(f"queries of layer {name}, which is not there")
        named = ["photo_ids.npy", "removed.npy", "quarantine.jsonl", *(layer.file for layer in self.layers.values())]
        for known in self.query_sets.values():
            named += [file for file in (known.queries, known.neighbors, known.distances) if file]
        for file, times in Counter(named).items():
            if times > 1:
                raise ValueError(f"{file} is named for two things")
        return self

    @property
    def photos(self) -> int:
        """Rows that are not removed."""
        return self.rows - (self.removed.count if self.removed else 0)


def row_state(ids_xxh3: str, block_rows: Sequence[int], layers: Mapping[str, Layer]) -> str:
    """The digest that stands for all rows and ids of a store."""
    sums = {name: [layer.dim, layer.xxh3] for name, layer in layers.items()}
    return digest(json.dumps([ids_xxh3, list(block_rows), sums], sort_keys=True).encode())


def own_digest(document: dict[str, Any]) -> str:
    """The checksum of a JSON document without its `digest` entry."""
    bare = {key: value for key, value in document.items() if key != "digest"}
    return digest(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode())


def document_bytes(document: dict[str, Any]) -> bytes:
    """A JSON document with its own checksum, as it stands in its file."""
    document = document | {"digest": own_digest(document)}
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


_BUILD_AGAIN = "The file is damaged: restore it from a copy, or build again."
_INGEST_AGAIN = "The file is damaged: restore it from a copy, or make the store again in another folder."


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document with its own checksum, aside and renamed."""
    write_whole(path, document_bytes(document))


def read_document(path: Path, what: str, known_version: int, *, lost: str = _BUILD_AGAIN) -> dict[str, Any]:
    """Read a JSON document that carries its version and its own checksum; StoreError when it is not intact.

    what: said when it is absent. lost: what is to be done when it is damaged.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data)
        # The bytes, not only what they mean: a flipped bit that turns \u00e9 into \u00E9 is damage too.
        intact = isinstance(document, dict) and document_bytes(document) == data
    except FileNotFoundError:
        raise StoreError(f"{path}: absent. {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not readable as JSON ({error}). {lost}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{path}: holds {type(document).__name__}, expected a JSON object. {lost}")
    version = document.get("version")
    if isinstance(version, int) and version > known_version and intact:
        raise StoreError(
            f"{path}: format version {version}, this mirsearch knows up to {known_version}. Upgrade mirsearch."
        )
    if not intact:
        raise StoreError(f"{path}: its content does not match its own checksum. {lost}")
    return document


def read_manifest(store: Path) -> Manifest:
    """The manifest of a store; StoreError when it is absent, damaged, or of a newer format."""
    hint = "This is no store: `mirsearch ingest` makes one."
    if store.is_dir() and any(store.glob("*.part")):
        from engine.store.unfinished import how_to_go_on  # which reads the journal, and that the manifest's bytes

        hint = how_to_go_on(store) or "An ingest was interrupted here: run it again, and it continues."
        if is_locked(store):
            hint = "Another mirsearch is writing here. Wait for it to end."
    elif (store / "photo_ids.npy").exists():
        hint = "The rest of a store is here: restore this file from a copy, or make the store again in another folder."
    document = read_document(store / "manifest.json", hint, FORMAT_VERSION, lost=_INGEST_AGAIN)
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise StoreError(f"{store / 'manifest.json'}: {where}: {first['msg']}. {_INGEST_AGAIN}") from error
    # Version 1 knew no state: nothing but the whole manifest stood for the rows, and its indices refer to that.
    return manifest if manifest.state else manifest.model_copy(update={"state": manifest.digest})
