"""The rows of an index in its CPU form: how many in each list, and what they are numbered from."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.index import ivfpq

I64 = npt.NDArray[np.int64]


def list_sizes(host: Any) -> I64:
    """How many rows lie in each list, (lists,)."""
    return np.array([host.invlists.list_size(i) for i in range(host.nlist)], np.int64)


def _ids(host: Any) -> list[I64]:
    """The ids of each list that has any, as they lie in memory: they can be written."""
    lists, view = host.invlists, ivfpq.faiss().rev_swig_ptr
    return [view(lists.get_ids(i), size) for i in range(host.nlist) if (size := lists.list_size(i))]


def renumber(host: Any, by: int) -> None:
    """Add to the number of every row."""
    for ids in _ids(host):
        ids += by


def counted_from_0(host: Any) -> int:
    """Have the rows counted from 0; the number that the first of them had."""
    first = min((int(ids.min()) for ids in _ids(host)), default=0)
    if first:
        renumber(host, -first)
    return first


def bits_from(bits: npt.NDArray[np.uint8], first: int, rows: int) -> npt.NDArray[np.uint8]:
    """Of a filter as FAISS takes it the bits of so many rows from `first` on, beginning with bit 0 of byte 0."""
    part = bits[first // 8 : -(-(first + rows) // 8)].astype(np.uint16)
    wide = np.zeros(-(-rows // 8) + 1, np.uint16)
    wide[: len(part)] = part[: len(wide)]
    shift = first % 8
    wide[:-1] = wide[:-1] >> shift | wide[1:] << 8 - shift
    return wide[:-1].astype(np.uint8)
