"""Which blocks of rows have been written, line by line, so that what was interrupted continues: an ingest, a graph."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.store.durable import write_at
from engine.store.manifest import digest

NAME = "ingest.journal"  # of a store; what else keeps a journal gives it its own name


class Journal:
    """Lines of JSON, each behind its own checksum; the first says which job they belong to.

    Nothing is flushed here: a line may be lost in a power cut, or name rows that were. So the rows are read against
    their checksums before they are believed, and a line that is lost costs one block read again.
    """

    def __init__(self, folder: Path, job: Mapping[str, Any], name: str = NAME) -> None:
        """Open the journal of a folder. `entries`: its lines, if they belong to the same job; else it begins anew."""
        self._lock = threading.Lock()
        self._handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.entries: list[dict[str, Any]] = []
        with os.fdopen(os.dup(self._handle), "rb") as file:
            data = file.read()
        lines, whole = _intact(data)
        if lines and lines[0] == dict(job):
            self.entries = lines[1:]
            os.ftruncate(self._handle, whole)
        else:
            os.ftruncate(self._handle, 0)
            self.add(job)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add one line; from any thread."""
        text = json.dumps(entry, separators=(",", ":")).encode()
        line = digest(text).encode() + b" " + text + b"\n"
        with self._lock:
            write_at(self._handle, memoryview(line), 0)  # O_APPEND: at the end, whatever the offset

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)


def _intact(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """The lines up to the first that is damaged or cut short, and how many bytes they take."""
    lines: list[dict[str, Any]] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        mark, _, text = data[at:end].partition(b" ")
        if mark.decode("ascii", "replace") != digest(text):
            break
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict):
            break
        lines.append(line)
        at = end + 1
    return lines, at


def job_of(folder: Path, name: str = NAME) -> dict[str, Any] | None:
    """The job that the journal in a folder belongs to; None when there is no journal, or none that can be read."""
    try:
        with (folder / name).open("rb") as file:
            lines, _ = _intact(file.readline(1 << 20))
    except OSError:
        return None
    return lines[0] if lines else None
