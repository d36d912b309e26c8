"""What was planted in a sample collection: its `truth.jsonl`, read and checked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.synth_copies import KINDS
from engine.store.synth_edits import EDIT_KINDS
from engine.words import counted

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BURST = "burst"
ALL_KINDS = (*KINDS, *EDIT_KINDS)


@dataclass(frozen=True, kw_only=True)
class CopyTruth:
    """What was planted: kinds (t,) of pairs (t, 2) int64, a < b, as in the file; of bursts too.

    photos (p,) ascending, and the lowest photo (p,) of which each is a copy, by way of others too; bursts are no
    copies. Photos that are not there are copies of nothing.
    """

    kinds: tuple[str, ...]
    pairs: I64
    photos: I64
    originals: I64

    def original(self, photos: I64) -> I64:
        """The lowest photo that each of some photos is a copy of, of the same shape; often itself."""
        if not len(self.photos):
            return photos
        at = np.minimum(np.searchsorted(self.photos, photos), len(self.photos) - 1)
        return np.where(self.photos[at] == photos, self.originals[at], photos)

    def same(self, pairs: I64) -> Mask:
        """Whether the photos of each pair (m, 2) are copies of one photo, (m,)."""
        found = self.original(pairs)
        return np.asarray(found[:, 0] == found[:, 1])


def read_truth(path: Path) -> CopyTruth:
    """What a `truth.jsonl` says; InputError names a line that is not as it must be."""
    kinds, pairs, parents = list[str](), list[tuple[int, int]](), dict[int, int]()

    def original(photo: int) -> int:
        while (parent := parents.setdefault(photo, photo)) != photo:
            parents[photo] = photo = parents.get(parent, parent)
        return photo

    for kind, photo, of in _lines(Path(path)):
        kinds.append(kind)
        pairs.append((min(photo, of), max(photo, of)))
        if kind != BURST:
            low, high = sorted((original(photo), original(of)))
            parents[high] = low
    photos = np.array(sorted(parents), np.int64)
    originals = np.array([original(photo) for photo in photos.tolist()], np.int64)
    return CopyTruth(
        kinds=tuple(kinds), pairs=np.array(pairs, np.int64).reshape(-1, 2), photos=photos, originals=originals
    )


def check_truth(truth: CopyTruth, path: Path, photo_ids: I64) -> None:
    """InputError where nothing was planted, or nothing in photos of this store (n,): no figure would mean anything."""
    if not len(truth.pairs):
        raise InputError(f"{path}: holds no planted pair, so there is nothing to count. Leave --truth out.")
    if not np.isin(truth.pairs, photo_ids).all(axis=1).any():
        raise InputError(
            f"{path}: none of its {counted(len(truth.pairs), 'planted pair')} is of photos of this store. Give the "
            "truth.jsonl of the collection that the store was made from."
        )


def _lines(path: Path) -> Iterator[tuple[str, int, int]]:
    """The kind, the copy and its source of each line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Give the truth.jsonl of the collection."
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text, expected the truth.jsonl of the collection.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            kind, photo, of = entry["kind"], entry["photo_id"], entry["of"]
        except (ValueError, KeyError, TypeError, RecursionError):
            kind = photo = of = None
        if kind not in ALL_KINDS or not _is_photo(photo) or not _is_photo(of):
            raise InputError(
                f'{path}, line {number}: expected {{"kind": one of {", ".join(ALL_KINDS)}, "photo_id": number, '
                f'"of": number}}. The file is damaged: write the collection again.'
            )
        yield kind, photo, of


def _is_photo(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63
