"""Where queries come from: photos of the store, `.dat` files, arrays on disk. Read block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.dat import LAYERS, examine
from engine.store.store import Store

BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Queries and their names.

    rows: n vectors that can be sliced: (n, dim) float32, in memory or mapped; or None, and `row_numbers` (n,) says
    which rows of `data` they are. photo_ids: (n,) int64 for photos of the store, else None; source: how query i is
    called otherwise.
    """

    data: Any
    row_numbers: npt.NDArray[np.int64] | None = None
    photo_ids: npt.NDArray[np.int64] | None = None
    sources: Sequence[str] | None = None
    file: str = ""

    def __len__(self) -> int:
        """How many queries."""
        return len(self.data) if self.row_numbers is None else len(self.row_numbers)

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """The vectors in order, as (first query, (≤ 4096, dim))."""
        for start in range(0, len(self), BLOCK):
            part = slice(start, start + BLOCK)
            yield start, np.asarray(self.data[part if self.row_numbers is None else self.row_numbers[part]])

    def source(self, i: int) -> str:
        """How query i is called."""
        if self.photo_ids is not None:
            return f"photo {self.photo_ids[i]}"
        return self.sources[i] if self.sources else f"{self.file}[{i}]"


def photo_questions(store: Store, layer: str, photo_ids: Sequence[int] | npt.NDArray[np.int64]) -> Questions:
    """Photos of the store as queries; InputError names the first that is not there."""
    ids = np.asarray(photo_ids, np.int64)
    return Questions(data=store.layer(layer), row_numbers=store.rows_of(ids), photo_ids=ids)


def dat_questions(layer: str, files: Sequence[Path]) -> Questions:
    """The layer of each `.dat` file as a query; InputError says what is wrong with the first bad one."""
    if layer not in LAYERS:
        raise InputError(f"--dat: .dat files hold {' and '.join(LAYERS)}, not {layer!r}")
    rows = []
    for file in files:
        reason, record = examine(file)
        if record is None:
            raise InputError(f"{file}: {reason}")
        rows.append(record[layer])
    return Questions(data=np.array(rows), sources=[str(file) for file in files])


def vector_questions(layer: str, file: Path, dim: int) -> Questions:
    """The rows of a `.npy` file (n, dim) as queries, mapped and not loaded."""
    try:
        data = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: cannot be read as a .npy array ({error})") from error
    if not isinstance(data, np.ndarray) or data.dtype.kind not in "fiu":
        raise InputError(f"{file}: expected a .npy array of numbers")
    if data.ndim == 1:
        data = data[None]
    if data.ndim != 2 or data.shape[1] != dim:
        raise InputError(f"{file}: shape {data.shape}, expected (n, {dim}) for {layer}")
    return Questions(data=data, file=str(file))


def read_ids(file: Path) -> npt.NDArray[np.int64]:
    """Photo ids from a `.npy` array or a text file with one a line; InputError names the line that is none."""
    if file.suffix == ".npy":
        try:
            ids = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file}: cannot be read as a .npy array ({error})") from error
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"{file}: expected a .npy array (n,) of integers")
        if len(ids) and (ids.min() < 0 or ids.max() >= 1 << 63):
            at = int(((ids < 0) | (ids > (1 << 63) - 1)).argmax())
            raise InputError(f"{file}[{at}]: {ids[at]} is not a photo id, expected 0 to 2**63 - 1")
        if not len(ids):
            raise InputError(f"{file}: holds no photo ids")
        return ids.astype(np.int64)
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    ids_found = []
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        if not text.isascii() or not text.isdigit() or len(text) > 18:
            raise InputError(f"{file}, line {number}: {text[:40]!r} is not a photo id")
        ids_found.append(int(text))
    if not ids_found:
        raise InputError(f"{file}: holds no photo ids")
    return np.array(ids_found, np.int64)
