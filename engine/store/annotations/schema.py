"""What `annotations.parquet` holds: a row for each photo of the store, in the store's order.

A field that nobody wrote is null; a list that is known to be empty is empty. Texts are UTF-8 as they were written, with
XML entities resolved. Field names follow the answers of Flickr's public API (flickr.photos.getInfo, getExif,
comments.getList, getAllContexts).
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

FILE: Final = "annotations.parquet"
QUARANTINE: Final = "annotations-quarantine.jsonl"
FORMAT_VERSION: Final = 1


def schema() -> "pa.Schema":
    """The columns of the table, in their order."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    instant, wall_clock = pa.timestamp("s", tz="UTC"), pa.timestamp("s")
    place = pa.list_(pa.struct([("id", text), ("title", text)]))
    comment = pa.struct([("author", text), ("author_name", text), ("posted", instant), ("text", text)])
    note = pa.struct(
        [("author", text), ("author_name", text), ("x", pa.float32()), ("y", pa.float32()), ("w", pa.float32()),
         ("h", pa.float32()), ("text", text)]
    )  # fmt: skip
    fields: list[Any] = [
        pa.field("photo_id", pa.int64(), nullable=False),
        pa.field("annotated", pa.bool_(), nullable=False),  # whether any file says anything of it
        ("title", text),
        ("description", text),
        ("tags", texts),  # as Flickr normalises them: lower case, letters and digits alone; no machine tags
        ("tags_raw", texts),  # as they were typed, in the order of `tags`
        ("machine_tags", texts),  # namespace:predicate=value
        ("camera", text),
        ("lens", text),
        ("exposure", pa.float64()),  # seconds
        ("aperture", pa.float32()),  # f-number
        ("focal", pa.float32()),  # millimetres
        ("iso", pa.int32()),
        ("exif_taken", wall_clock),  # DateTimeOriginal, of the camera's own clock
        ("exif", pa.map_(text, text)),  # everything in the EXIF answer: label (or tag) → raw value
        ("latitude", pa.float64()),  # degrees
        ("longitude", pa.float64()),
        ("accuracy", pa.int8()),  # Flickr's: 1 world … 16 street
        ("albums", place),  # Flickr's sets
        ("groups", place),  # Flickr's pools
        ("comments", pa.list_(comment)),
        ("notes", pa.list_(note)),  # boxes in pixels of the 500-pixel picture
        ("owner", text),  # NSID, such as 12037949754@N01
        ("owner_name", text),  # user name
        ("owner_realname", text),
        ("licence_id", pa.int16()),
        ("licence", text),  # such as "CC BY-NC 2.0"
        ("licence_url", text),
        ("url", text),  # the photo's page
        ("views", pa.int64()),
        ("favorites", pa.int64()),
        ("taken", wall_clock),  # dates.taken of Flickr, which the owner may have set
        ("posted", instant),
    ]
    return pa.schema(fields)
