"""Which photo of a group of duplicates is kept: its representative, chosen by a rule."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from engine.errors import InputError
from engine.jobs.dedup import Duplicates
from engine.jobs.dedup_context import annotations_of
from engine.jobs.groups import DuplicateGroup
from engine.jobs.pair_scores import PairScores
from engine.jobs.thumbnails import picture_size
from engine.progress import Progress, silent
from engine.store.store import Store
from kernels.device import cpu_threads

I64 = npt.NDArray[np.int64]

KeepRule = Literal["largest", "oldest", "most-favoured", "first"]
KEEP_RULES: tuple[KeepRule, ...] = get_args(KeepRule)
_SIZES_AT_ONCE = 4096


def check_keep(name: str | None, store: Store, images: Path | None) -> KeepRule | None:
    """The rule of this name; InputError where it is not known or has nothing to go by: worth an early call."""
    if name is None:
        return None
    rule = next((rule for rule in KEEP_RULES if rule == name), None)
    if rule is None:
        raise InputError(f"--keep {name}: expected one of {', '.join(KEEP_RULES)}")
    if rule == "largest" and images is None:
        raise InputError("--keep largest: goes by the size of the pictures. Say where they are with --images DIR.")
    if rule in _COLUMNS and not annotations_of(store, store.photo_ids[store.present_rows[:1]], _COLUMNS[rule]):
        raise InputError(
            f"--keep {rule}: goes by the annotations of the photos, and {store.path} has none. Read them with "
            "`mirsearch annotations ingest`, or choose --keep first."
        )
    return rule


def choose_kept(
    duplicates: Duplicates, store: Store, rule: KeepRule, images: Path | None = None, progress: Progress = silent
) -> Duplicates:
    """The same duplicates, with the representative of each group chosen by a rule.

    largest: most pixels, then most bytes, of the picture. oldest: taken first, else posted first. most-favoured: most
    favourites, then most views. first: lowest photo id, which decides between equals too. A photo of which nothing is
    known comes last. Only photos that are a pair with every other one of the group are chosen from, so that every
    member stays a duplicate of the representative; where a group has none, from all. InputError where the rule has
    nothing to go by for any photo.
    """
    check_keep(rule, store, images)
    if not duplicates.groups:
        return duplicates
    photos = np.unique(np.fromiter(chain.from_iterable(group.photo_ids for group in duplicates.groups), np.int64))
    rank = np.empty(len(photos), np.int64)
    rank[_best_first(photos, store, rule, images, progress)] = np.arange(len(photos))
    scores = PairScores(duplicates)
    central = _central(duplicates, scores)
    groups = []
    for group in duplicates.groups:
        members = np.array(group.photo_ids)
        among = members[central[np.searchsorted(photos, members)]]
        choice = among if len(among) else members
        kept = choice[np.argmin(rank[np.searchsorted(photos, choice)])]
        groups.append(_with_representative(group, int(kept), scores))
    groups.sort(key=lambda group: (-len(group.photo_ids), group.representative))
    return replace(duplicates, groups=tuple(groups))


def _with_representative(group: DuplicateGroup, kept: int, scores: PairScores) -> DuplicateGroup:
    if kept == group.representative:
        return group
    others = np.array([photo for photo in group.photo_ids if photo != kept])
    found = scores.of(np.full(len(others), kept), others)
    least = group.min_score if np.isnan(found).any() else float(found.min())
    return replace(group, representative=kept, min_score=least)


def _central(duplicates: Duplicates, scores: PairScores) -> npt.NDArray[np.bool_]:
    """Which photos in groups, (p,) by ascending id, are a pair with every other photo of their group.

    Identical photos count as one: they are pairs with the same photos, and a decision that says otherwise has parted
    them. So a class may be in several groups.
    """
    flat = np.fromiter(chain.from_iterable(group.photo_ids for group in duplicates.groups), np.int64)
    number = np.repeat(np.arange(len(duplicates.groups)), [len(group.photo_ids) for group in duplicates.groups])
    order = np.argsort(flat)
    classes, place = np.unique(scores.lowest(flat[order]), return_inverse=True)
    # A number for each class in each group, ascending, and where those of each class begin.
    groups = len(duplicates.groups)
    seats, seat = np.unique(place * groups + number[order], return_inverse=True)
    starts = np.searchsorted(seats, np.arange(len(classes) + 1) * groups)
    edges = scores.edges[np.isin(scores.edges, classes).all(axis=1)]
    a, b = np.searchsorted(classes, edges).T
    # Each pair of classes in every group that the first is in: it counts where the second is too.
    times = starts[a + 1] - starts[a]
    first = np.repeat(starts[a] - np.cumsum(times) + times, times) + np.arange(times.sum())
    wanted = np.repeat(b, times) * groups + seats[first] % groups
    second = np.minimum(np.searchsorted(seats, wanted), len(seats) - 1)
    here = seats[second] == wanted
    degree = np.bincount(np.concatenate([first[here], second[here]]), minlength=len(seats))
    others = np.bincount(seats % groups, minlength=groups) - 1
    return np.asarray(degree[seat] >= others[seats[seat] % groups])


def _best_first(photos: I64, store: Store, rule: KeepRule, images: Path | None, progress: Progress) -> I64:
    """The order (p,) of photos (p,), the one to keep first."""
    if rule == "first":
        return np.arange(len(photos))
    if rule == "largest" and images is not None:
        keys = _sizes(photos, images, progress)
        nothing = f"none of the {len(photos):,} pictures below {images} can be read. Expected files like 10/103169.jpg."
    else:
        rows = annotations_of(store, photos, _COLUMNS[rule])
        keys = list(map(_KEYS[rule], rows))
        nothing = f"the annotations have no {_SAID[rule]} of any of these {len(photos):,} photos. Choose another rule."
    if not any(key is not None for key in keys):
        raise InputError(f"--keep {rule}: {nothing}")
    unknown = [key is None for key in keys]
    return np.array(sorted(range(len(photos)), key=lambda i: (unknown[i], () if unknown[i] else keys[i], i)))


def _sizes(photos: I64, images: Path, progress: Progress) -> list[tuple[int, int] | None]:
    """Minus the pixels and minus the bytes of each picture; None where it cannot be read."""
    found: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor(cpu_threads(), thread_name_prefix="sizes") as pool:
        for start in range(0, len(photos), _SIZES_AT_ONCE):
            some = photos[start : start + _SIZES_AT_ONCE].tolist()
            sizes = pool.map(lambda photo: picture_size(images, photo), some)
            found += [(-size[0], -size[1]) if size else None for size in sizes]
            progress("sizes of pictures", len(found), len(photos), unit="pictures")
    return found


_COLUMNS = {"oldest": ("taken", "posted"), "most-favoured": ("favorites", "views")}
_SAID = {"oldest": "date", "most-favoured": "favourites and views"}


def _age(row: dict[str, Any]) -> tuple[str, str] | None:
    """When it was taken, else posted; then when it was posted. As text, for one has a time zone and one has none."""
    taken, posted = (row[name].replace(tzinfo=None).isoformat() if row[name] else "" for name in _COLUMNS["oldest"])
    return (taken or posted, posted or "~") if taken or posted else None


def _favour(row: dict[str, Any]) -> tuple[int, int] | None:
    favourites, views = row["favorites"], row["views"]
    return None if favourites is None and views is None else (-(favourites or 0), -(views or 0))


_KEYS: dict[str, Callable[[dict[str, Any]], Any]] = {"oldest": _age, "most-favoured": _favour}
