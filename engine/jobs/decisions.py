"""What people decided about duplicates: a JSON file that the page writes and the next search reads.

`{"version": 1, "store": ..., "decisions": [{"photo_ids": [a, b, ...], "verdict": ..., "at": ...}]}`. Verdicts:

different       the first photo is not a duplicate of any of the others
all-different   no two of these photos are duplicates of each other
same            they are duplicates, and the first is the one to keep

A later decision about the same two photos, by `at` (ISO 8601; without a zone UTC), takes the place of an earlier one.
One that does not say when counts as made right after the one that is read before it.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.store.store import Store
from engine.words import counted

I64 = npt.NDArray[np.int64]

VERSION = 1
VERDICTS = ("different", "all-different", "same")
MOST_BYTES = 512 << 20
# Of two photos each, 16 bytes: no person decides as much, and a few hostile bytes must not fill the memory.
MOST_PAIRS = 50_000_000
SHOWN = 5  # photo ids of a line
_EXPECTED = 'expected {"version": 1, "decisions": [...]} as the report writes it. Save it from the page again.'


def _no_pairs() -> I64:
    return np.empty((0, 2), np.int64)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Pairs of photos that were judged.

    different: (d, 2) int64, a < b, ascending, each once: judged no duplicates. same: (s, 2) int64, a photo that is
    to be kept and one that is a duplicate of it; none of these pairs is in `different` too. entries: as they were read.
    stores: the files that they were read from, and the store that each says it is about ("" where it says none).
    """

    different: I64 = field(default_factory=_no_pairs)
    same: I64 = field(default_factory=_no_pairs)
    entries: tuple[Mapping[str, Any], ...] = ()
    stores: tuple[tuple[Path, str], ...] = ()

    @classmethod
    def read(cls, *paths: Path | str) -> Self:
        """The decisions of one file or of several; InputError says what is wrong and where."""
        documents = [(Path(path), _document(Path(path))) for path in paths]
        named = tuple((path, str(document.get("store") or "")) for path, document in documents)
        return replace(cls.of([entry for each in documents for entry in _entries(*each)]), stores=named)

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> Self:
        """From the entries of such a file, which are as they must be."""
        entries = _in_time(entries)
        parts = list(map(_pairs, entries))
        told = np.concatenate([_no_pairs(), *parts])
        verdict = np.repeat([entry["verdict"] == "same" for entry in entries], [len(part) for part in parts])
        # The last one decides: the first from behind.
        _, last = np.unique(np.sort(told, axis=1)[::-1], axis=0, return_index=True)
        at = len(told) - 1 - last
        same = verdict[at].astype(np.bool_)
        return cls(different=np.sort(told[at[~same]], axis=1), same=told[np.sort(at[same])], entries=tuple(entries))

    def __len__(self) -> int:
        """How many decisions were made."""
        return len(self.entries)

    def doubts(self, store: Store, *called: str) -> list[str]:
        """A line for each file about another store, and one on photo ids that the store does not have, if any.

        called: names under which it was known too, such as where it was when a report was made.
        """
        names, place = {str(store.path), *called}, store.path.resolve()
        lines = [
            f"{path}: decisions about the photos of {named}, and these are those of {store.path}. Photo ids are taken "
            "as they are."
            for path, named in self.stores
            if named and named not in names and Path(named).resolve() != place
        ]
        photos = np.unique(np.concatenate([self.different, self.same]))
        unknown = photos[~np.isin(photos, store.photo_ids)].tolist()
        if unknown:
            some = ", ".join(map(str, unknown[:SHOWN])) + (" and so on" if len(unknown) > SHOWN else "")
            lines.append(f"{counted(len(unknown), 'photo')} decided on {_be(unknown)} not in {store.path}: {some}.")
        return lines

    def are_different(self, pairs: I64) -> npt.NDArray[np.bool_]:
        """Which pairs (m, 2) of photo ids were judged no duplicates, (m,)."""
        return rows_among(np.sort(pairs, axis=1), self.different)


def _in_time(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries by the time at which they were made, those of one time as they come."""
    times: list[float] = []
    for entry in entries:
        made = _time(entry.get("at"))
        times.append(made if made is not None else times[-1] if times else -math.inf)
    return [entry for _, entry in sorted(zip(times, entries, strict=True), key=lambda both: both[0])]


def _time(text: object) -> float | None:
    """Seconds of an ISO 8601 time; None where it is none."""
    try:
        made = datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if made is None else (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _be(photos: Sequence[int]) -> str:
    return "is" if len(photos) == 1 else "are"


def rows_among(pairs: I64, among: I64) -> npt.NDArray[np.bool_]:
    """Which rows of `pairs` (m, 2) are rows of `among` (d, 2) too, (m,)."""
    if not len(pairs) or not len(among):
        return np.zeros(len(pairs), np.bool_)
    photos, number = np.unique(np.concatenate([pairs, among]), return_inverse=True)
    number = number.reshape(-1, 2)
    keys = number[:, 0] * len(photos) + number[:, 1]
    return np.isin(keys[: len(pairs)], keys[len(pairs) :])


def _pairs(entry: Mapping[str, Any]) -> I64:
    """The pairs (m, 2) of photo ids that an entry speaks of."""
    photos = np.asarray(entry["photo_ids"], np.int64)
    if entry["verdict"] == "all-different":
        a, b = np.triu_indices(len(photos), 1)
        return np.stack([photos[a], photos[b]], axis=1)
    return np.stack([np.full(len(photos) - 1, photos[0]), photos[1:]], axis=1)


def _entries(path: Path, document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The entries of a file, each checked."""
    pairs = 0
    for number, entry in enumerate(document["decisions"], 1):
        where = f"{path}, decision {number}"
        if not isinstance(entry, dict) or entry.get("verdict") not in VERDICTS:
            raise InputError(f'{where}: expected "verdict": one of {", ".join(VERDICTS)}. {_AGAIN}')
        photos = entry.get("photo_ids")
        if not isinstance(photos, list) or not all(type(one) is int and 0 <= one < 1 << 63 for one in photos):
            raise InputError(f'{where}: expected "photo_ids": a list of whole numbers. {_AGAIN}')
        if len(photos) < 2 or len(set(photos)) < len(photos):
            raise InputError(f"{where}: {len(photos)} photo ids, expected two or more, each once. {_AGAIN}")
        count = len(photos)
        pairs += count * (count - 1) // 2 if entry["verdict"] == "all-different" else count - 1
        if pairs > MOST_PAIRS:
            raise InputError(f"{where}: more than {MOST_PAIRS:,} pairs in all, more than can be held. {_AGAIN}")
        yield entry


_AGAIN = "Save the file from the page again, or take this decision out."


def _document(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB, {_EXPECTED}")
        document = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected the decisions.json that the page of a report saves") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), {_EXPECTED}") from None
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is no JSON text, {_EXPECTED}") from None
    if not isinstance(document, dict) or not isinstance(document.get("decisions"), list):
        raise InputError(f"{path}: {_EXPECTED}")
    version = document.get("version")
    if version != VERSION:
        newer = isinstance(version, int) and version > VERSION
        more = "Upgrade mirsearch." if newer else "Save it from the page again."
        raise InputError(f"{path}: version {ascii(version)[:20]}, this mirsearch knows {VERSION}. {more}")
    return document
