"""Classes of identical photos: who is in one, and the pairs that stand for all that follow from them.

A pair of classes means that every photo of the one is a duplicate of every photo of the other, and so are those of one
class. Of classes up to LARGE_CLASS photos all of these pairs are listed. Of larger ones each photo is listed with the
lowest other that it was not judged different from (where nothing was judged: with the lowest of the class), so that
the number of pairs stays in proportion to the photos. What people judged different is never listed.
"""

from collections.abc import Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from engine.jobs.decisions import Decisions, rows_among

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

# Identical photos in classes up to this size are paired each with each.
LARGE_CLASS = 32
Apart = Mapping[int, Set[int]]


def equal_rows(sums: npt.NDArray[np.uint64], photo_ids: I64, present: npt.NDArray[np.bool_]) -> I64:
    """For each row (n,), the row of the lowest photo id that holds the very same values (often itself).

    −1 for the rows of removed photos, which are nobody's copy. sums: (n, 2) checksums of the rows, see
    `dedup_ceilings.checksums`; present: (n,).
    """
    there = np.flatnonzero(present)
    order = there[np.lexsort((photo_ids[there], sums[there, 0], sums[there, 1]))]
    ordered = sums[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    lowest = np.full(len(sums), -1)
    lowest[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    return lowest


def copies_of(lowest: I64, photo_ids: I64) -> I64:
    """(c, 2), ascending: each photo that is identical to one of a lower id, and the lowest such.

    lowest: (n,), of `equal_rows`.
    """
    copied = np.flatnonzero((lowest >= 0) & (lowest != np.arange(len(lowest))))
    copies = np.stack([photo_ids[copied], photo_ids[lowest[copied]]], axis=1)
    return copies[np.argsort(copies[:, 0])]


def members_of(copies: I64) -> dict[int, list[int]]:
    """The photo ids of each class of identical rows by its lowest, ascending."""
    members: dict[int, list[int]] = {}
    for photo, lowest in sorted(copies.tolist()):
        members.setdefault(lowest, [lowest]).append(photo)
    return members


def lowest_of(photos: I64, copies: I64) -> I64:
    """The lowest photo id of the class of each of some photos, of their shape; often itself. copies: of `copies_of`."""
    if not len(copies):
        return photos
    at = np.minimum(np.searchsorted(copies[:, 0], photos), len(copies) - 1)
    return np.where(copies[at, 0] == photos, copies[at, 1], photos)


def judged_pairs(pairs: I64, copies: I64, decisions: Decisions) -> I64:
    """The pairs (j, 2) that were judged different and are duplicates by these pairs of classes (m, 2) and copies."""
    classes = np.sort(lowest_of(decisions.different, copies), axis=1)
    found: I64 = decisions.different[(classes[:, 0] == classes[:, 1]) | rows_among(classes, pairs)]
    return found


def wholly_judged(pairs: I64, copies: I64, judged: I64) -> npt.NDArray[np.bool_]:
    """Which pairs of classes (m, 2) have nothing left: each photo of one was judged different from all of the other."""
    classes, counts = np.unique(np.sort(lowest_of(judged, copies), axis=1), axis=0, return_counts=True)
    lows, more = np.unique(copies[:, 1], return_counts=True)

    def sizes(photos: I64) -> I64:
        at = np.minimum(np.searchsorted(lows, photos), max(len(lows) - 1, 0))
        return np.where(lows[at] == photos, more[at] + 1, 1) if len(lows) else np.ones(len(photos), np.int64)

    return rows_among(pairs, classes[counts == sizes(classes[:, 0]) * sizes(classes[:, 1])])


def expand(pairs: I64, scores: F32, copies: I64, decisions: Decisions | None = None) -> tuple[I64, F32]:
    """Pairs of distinct rows, and what follows from them for the copies of those rows.

    pairs: (m, 2) photo ids, a < b, each the lowest of its class; scores: (m,). copies: (c, 2), a photo and the lowest
    photo id of its class. Returns all listed pairs (p, 2), a < b, in ascending order, and scores (p,); identical photos
    score 1. None of them was judged different.
    """
    told, members = decisions or Decisions(), members_of(copies)
    named = told.different[np.isin(told.different, copies).any(axis=1)]
    apart = apart_of(named)
    near, place = spread(pairs, members, members, apart)
    inside = [_within(photos, apart) for photos in members.values()]
    every = np.sort(np.concatenate([near, *inside]), axis=1)
    every_score = np.concatenate([scores[place], np.ones(len(every) - len(near), np.float32)])
    good = ~told.are_different(every)
    every, every_score = every[good], every_score[good]
    order = np.lexsort((every[:, 1], every[:, 0]))
    return every[order], every_score[order]


def apart_of(different: I64) -> dict[int, set[int]]:
    """By photo id, those that it was judged different from; different: (d, 2)."""
    found: dict[int, set[int]] = {}
    for a, b in different.tolist():
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return found


def spread(
    pairs: I64, ours: Mapping[int, Sequence[int]], theirs: Mapping[int, Sequence[int]], apart: Apart | None = None
) -> tuple[I64, I64]:
    """The pairs (p, 2) that stand for pairs of classes (m, 2), and (p,) the place of that which each stands for.

    ours, theirs: the members of the classes of more than one photo of the first and of the second column.
    """
    lows = [np.fromiter(classes, np.int64, len(classes)) for classes in (ours, theirs)]
    touched = np.isin(pairs[:, 0], lows[0]) | np.isin(pairs[:, 1], lows[1])
    plain = np.flatnonzero(~touched)
    out, places = [pairs[plain]], [plain]
    for place in np.flatnonzero(touched).tolist():
        a, b = pairs[place].tolist()
        found = _between(ours.get(a, [a]), theirs.get(b, [b]), apart or {})
        out.append(found)
        places.append(np.full(len(found), place))
    return np.concatenate(out), np.concatenate(places)


def _between(ours: Sequence[int], theirs: Sequence[int], apart: Apart) -> I64:
    if max(len(ours), len(theirs)) <= LARGE_CLASS:
        return np.stack(np.meshgrid(ours, theirs, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)
    found = _star(ours, theirs, apart) + [(a, b) for b, a in _star(theirs, ours, apart)]
    return np.array(sorted(set(found)), np.int64).reshape(-1, 2)


def _within(photos: Sequence[int], apart: Apart) -> I64:
    if len(photos) <= LARGE_CLASS:
        a, b = np.triu_indices(len(photos), 1)
        return np.asarray(photos, np.int64)[np.stack([a, b], axis=1)]
    itself = {photo: {photo, *apart.get(photo, ())} for photo in photos}
    found = {(min(a, b), max(a, b)) for a, b in _star(photos, photos, itself)}
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _star(ours: Sequence[int], theirs: Sequence[int], apart: Apart) -> list[tuple[int, int]]:
    """Each of ours with the lowest of theirs that it was not judged different from, if there is one."""
    found = []
    for photo in ours:
        banned = apart.get(photo, ())
        partner = next((other for other in theirs if other not in banned), None)
        if partner is not None:
            found.append((photo, partner))
    return found
