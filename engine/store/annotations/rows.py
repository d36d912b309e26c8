"""Annotations of many photos as one Arrow table of the schema, column by column from flat lists."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.store.annotations.flickr import Annotation
from engine.store.annotations.schema import schema

if TYPE_CHECKING:
    import pyarrow as pa


def table_of(photo_ids: Sequence[int], found: Sequence[Annotation]) -> "pa.Table":
    """The rows (n,) of photos for each of which a document was read."""
    import pyarrow as pa

    wanted = schema()
    columns: list[Any] = [pa.array(photo_ids, pa.int64()), pa.array([True] * len(found), pa.bool_())]
    columns += [_column([one.get(field.name) for one in found], field.type) for field in list(wanted)[2:]]
    return pa.Table.from_arrays(columns, schema=wanted)


def _column(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_list(kind) and not pa.types.is_map(kind):
        return pa.array(values, kind)
    offsets: list[int | None] = []
    flat: list[Any] = []
    for value in values:
        offsets.append(None if value is None else len(flat))
        if value:
            flat += value.items() if isinstance(value, dict) else value
    offsets.append(len(flat))
    starts: Any = pa.array(offsets, pa.int32())
    if pa.types.is_map(kind):
        keys = pa.array([key for key, _ in flat], kind.key_type)
        return pa.MapArray.from_arrays(starts, keys, pa.array([value for _, value in flat], kind.item_type))
    item = kind.value_type
    if pa.types.is_struct(item):
        fields = [pa.array([one[field.name] for one in flat], field.type) for field in item]
        inner: Any = pa.StructArray.from_arrays(fields, fields=list(item))
    else:
        inner = pa.array(flat, item)
    return pa.ListArray.from_arrays(starts, inner, type=kind)
