"""A place for what Numba compiles, where it has none of its own: an installation and a home that may not be written."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

NAME = "NUMBA_CACHE_DIR"


def settle(package: Path | None = None) -> None:
    """Give Numba a temporary folder, for this process alone, if it would find no folder to keep compiled code in.

    Without one it refuses to compile functions that are to be kept (`cache=True`). The folder is not shared: whoever
    could write to it could have this process run code of theirs. To be called before Numba is imported.
    """
    if os.environ.get(NAME) or "numba" in sys.modules:
        return
    beside = (package or Path(__file__).parent) / "__pycache__"
    try:
        own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    except RuntimeError:  # nobody's home
        own = beside
    if _writable(beside) or _writable(own):
        return
    try:
        folder = tempfile.mkdtemp(prefix="mirsearch-")
    except OSError:
        return
    os.environ[NAME] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _writable(folder: Path) -> bool:
    """Tried, as Numba does: permissions alone do not tell of a read-only file system."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
