"""What a new table of annotations no longer says that the one before it did, photo by photo and field by field.

A table is made anew by every ingest; one of some of the sources would silently drop what the others had said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from engine.store.annotations.schema import schema
from engine.store.annotations.table import GROUP_ROWS, opened, read_facts

if TYPE_CHECKING:
    import pyarrow as pa

# Of lists of structures one member is enough to see whether there are any; EXIF is a map, and read as one.
_LEAVES = {"albums": "id", "groups": "id", "comments": "author", "notes": "author"}
_SHOWN = 3  # fields that a message names


@dataclass(frozen=True, kw_only=True)
class Loss:
    """before: photos that had annotations. photos: those of them that lose a field. fields: how many lose each."""

    before: int
    photos: int
    fields: dict[str, int]


def described(fields: Mapping[str, int]) -> str:
    """The fields that most photos lose, in words."""
    most = sorted(fields.items(), key=lambda one: -one[1])
    said = ", ".join(f"{name} of {count:,}" for name, count in most[:_SHOWN])
    return said + (f", and {len(most) - _SHOWN} fields more" if len(most) > _SHOWN else "")


class Known:
    """Which photos have which fields, gathered some thousand rows at a time; a bit for each."""

    def __init__(self) -> None:
        self.fields = schema().names[2:]
        self._ids: list[npt.NDArray[np.int64]] = []
        self._annotated: list[npt.NDArray[np.bool_]] = []
        self._said: list[npt.NDArray[np.uint8]] = []

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """That of a file of annotations; StoreError when it is damaged or of a newer format."""
        read_facts(path)
        found = cls()
        columns = [f"{name}.list.element.{_LEAVES[name]}" if name in _LEAVES else name for name in schema().names]
        with opened(path) as file:
            for batch in file.iter_batches(GROUP_ROWS, columns=columns):
                found.add(batch)
        return found

    def add(self, rows: "pa.Table | pa.RecordBatch") -> None:
        """Add rows with the columns of the schema; of structures in lists, any members."""
        import pyarrow as pa

        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            self._ids.append(batch.column("photo_id").to_numpy())
            self._annotated.append(batch.column("annotated").to_numpy(zero_copy_only=False))
            said = np.stack([_says(batch.column(name)) for name in self.fields], axis=1)
            self._said.append(np.packbits(said, axis=1))

    def less(self, now: "Known", photo_ids: npt.NDArray[np.int64]) -> Loss:
        """What these photos (n,) had here and have not any more; an empty list is nothing to lose."""
        ids, annotated, had = self._all()
        here = np.isin(ids, photo_ids)
        ids, annotated, had = ids[here], annotated[here], had[here]
        new_ids, _, new = now._all()
        has = np.zeros_like(had)
        _, here_at, new_at = np.intersect1d(ids, new_ids, assume_unique=True, return_indices=True)
        has[here_at] = new[new_at]
        gone = had & ~has
        gone = gone[gone.any(axis=1)]
        counts = np.unpackbits(gone, axis=1, count=len(self.fields)).sum(axis=0, dtype=np.int64).tolist()
        fields = {name: count for name, count in zip(self.fields, counts, strict=True) if count}
        return Loss(before=int(annotated.sum()), photos=len(gone), fields=fields)

    def _all(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.uint8]]:
        ids = np.concatenate([np.empty(0, np.int64), *self._ids])
        annotated = np.concatenate([np.empty(0, np.bool_), *self._annotated])
        return ids, annotated, np.concatenate([np.empty((0, -(-len(self.fields) // 8)), np.uint8), *self._said])


def _says(column: Any) -> npt.NDArray[np.bool_]:
    """Where there is a value (n,) that is no empty list."""
    import pyarrow as pa

    said: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_list(column.type) or pa.types.is_map(column.type):
        said = said & (np.diff(column.offsets.to_numpy()) > 0)
    return said
