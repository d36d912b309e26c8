"""What a report says of the store it was made from, so that it is never applied to another one."""

import json
from pathlib import Path
from typing import Any

from engine.errors import InputError, StoreError
from engine.store.manifest import Manifest, digest
from engine.store.store import Store


def mark_of(manifest: Manifest, layer: str) -> dict[str, Any]:
    """The rows of a layer (or of `fc7+fc8`) as they are now, as JSON values; rows added later change nothing."""
    return _mark(manifest, layer, len(manifest.block_rows), manifest.photo_ids_xxh3)


def check_mark(store: Store, layer: str, mark: dict[str, Any], report: Path) -> None:
    """StoreError unless all rows of the mark are still there, unchanged; removed photos and added ones may be."""
    manifest, again = store.manifest, f"Run `mirsearch dedup` again before its answers are applied. Report: {report}"
    try:
        blocks, rows = int(mark["blocks"]), int(mark["rows"])
        if blocks <= len(manifest.block_rows) and rows <= len(store):
            ids = digest(store.photo_ids[:rows].astype("<i8").tobytes())
            if _mark(manifest, layer, blocks, ids) == mark:
                return
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{report}: does not say of which store it is. Run `mirsearch dedup` again.") from None
    raise StoreError(f"{store.path}: its photos or their {layer} rows have changed since the report was made. {again}")


def _mark(manifest: Manifest, layer: str, blocks: int, ids_xxh3: str) -> dict[str, Any]:
    rows = manifest.block_rows[:blocks]
    names = [layer] if layer in manifest.layers else layer.split("+")
    sums = {name: manifest.layers[name].xxh3[:blocks] for name in names if name in manifest.layers}
    layer_xxh3 = digest(json.dumps([rows, sums]).encode())
    return {"rows": sum(rows), "blocks": blocks, "photo_ids_xxh3": ids_xxh3, "layer_xxh3": layer_xxh3}
