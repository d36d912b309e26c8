"""Which shard lies on which GPU, and which GPU answers which queries: arithmetic alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where shards are searched.

    homes: of each shard, the place of its GPU among the budgets. streamed: whether it is copied there for each search
    and does not stay. ahead: of each GPU, whether the next streamed shard fits beside the one in use.
    """

    homes: tuple[int, ...]
    streamed: tuple[bool, ...]
    ahead: tuple[bool, ...]


def place(sizes: Sequence[int], budgets: Sequence[int]) -> Placement:
    """Shards of so many bytes on GPUs with room for so many: the largest first, each where most room is left.

    What fits nowhere is streamed, to the GPUs in turn; for it each of them keeps room free, for two of the largest
    shards where that can be, for one otherwise. ValueError where the largest shard fits on no GPU alone.
    """
    largest = max(sizes, default=0)
    if largest > max(budgets):
        raise ValueError(f"a shard of {largest:,} bytes, room for {max(budgets):,}")
    homes = _fit(sizes, budgets)
    if None not in homes:
        return Placement(homes=tuple(map(int, homes)), streamed=(False,) * len(sizes), ahead=(False,) * len(budgets))  # type: ignore[arg-type]
    ahead = tuple(budget >= 2 * largest for budget in budgets)
    streaming = [gpu for gpu, budget in enumerate(budgets) if budget >= largest]
    kept = [
        budget - (2 * largest if ahead[gpu] else largest) if gpu in streaming else budget
        for gpu, budget in enumerate(budgets)
    ]
    homes = _fit(sizes, kept)
    streamed = tuple(home is None for home in homes)
    turn = 0
    for shard, home in enumerate(homes):
        if home is None:
            homes[shard] = streaming[turn % len(streaming)]
            turn += 1
    return Placement(homes=tuple(map(int, homes)), streamed=streamed, ahead=ahead)  # type: ignore[arg-type]


def _fit(sizes: Sequence[int], rooms: Sequence[int]) -> list[int | None]:
    """The GPU of each shard, None where it fits on none."""
    left = list(rooms)
    homes: list[int | None] = [None] * len(sizes)
    for shard in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        gpu = max(range(len(left)), key=lambda i: (left[i], -i))
        if sizes[shard] <= left[gpu]:
            homes[shard] = gpu
            left[gpu] -= sizes[shard]
    return homes


def parts(queries: int, gpus: int) -> list[slice]:
    """Queries cut among GPUs that all hold every shard, as evenly as can be; empty parts are left out."""
    edges = [queries * i // gpus for i in range(gpus + 1)]
    return [slice(start, stop) for start, stop in pairwise(edges) if stop > start]
