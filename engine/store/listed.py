"""What the finders of sources share: refusals, and names kept as one run of bytes."""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A file that was set aside: where it lies, its photo id if the name has one, and why."""

    source: str
    photo_id: int | None
    reason: str

    def line(self) -> bytes:
        """The line of `quarantine.jsonl` that says so."""
        entry = {"source": self.source, "photo_id": self.photo_id, "reason": self.reason}
        return json.dumps(entry, ensure_ascii=True).encode() + b"\n"


def is_refusal(line: bytes) -> bool:
    """Whether a line of `quarantine.jsonl` is whole: one JSON object with source, photo_id, reason, and its end."""
    try:
        entry = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return False
    if not isinstance(entry, dict) or entry.keys() != {"source", "photo_id", "reason"}:
        return False
    known = isinstance(entry["photo_id"], int | None) and not isinstance(entry["photo_id"], bool)
    return known and isinstance(entry["source"], str) and isinstance(entry["reason"], str)


def name_of(names: npt.NDArray[np.uint8], start: int) -> bytes:
    """The name that begins at `start` and ends before the next zero byte."""
    size = 256
    while True:
        piece = names[start : start + size].tobytes()
        if (end := piece.find(b"\0")) >= 0 or start + size >= len(names):
            return piece[:end] if end >= 0 else piece
        size *= 4
