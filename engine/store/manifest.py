"""`manifest.json`: what a store holds and the checksums that prove it. Written last, so its presence means whole."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import xxhash
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from engine.errors import StoreError
from engine.store.durable import write_whole

FORMAT_VERSION = 1
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


def digest(data: Any) -> str:
    """The XXH3 64-bit checksum of a buffer, as 16 hexadecimal digits."""
    return xxhash.xxh3_64_hexdigest(data)


class Layer(BaseModel):
    """One float32 array of the store, its rows summed in blocks."""

    model_config = _STRICT
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.npy$")]
    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    xxh3: list[Digest]


class Manifest(BaseModel):
    """The manifest of a store.

    block_rows: rows of each checksummed block, in order; every layer has one checksum per block, of the rows'
    bytes in the file. photo_ids_xxh3: checksum of the ids' bytes. digest: of this document without it.
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
    digest: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if sum(self.block_rows) != self.rows:
            raise ValueError(f"blocks of {sum(self.block_rows)} rows in all, expected {self.rows}")
        for name, layer in self.layers.items():
            if len(layer.xxh3) != len(self.block_rows):
                raise ValueError(f"layer {name}: {len(layer.xxh3)} checksums for {len(self.block_rows)} blocks")
        return self


def own_digest(document: dict[str, Any]) -> str:
    """The checksum of a JSON document without its `digest` entry."""
    bare = {key: value for key, value in document.items() if key != "digest"}
    return digest(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode())


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document with its own checksum, aside and renamed."""
    document = document | {"digest": own_digest(document)}
    write_whole(path, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read_document(path: Path, what: str, known_version: int) -> dict[str, Any]:
    """Read a JSON document that carries its version and its own checksum; StoreError when it is not intact."""
    try:
        document = json.loads(path.read_bytes())
        intact = isinstance(document, dict) and document.get("digest") == own_digest(document)
    except FileNotFoundError:
        raise StoreError(f"{path}: absent. {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not readable as JSON ({error}). {_LOST}") from error
    if not isinstance(document, dict):
        raise StoreError(f"{path}: holds {type(document).__name__}, expected a JSON object. {_LOST}")
    version = document.get("version")
    if isinstance(version, int) and version > known_version and intact:
        raise StoreError(
            f"{path}: format version {version}, this mirsearch knows up to {known_version}. Upgrade mirsearch."
        )
    if not intact:
        raise StoreError(f"{path}: its content does not match its own checksum. {_LOST}")
    return document


_LOST = "The file is damaged: restore it from a copy, or build again from the sources."


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write `manifest.json` with its own checksum; until then the store does not exist."""
    write_document(store / "manifest.json", manifest.model_dump(mode="json"))


def read_manifest(store: Path) -> Manifest:
    """The manifest of a store; StoreError when it is absent, damaged, or of a newer format."""
    unfinished = store.is_dir() and any(store.glob("*.part"))
    hint = (
        "An ingest was interrupted here: run it again."
        if unfinished
        else "This is no store: `mirsearch ingest` makes one."
    )
    document = read_document(store / "manifest.json", hint, FORMAT_VERSION)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise StoreError(f"{store / 'manifest.json'}: {where}: {first['msg']}. {_LOST}") from error
