"""Other groups than stars: those in which all are duplicates of each other, and those that hang together somehow."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from engine.jobs.groups import F32, I64, DuplicateGroup, in_order
from engine.jobs.identical import members_of


def components(pairs: I64, scores: F32, copies: I64) -> tuple[DuplicateGroup, ...]:
    """Groups that hang together by pairs: the first and the last of a chain need not be alike at all.

    pairs, scores, copies: as of `groups.group_photos`. The representative has the most duplicates, and of those that
    have as many the lowest photo id.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = _Numbered.of(pairs, copies)
    n = len(graph.ids)
    if not n:
        return ()
    ones = np.ones(len(pairs), np.int8)
    _, label = connected_components(coo_array((ones, (graph.a, graph.b)), shape=(n, n)), directed=False)
    return _groups(graph, label.astype(np.int64), scores)


def complete(pairs: I64, scores: F32, copies: I64) -> tuple[DuplicateGroup, ...]:
    """Groups in which every two photos are a pair: complete linkage, greedy from the highest score down.

    Two groups become one at the next pair between them if all of their photos are pairs of each other; of equal scores
    the pair of the lowest photo ids comes first. pairs, scores, copies and the representative: as of `components`.
    """
    graph = _Numbered.of(pairs, copies)
    near: list[set[int]] = [set() for _ in graph.ids]
    for a, b in zip(graph.a.tolist(), graph.b.tolist(), strict=True):
        near[a].add(b)
        near[b].add(a)
    label = list(range(len(graph.ids)))
    members = [[photo] for photo in label]
    order = np.lexsort((graph.b, graph.a, -scores))
    for a, b in zip(graph.a[order].tolist(), graph.b[order].tolist(), strict=True):
        one, other = sorted((label[a], label[b]), key=lambda group: -len(members[group]))
        if one == other or not all(near[photo].issuperset(members[one]) for photo in members[other]):
            continue
        for photo in members[other]:
            label[photo] = one
        members[one] += members[other]
        members[other] = []
    return _groups(graph, np.array(label, np.int64), scores)


@dataclass(frozen=True)
class _Numbered:
    """Photos with distinct rows in ascending order of their ids; a, b: (m,) the pairs by their places in it."""

    ids: I64
    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    copies: dict[int, list[int]]

    @classmethod
    def of(cls, pairs: I64, copies: I64) -> "_Numbered":
        ordered = np.sort(pairs, axis=1)
        ids, number = np.unique(np.concatenate([ordered[:, 0], ordered[:, 1], copies[:, 1]]), return_inverse=True)
        return cls(ids, number[: len(pairs)], number[len(pairs) : 2 * len(pairs)], members_of(copies))


def _groups(graph: _Numbered, label: I64, scores: F32) -> tuple[DuplicateGroup, ...]:
    """The groups of photos with the same label (n,); pairs between different labels count for nothing."""
    n = len(graph.ids)
    together = label[graph.a] == label[graph.b]
    a, b = graph.a[together], graph.b[together]
    weight = np.array([len(graph.copies.get(photo, (photo,))) for photo in graph.ids.tolist()], np.int64)
    near = weight - 1
    np.add.at(near, a, weight[b])
    np.add.at(near, b, weight[a])
    least = np.full(n, np.inf)
    np.minimum.at(least, label[a], scores[together].astype(np.float64))
    order = np.lexsort((np.arange(n), -near, label))
    edges = [0, *(np.flatnonzero(np.diff(label[order])) + 1).tolist(), n] if n else [0]
    found = []
    for start, stop in pairwise(edges):
        places = order[start:stop]
        distinct = graph.ids[places].tolist()
        photos = [each for one in distinct for each in graph.copies.get(one, (one,))]
        score = float(least[label[places[0]]])
        if len(photos) > 1:
            found.append(
                DuplicateGroup(
                    representative=distinct[0], photo_ids=tuple(sorted(photos)),
                    min_score=min(score, 1.0) if len(distinct) > 1 else 1.0,
                    kind="copy" if len(distinct) > 1 else "exact",
                )
            )  # fmt: skip
    return in_order(found)
