"""Photo ids that occur more than once among the sources."""

import os

import numpy as np

from engine.store.listed import Refused
from engine.store.sources import Listing


def one_per_photo(found: Listing) -> tuple[Listing, list[Refused], int]:
    """Settle ids that occur more than once: the first good record wins, equal ones are repeats, others are refused.

    Gives what is left, the refused, and how many repeats there were.
    """
    ids = found.photo_ids
    first = np.ones(len(ids), np.bool_)
    first[1:] = ids[1:] != ids[:-1]
    starts = np.flatnonzero(first)
    keep, refused, repeated = first.copy(), list[Refused](), 0
    ends = np.append(starts[1:], len(ids))
    for start, end in zip(starts[ends - starts > 1].tolist(), ends[ends - starts > 1].tolist(), strict=True):
        keep[start:end] = False
        winner: bytes | None = None
        for i in range(start, end):
            reason, record = found.examine(i)
            if reason is None and record is not None and winner is None:
                winner, keep[i], chosen = record.tobytes(), True, i
            elif reason is None and record is not None and record.tobytes() == winner:
                repeated += 1
            else:
                if reason is None:
                    first_path = found.path(chosen).decode(errors="replace")
                    reason = f"photo {ids[i]} again, with other content than {first_path}"
                source = os.fsdecode(found.path(i))
                refused.append(Refused(source=source, photo_id=int(ids[i]), reason=reason))
    return (found if keep.all() else found.take(np.flatnonzero(keep))), refused, repeated
