"""How many photos of MIRFLICKR-1M have which annotations: the table of the s16a extension's page."""

from typing import Final

PUBLISHED_PHOTOS: Final = 1_000_000
PUBLISHED: Final = {
    "title": 864_081, "description": 607_663, "tags": 858_918, "exif": 688_294, "geo": 282_091, "albums": 760_702,
    "comments": 851_174, "notes": 102_252, "groups": 740_263,
}  # fmt: skip
