"""What an ingest of annotations did, in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.store.annotations.assemble import Assignment
from engine.store.annotations.loss import Loss
from engine.store.annotations.mapping import FieldMap
from engine.store.annotations.reading import Part
from engine.store.store import Store


@dataclass(frozen=True, kw_only=True)
class AnnotationsReport:
    """What an ingest of annotations did. seconds: from the first folder to the renamed table.

    photos: of the store, those that are not removed. annotated, without_annotations: of how many of them any file says
    anything, or none does; said_nothing: those of the latter that have files, which hold nothing but a failure of the
    API, or no field at all. without_features: photos that have a file but are not in the store. files_read,
    bytes_read: files whose content was taken, those of an interrupted run (`resumed`) among them. repeated: files
    beyond the first of their photo, merged into one row. failed: documents that hold nothing but a failure of the API.
    not_understood: others in which no field was found. refused: files set aside. ignored: other files.

    dropped: by field, files with a value of it that cannot be read, where no other was. absent_paths: those of the
    user's map that stand in no file. annotated_before: photos that had annotations until now; None where there was no
    table, or none that could be read: `unreadable` then says why. lost: photos that lost a field; lost_fields: how many
    lost each.
    """

    store: Path
    photos: int
    annotated: int
    without_annotations: int
    said_nothing: int
    without_features: int
    files_read: int
    bytes_read: int
    resumed: int
    repeated: int
    failed: int
    not_understood: int
    refused: int
    ignored: int
    dropped: dict[str, int]
    absent_paths: list[str]
    annotated_before: int | None
    unreadable: str
    lost: int
    lost_fields: dict[str, int]
    seconds: float
    workers: int


@dataclass(frozen=True, kw_only=True)
class Before:
    """The table that was there. loss: what the new one does not say; None without a table, or with `unreadable`."""

    loss: Loss | None = None
    unreadable: str = ""


def report_of(
    store: Store, found: Assignment, before: Before, *, mapping: FieldMap | None, refused: int, ignored: int,
    seconds: float, workers: int,
) -> AnnotationsReport:  # fmt: skip
    """Add up the parts."""
    parts, present, loss = found.parts, store.present_rows, before.loss
    annotated, with_files = (int(np.isin(rows, present).sum()) for rows in (found.annotated, np.unique(found.row)))
    return AnnotationsReport(
        store=store.path, photos=len(present), annotated=annotated, without_annotations=len(present) - annotated,
        said_nothing=with_files - annotated, without_features=found.without_features,
        files_read=sum(part.files for part in parts), bytes_read=sum(part.bytes_read for part in parts),
        resumed=sum(part.files for part in parts if part.resumed), repeated=found.repeated,
        failed=sum(part.failed for part in parts), not_understood=sum(part.not_understood for part in parts),
        refused=refused, ignored=ignored, dropped=_dropped(parts), absent_paths=absent_paths(mapping, parts),
        annotated_before=loss.before if loss else None, unreadable=before.unreadable, lost=loss.photos if loss else 0,
        lost_fields=loss.fields if loss else {}, seconds=seconds, workers=workers,
    )  # fmt: skip


def _dropped(parts: Sequence[Part]) -> dict[str, int]:
    total = Counter[str]()
    for part in parts:
        total.update(part.dropped)
    return dict(total.most_common())


def absent_paths(mapping: FieldMap | None, parts: Sequence[Part]) -> list[str]:
    """The paths of a map that stand in no file of these parts."""
    if mapping is None:
        return []
    stands = np.sum([part.paths for part in parts if part.paths], axis=0, dtype=np.int64)
    return [text for text, count in zip(mapping.written, np.broadcast_to(stands, len(mapping.written)), strict=True)
            if not count]  # fmt: skip
