"""Pictures of photos as small JPEGs, and their sizes; whatever a picture holds, nothing but itself is lost by it."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.jobs.needed import need
from engine.store.dat import relative_path
from kernels.device import cpu_threads

THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 72
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_PIXELS = 80_000_000  # a picture that claims more is not opened: its pixels alone would take 240 MB


def thumbnails(images: Path, photo_ids: Sequence[int], most_bytes: int) -> dict[str, str]:
    """JPEG thumbnails in base64 by photo id, of those that can be read, until they take `most_bytes`."""
    found: dict[str, str] = {}
    with ThreadPoolExecutor(cpu_threads(), thread_name_prefix="thumbnails") as pool:
        pictures = pool.map(lambda photo: thumbnail(images, photo), photo_ids)
        for photo, picture in zip(photo_ids, pictures, strict=True):
            text = base64.b64encode(picture or b"").decode()
            most_bytes -= len(text)
            if text and most_bytes >= 0:
                found[str(photo)] = text
    return found


def thumbnail(images: Path, photo_id: int) -> bytes | None:
    """A JPEG of at most 160 pixels a side of `IMAGES/10/103169.jpg` (.jpeg, .png); None where none can be read."""
    image, operations = need("PIL.Image", "pillow"), need("PIL.ImageOps", "pillow")
    for suffix in PICTURE_SUFFIXES:
        path = images / relative_path(photo_id, suffix)
        try:
            with path.open("rb") as file, image.open(file) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    continue
                picture.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
                small = operations.exif_transpose(picture).convert("RGB")
                small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
                out = io.BytesIO()
                small.save(out, "JPEG", quality=THUMBNAIL_QUALITY)
                return out.getvalue()
        except Exception:  # a damaged picture may fail in any way inside its decoder; the page shows a placeholder
            continue
    return None


def picture_size(images: Path, photo_id: int) -> tuple[int, int] | None:
    """Pixels and bytes of the picture of a photo, from its header; None where none can be read."""
    image = need("PIL.Image", "pillow")
    for suffix in PICTURE_SUFFIXES:
        path = images / relative_path(photo_id, suffix)
        try:
            with path.open("rb") as file, image.open(file) as picture:
                return picture.width * picture.height, path.stat().st_size
        except Exception:  # as above
            continue
    return None
