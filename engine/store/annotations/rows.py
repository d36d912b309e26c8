"""Annotations of many photos as one Arrow table of the schema, column by column from flat lists."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.store.annotations.flickr import Annotation
from engine.store.annotations.schema import schema

if TYPE_CHECKING:
    import pyarrow as pa


def table_of(photo_ids: Sequence[int], found: Sequence[Annotation]) -> "pa.Table":
    """The rows (n,) of photos for each of which a document was read; `annotated` where it says anything."""
    import pyarrow as pa

    wanted = schema()
    said = [not _KEYS.issuperset(one) for one in found]
    columns: list[Any] = [pa.array(photo_ids, pa.int64()), pa.array(said, pa.bool_())]
    columns += [_column([one.get(field.name) for one in found], field.type) for field in list(wanted)[2:]]
    return pa.Table.from_arrays(columns, schema=wanted)


def _column(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_list(kind) and not pa.types.is_map(kind):
        return pa.array(values, kind)
    sizes = [len(value) if value else 0 for value in values]
    ends = np.cumsum([0, *sizes], dtype=np.int64)
    missing = np.array([value is None for value in values] + [False])
    starts: Any = pa.array(ends.astype(np.int32), mask=missing)
    if pa.types.is_map(kind):
        keys = pa.array([*chain.from_iterable(value for value in values if value)], kind.key_type)
        items = pa.array([*chain.from_iterable(value.values() for value in values if value)], kind.item_type)
        return pa.MapArray.from_arrays(starts, keys, items)
    flat = [*chain.from_iterable(value for value in values if value)]
    item = kind.value_type
    if pa.types.is_struct(item):
        fields = [_field([one[field.name] for one in flat], field.type) for field in item]
        inner: Any = pa.StructArray.from_arrays(fields, fields=list(item))
    else:
        inner = pa.array(flat, item)
    return pa.ListArray.from_arrays(starts, inner, type=kind)


def _field(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.tz:  # many times faster than from datetimes with a zone
        seconds = [None if value is None else (value - _EPOCH).total_seconds() for value in values]
        return pa.array(seconds, pa.float64()).cast(pa.int64()).cast(kind)
    return pa.array(values, kind)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEYS = frozenset(("photo_id", "annotated"))  # which every row has
