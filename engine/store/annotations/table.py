"""`annotations.parquet` of a store: written row group by row group, read by columns or by rows.

Every page of the file has a checksum (Parquet's own), which is compared whenever it is read; `verify` compares one of
the whole file.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError, StoreError
from engine.store.annotations import sealed
from engine.store.annotations.schema import FILE, FORMAT_VERSION, QUARANTINE, schema
from engine.store.durable import disk_errors, flush_folder, part_of, publish
from engine.store.manifest import Manifest
from engine.store.store import Store
from engine.version import VERSION

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"mirsearch"  # the key of the file's metadata under which its facts stand, as JSON
GROUP_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the metadata of the file say.

    photo_ids_xxh3: checksum of the store's ids, to whose rows it fits. annotated: rows of which a file says anything.
    without_features: photos that have annotations, but no row in the store. quarantined: files that were set aside.
    """

    rows: int
    photo_ids_xxh3: str
    annotated: int
    without_features: int = 0
    quarantined: int = 0
    format_version: int = FORMAT_VERSION
    engine_version: str = VERSION

    @classmethod
    def of(cls, manifest: Manifest, *, annotated: int, without_features: int = 0, quarantined: int = 0) -> Self:
        """The facts of a table that fits to a store with this manifest."""
        return cls(
            rows=manifest.rows, photo_ids_xxh3=manifest.photo_ids_xxh3, annotated=annotated,
            without_features=without_features, quarantined=quarantined,
        )  # fmt: skip


class TableWriter:
    """Writes the file of a store aside, from tables of `schema` in the store's row order; named when all is there."""

    def __init__(self, folder: Path, facts: Facts, *, part: Path | None = None) -> None:
        """folder: of the store. part: where the bytes are collected, if not in `annotations.parquet.part`."""
        import pyarrow.parquet as pq

        self.path, self.facts, self.rows = folder / FILE, facts, 0
        self.part = part or part_of(self.path)
        self.schema = schema().with_metadata({METADATA: json.dumps(asdict(facts)).encode()})
        with disk_errors(folder):
            self._file = self.part.open("wb")
            self._out = pq.ParquetWriter(
                self._file, self.schema, compression="zstd", compression_level=1, write_page_checksum=True,
                use_dictionary=_REPEATED,
            )  # fmt: skip

    def write(self, table: "pa.Table") -> None:
        """Add the next rows."""
        with disk_errors(self.path.parent):
            self._out.write_table(table.cast(self.schema), row_group_size=GROUP_ROWS)
        self.rows += table.num_rows

    def close(self) -> None:
        """Complete the bytes and flush them; StoreError unless there are as many rows as the store has."""
        if self.rows != self.facts.rows:
            raise StoreError(f"{self.path}: {self.rows:,} rows of annotations for {self.facts.rows:,} of the store")
        with disk_errors(self.path.parent):
            self._out.add_key_value_metadata({sealed.KEY: sealed.BLANK})
            self._out.close()
            self._file.flush()
            sealed.seal(self.part)
            os.fsync(self._file.fileno())
            self._file.close()

    def finish(self) -> None:
        """Complete the file and give it its name."""
        if not self._file.closed:
            self.close()
        with disk_errors(self.path.parent):
            publish(self.path)
            flush_folder(self.path.parent)

    def __enter__(self) -> Self:
        """The writer itself; what it wrote aside is removed if the block fails."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take away what is not complete."""
        if kind is not None:
            with suppress(Exception):  # whatever the library says about a file that is cut off on purpose
                self._out.close()
            self._file.close()
            self.part.unlink(missing_ok=True)


# Columns whose values come again and again; a dictionary of titles or descriptions would only cost.
_REPEATED: Any = [
    "annotated", "tags.list.element", "tags_raw.list.element", "camera", "lens", "exposure", "aperture", "focal", "iso",
    "exif.key_value.key", "exif.key_value.value", "accuracy", "albums.list.element.id", "albums.list.element.title",
    "groups.list.element.id", "groups.list.element.title", "comments.list.element.author",
    "comments.list.element.author_name", "owner", "owner_name", "owner_realname", "licence_id", "licence",
    "licence_url",
]  # fmt: skip


def write_table(store: Store, table: "pa.Table", *, without_features: int = 0, quarantined: int = 0) -> Path:
    """Write a whole table (n rows of `schema`, in the store's order) as the annotations of a store; the file.

    InputError when its photo ids are not the store's.
    """
    import pyarrow.compute as pc

    if not np.array_equal(table.column("photo_id").to_numpy(), store.photo_ids):
        raise InputError(f"{store.path}: the photo ids of the table are not those of the store, row by row")
    annotated = pc.sum(table.column("annotated")).as_py() or 0
    facts = Facts.of(store.manifest, annotated=annotated, without_features=without_features, quarantined=quarantined)
    with TableWriter(store.path, facts) as writer:
        writer.write(table)
        writer.finish()
    return store.path / FILE


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotations of a store, opened for reading: row i belongs to row i of the store."""

    path: Path
    facts: Facts
    columns: list[str]

    @staticmethod
    def exists(store: Store) -> bool:
        """Whether the store has annotations, of whichever of its states, or had some that are lost."""
        return (store.path / FILE).exists() or is_lost(store.path)

    @classmethod
    def open(cls, store: Store) -> Self:
        """Open the annotations of a store.

        InputError when there are none, StoreError when they are lost, damaged, of a newer mirsearch, or of another
        state of the store; each says which command helps.
        """
        path = store.path / FILE
        if is_lost(store.path):
            raise StoreError(
                f"{store.path}: has no annotations any more: {FILE} is gone. "
                f"{ingest_command(store.path, 'reads them')} To do without, take {QUARANTINE} away too."
            )
        if not path.exists():
            raise InputError(f"{store.path}: has no annotations. {ingest_command(store.path, 'reads them')}")
        facts, columns = read_facts(path)
        if facts.photo_ids_xxh3 != store.manifest.photo_ids_xxh3 or facts.rows != len(store):
            raise StoreError(
                f"{path}: belongs to another state of the store ({facts.rows:,} rows, the store has {len(store):,}). "
                f"{ingest_command(store.path, 'brings it up to date')}"
            )
        return cls(path=path, facts=facts, columns=columns)

    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """The columns asked for, or all, of every row (n) in the store's order. InputError for a column unknown."""
        with opened(self.path) as file:
            table: pa.Table = file.read(columns=self._known(columns))
            return table

    def batches(self, columns: Sequence[str] | None = None, rows: int = GROUP_ROWS) -> "Iterator[pa.RecordBatch]":
        """The same, at most `rows` at a time."""
        with opened(self.path) as file:
            yield from file.iter_batches(rows, columns=self._known(columns))

    def of_rows(self, rows: npt.NDArray[np.int64], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """What is known of these rows (m,) of the store, in their order, a dictionary by column for each.

        Lists of structures are lists of dictionaries, `exif` a dictionary, times datetimes. Only the row groups that
        hold them are read.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        if len(rows) and not (rows.min() >= 0 and rows.max() < self.facts.rows):
            raise InputError(f"{self.path}: rows {rows.min()} to {rows.max()}, there are {self.facts.rows:,}")
        found: dict[int, dict[str, Any]] = {}
        with opened(self.path) as file:
            counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            wanted = np.unique(rows)
            groups = np.searchsorted(starts, wanted, "right") - 1
            for group in np.unique(groups).tolist():
                here = wanted[groups == group]
                part = file.read_row_group(group, columns=self._known(columns)).take(here - starts[group])
                found |= zip(here.tolist(), map(_plain, part.to_pylist()), strict=True)
        return [found[row] for row in rows.tolist()]

    def _known(self, columns: Sequence[str] | None) -> list[str] | None:
        for name in columns or ():
            if name not in self.columns:
                raise InputError(f"column {name!r}: the annotations have {', '.join(self.columns)}")
        return None if columns is None else list(columns)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its map as a dictionary, which pyarrow gives as pairs."""
    return {name: dict(value) if name == "exif" and value is not None else value for name, value in row.items()}


def is_lost(store: Path) -> bool:
    """Whether a store had annotations and has none: each ingest leaves its list of refused files, empty or not."""
    return (store / QUARANTINE).exists() and not (store / FILE).exists()


def ingest_command(store: Path, does: str) -> str:
    """The sentence that says which command helps."""
    return f"`mirsearch annotations ingest SOURCE... --store {shlex.quote(str(store))}` {does}."


def read_facts(path: Path) -> tuple[Facts, list[str]]:
    """The facts of a file and its columns; StoreError when it is damaged or of a newer format."""
    with opened(path) as file:
        metadata, columns = file.schema_arrow.metadata or {}, file.schema_arrow.names
        rows = file.metadata.num_rows
    try:
        said = json.loads(metadata[METADATA])
        version = said["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise StoreError(
                f"{path}: format version {version}, this mirsearch knows up to {FORMAT_VERSION}. Upgrade mirsearch."
            )
        facts = Facts(**said)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: its metadata are not those of annotations. {ingest_command(path.parent, 'writes it anew')}"
        ) from error
    if rows != facts.rows or columns != schema().names:
        raise StoreError(f"{path}: is damaged. {ingest_command(path.parent, 'writes it anew')}")
    return facts, columns


@contextmanager
def opened(path: Path) -> "Iterator[Any]":
    """The Parquet file for reading; StoreError for what the library finds wrong with it, at any time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{path}: cannot be read ({reason}). {ingest_command(path.parent, 'writes it anew')}"
        ) from error
