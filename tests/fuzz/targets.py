"""The targets, by name: each is made with a folder of its own and runs one input after another."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.fuzz.changes import Commit, Journal
from tests.fuzz.choices import Choices
from tests.fuzz.manifests import Manifests, Npy
from tests.fuzz.records import Dat
from tests.fuzz.tars import Stream, Tar
from tests.fuzz.vectors import Formats
from tests.fuzz.zips import Zip


class Target(Protocol):
    """run: makes an input, gives a word for what became of it; any exception is a finding."""

    def run(self, choices: Choices) -> str:
        """One input."""
        ...


TARGETS: dict[str, Callable[[Path], Target]] = {
    "dat": Dat, "tar": Tar, "stream": Stream, "zip": Zip, "manifest": Manifests, "npy": Npy, "commit": Commit,
    "journal": Journal, "formats": Formats,
}  # fmt: skip
