"""Which photos of the sample collection are copies of which: the plan of a block, and the truth about it."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class Kind(NamedTuple):
    """A kind of planted pair: how many copies a block holds, and the band of fc7 cosine aimed at."""

    name: str
    copies: int
    low: float
    high: float


# The default threshold of `dedup`, 0.95, lies in the middle of near-medium; weak copies overlap bursts.
EXACT: Final = Kind("exact", 20, 1.0, 1.0)
ALTERED: Final = (
    Kind("near-strong", 14, 0.973, 0.994),
    Kind("near-medium", 13, 0.932, 0.968),
    Kind("near-weak", 13, 0.852, 0.928),
    Kind("burst", 40, 0.802, 0.927),
)
KINDS: Final = (EXACT.name, *(kind.name for kind in ALTERED))
TRIPLES: Final = 4  # of a block's exact groups have three photos, the others two


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Photo `photo_id` was made from photo `of`, and their cosines are these.

    `strength` says how hard it was altered: 0 for an exact copy; it has no unit.
    """

    kind: str
    photo_id: int
    of: int
    strength: float
    fc7_cosine: float
    fc8_cosine: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which rows of a block are copies of which, in arrays of one entry per pair.

    `exact` is (p, 2), rows (of, copy); in a group of three the first photo is the source of both others,
    and the pair of the two copies is listed too. `altered` is (q, 2), `target` its fc7 cosines, `kinds` its
    names.
    """

    exact: Int64
    altered: Int64
    target: Float64
    kinds: tuple[str, ...]


def draw_plan(rng: np.random.Generator, photos: int) -> Plan:
    """Draw the copies of a block; originals have lower rows than copies, so a block may be cut anywhere."""
    order = rng.permutation(photos)
    triples = np.sort(order[: 3 * TRIPLES].reshape(-1, 3), axis=1)
    used, pairs = 3 * TRIPLES, EXACT.copies - 2 * TRIPLES
    doubles = np.sort(order[used : used + 2 * pairs].reshape(-1, 2), axis=1)
    used, count = used + 2 * pairs, sum(kind.copies for kind in ALTERED)
    altered = np.sort(order[used : used + 2 * count].reshape(-1, 2), axis=1)
    exact = np.concatenate([doubles, triples[:, :2], triples[:, ::2], triples[:, 1:]])
    target = np.concatenate([kind.low + (kind.high - kind.low) * rng.random(kind.copies) for kind in ALTERED])
    kinds = tuple(kind.name for kind in ALTERED for _ in range(kind.copies))
    return Plan(exact=exact, altered=altered, target=target, kinds=kinds)


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> Float64:
    """Cosine of each row of `a` with the same row of `b`, (n,), summed in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    found: Float64 = (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return found


def roots(plan: Plan) -> Int64:
    """The first photo of the group of every exact pair, (p,): what its copy is copied from."""
    found = plan.exact[:, 0].copy()
    found[-TRIPLES:] = plan.exact[-2 * TRIPLES : -TRIPLES, 0]
    return found


def list_pairs(start: int, plan: Plan, strength: Float64, fc7: Float32, fc8: Float32) -> tuple[Pair, ...]:
    """The truth about one block, in the order of the copies' photo ids."""
    rows = np.concatenate([plan.exact, plan.altered])
    kinds = (EXACT.name,) * len(plan.exact) + plan.kinds
    strengths = [0.0] * len(plan.exact) + strength.tolist()
    of, copy = rows.T
    cosines = zip(cosine(fc7[of], fc7[copy]).tolist(), cosine(fc8[of], fc8[copy]).tolist(), strict=True)
    found = [
        Pair(
            kind=kind,
            photo_id=start + b,
            of=start + a,
            strength=s,
            fc7_cosine=round(c7, 6),
            fc8_cosine=round(c8, 6),
        )
        for kind, (a, b), s, (c7, c8) in zip(kinds, rows.tolist(), strengths, cosines, strict=True)
    ]
    return tuple(sorted(found, key=lambda pair: (pair.photo_id, pair.of)))
