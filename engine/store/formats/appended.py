"""A file written from its beginning to its end in large pieces, past the page cache where that can be."""

import io
import os
from pathlib import Path
from typing import Any

from engine.store.rows_file import RowsFile


class Appended(io.RawIOBase):
    """A new binary file, as `open` gives one for writing; large pieces go to the disk without a copy in between.

    Who writes gigabytes that nobody will read soon pays more for the fresh memory of the page cache than for the disk;
    see `engine.store.rows_file`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.unlink(missing_ok=True)  # what was begun before may be longer
        self._file = RowsFile(path, create=True)
        self._at = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes: a zip archive goes back to its headers."""
        return True

    def tell(self) -> int:
        """Where the next byte goes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset from the beginning, and nothing else."""
        if whence != os.SEEK_SET:
            raise io.UnsupportedOperation("from the beginning alone")
        self._at = offset
        return offset

    def write(self, data: Any) -> int:
        """Write all of `data`, always."""
        view = memoryview(data).cast("B")
        self._file.write(view, self._at)
        self._at += len(view)
        return len(view)

    def close(self) -> None:
        """Let go of the file."""
        if not self.closed:
            self._file.close()
        super().close()
