"""The annotations of a store that is written anew without its removed photos."""

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import StoreError
from engine.store import commit
from engine.store.annotations.schema import FILE, schema
from engine.store.annotations.table import Annotations, TableWriter
from engine.store.hold import change_part
from engine.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Sequence


def compacted(store: Store, photo_ids_xxh3: str) -> "Sequence[commit.Step]":
    """Write the part of the annotations that stay; the step that gives it its name, or none where there are none.

    photo_ids_xxh3: checksum of the ids that stay. Annotations of another state of the store are of no use before or
    after: they are left as they are. StoreError when the file is damaged; then nothing is changed.
    """
    if store.removed is None or not Annotations.exists(store):
        return []
    try:
        found = Annotations.open(store)
    except StoreError:
        return []
    import pyarrow as pa
    import pyarrow.compute as pc

    stays, annotated, start = ~store.removed, 0, 0
    for batch in found.batches(["annotated"]):
        kept = batch.filter(pa.array(stays[start : start + batch.num_rows]))
        annotated, start = annotated + (pc.sum(kept.column(0)).as_py() or 0), start + batch.num_rows
    facts = replace(found.facts, rows=store.photos, photo_ids_xxh3=photo_ids_xxh3, annotated=annotated)
    part = change_part(FILE)
    with TableWriter(store.path, facts, part=store.path / part) as writer:
        start = 0
        for batch in found.batches():
            kept = batch.filter(pa.array(stays[start : start + batch.num_rows]))
            start += batch.num_rows
            writer.write(pa.Table.from_batches([kept]).cast(schema()))
        writer.close()
    return [commit.Rename(file=FILE, part=part)]
