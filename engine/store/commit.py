"""Several files of a store changed as one.

Everything new is first on the disk beside the old, in `.part` files. Then `commit.json`, written in one step, names
what is to be done with them: from there on the change is certain. It is done, and done again by whoever opens the
store next if the process died meanwhile: every step may be repeated.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from engine.errors import EngineError, StoreError
from engine.store import npy
from engine.store.durable import disk_errors, flush_folder, part_of, write_at
from engine.store.lock import take_lock
from engine.store.manifest import read_document, write_document

NAME = "commit.json"
_PIECE = 4 << 20
# Half of the change may be done: then the old manifest does not fit, and a verification finds that.
_LOST = "The file is damaged: restore it from a copy, or delete it and run `mirsearch verify`."
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]
_STRICT = ConfigDict(frozen=True, extra="forbid")


class Rename(BaseModel):
    """`FILE.part`, or another part, becomes FILE."""

    model_config = _STRICT
    do: Literal["rename"] = "rename"
    file: _Name
    part: _Name | None = None

    def apply(self, store: Path) -> None:
        """Rename it, unless that is done."""
        part = store / self.part if self.part else part_of(store / self.file)
        if part.exists():
            part.replace(store / self.file)


class Header(BaseModel):
    """A row file, whose new rows are at its end already, gets the header that counts them."""

    model_config = _STRICT
    do: Literal["header"] = "header"
    file: _Name
    rows: Annotated[int, Field(ge=0, le=1 << 40)]
    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    header_bytes: Literal[128, 4096]

    def apply(self, store: Path) -> None:
        """Write the header and flush it."""
        handle = os.open(store / self.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            write_at(handle, memoryview(npy.header((self.rows, self.dim), "<f4", self.header_bytes)), 0)
            os.ftruncate(handle, self.header_bytes + self.rows * self.dim * 4)
            os.fsync(handle)
        finally:
            os.close(handle)


class Rows(BaseModel):
    """Rows of a row file are overwritten: row i of `rows_part` (raw float32) is for row `at_part[i]` (raw int64)."""

    model_config = _STRICT
    do: Literal["rows"] = "rows"
    file: _Name
    rows_part: _Name
    at_part: _Name
    dim: Annotated[int, Field(ge=1, le=1 << 20)]
    header_bytes: Literal[128, 4096]

    def apply(self, store: Path) -> None:
        """Copy the rows and flush them; nothing, when the parts are gone because all was done."""
        if not (store / self.rows_part).exists() or not (store / self.at_part).exists():
            return
        size = self.dim * 4
        at = np.fromfile(store / self.at_part, "<i8")
        handle = os.open(store / self.file, os.O_RDWR | os.O_CLOEXEC)
        try:
            rows = (os.fstat(handle).st_size - self.header_bytes) // size
            with (store / self.rows_part).open("rb") as new:
                for run in _runs(at, max(_PIECE // size, 1)):
                    data = new.read(len(run) * size)
                    if run[0] >= 0 and run[-1] < rows:  # or the part is damaged, as `verify` then finds
                        write_at(handle, memoryview(data), self.header_bytes + int(run[0]) * size)
            os.fsync(handle)
        finally:
            os.close(handle)


def _runs(at: npt.NDArray[np.int64], most: int) -> Iterator[npt.NDArray[np.int64]]:
    """Numbers that follow one another, some at a time."""
    ends = np.append(np.flatnonzero(np.diff(at) != 1) + 1, len(at))
    start = 0
    for end in ends.tolist():
        yield from (at[part : min(part + most, end)] for part in range(start, end, most))
        start = end


class Delete(BaseModel):
    """A file is removed."""

    model_config = _STRICT
    do: Literal["delete"] = "delete"
    file: _Name

    def apply(self, store: Path) -> None:
        """Remove it, unless that is done."""
        (store / self.file).unlink(missing_ok=True)


Step = Rename | Header | Rows | Delete
_STEPS: TypeAdapter[list[Step]] = TypeAdapter(list[Annotated[Step, Field(discriminator="do")]])


def commit(store: Path, steps: Sequence[Step]) -> None:
    """Make a change certain, and do it. All parts must be flushed; the caller holds the lock."""
    with disk_errors(store):
        flush_folder(store)
        document = {"format": "mirsearch-commit", "version": 1, "steps": [step.model_dump() for step in steps]}
        write_document(store / NAME, document)
        _apply(store)


def finish_pending(store: Path) -> None:
    """Do what a process had made certain before it died; the caller holds the lock."""
    if (store / NAME).exists():
        with disk_errors(store):
            _apply(store)


def settle_store(store: Path) -> None:
    """For readers: finish a change that another process left certain but undone. StoreError when that cannot be."""
    if not (store / NAME).exists():
        return
    problem = "a change of this store was interrupted and is not finished"
    try:
        handle = take_lock(store, seconds=0.5)  # most changes take less
    except StoreError as error:
        if not (store / NAME).exists():
            return
        raise StoreError(f"{store}: another mirsearch is changing it just now. Try again in a moment.") from error
    except OSError as error:
        raise StoreError(
            f"{store}: {problem} ({error.strerror}). Open it once as a user who may write here."
        ) from error
    try:
        finish_pending(store)
    except EngineError as error:
        raise StoreError(f"{store}: {problem}. {error}") from error
    finally:
        os.close(handle)


def _apply(store: Path) -> None:
    try:
        steps = _STEPS.validate_python(read_document(store / NAME, "", 1, lost=_LOST)["steps"])
    except (ValidationError, KeyError) as error:
        raise StoreError(f"{store / NAME}: holds no list of steps. {_LOST}") from error
    for step in steps:
        try:
            step.apply(store)
        except (FileNotFoundError, IsADirectoryError, ValueError, OverflowError, AssertionError) as error:
            reason = getattr(error, "strerror", None) or error
            problem = f"cannot be changed as {NAME} says ({reason})"
            raise StoreError(f"{store / step.file}: {problem}. Restore it.") from error
    flush_folder(store)
    (store / NAME).unlink()
    flush_folder(store)
