"""Scores of given pairs in Numba: what a join compares, where nobody wants the best of them."""

from typing import Any

import numba
import numpy as np

from kernels.contract import F32, I64, Codes, Metric
from kernels.cpu_scores import METRICS, dot_and_square, dot_code, kind_of, padded, scale, score_code, score_row
from kernels.paging import ask_for, disk_was_read
from kernels.prefetch import prefetch_row
from kernels.threads import in_blocks

# As for candidates in kernels/cpu_rerank.py: rows lie anywhere, and are asked for in time.
_AHEAD, _BEGINNING = 4, 256
_PAIRS = 512  # for one task of a thread
_TOGETHER = 256  # pairs whose rows are asked for together where they must come from a disk


@numba.njit(nogil=True, cache=True)
def _of_rows(queries: Any, pairs: Any, values: Any, metric: int, scores: Any) -> None:
    last, norm2 = -1, 0.0
    for i in range(len(pairs)):
        at, row = pairs[i, 0], pairs[i, 1]
        if i + 1 < len(pairs):
            prefetch_row(values, pairs[i + 1, 1], _BEGINNING)
        if at != last:
            last, norm2 = at, dot_and_square(queries[at], queries[at])[1]
        scores[i] = score_row(metric, queries[at], values[row], norm2)


@numba.njit(nogil=True, cache=True)
def _of_codes(
    kind: int, queries: Any, pairs: Any, values: Any, low: Any, step: Any, norm2: Any, metric: int, scores: Any
) -> None:
    scaled = padded(queries.shape[1])
    last, total, query_norm2, size = -1, 0.0, 0.0, 1.0
    for i in range(len(pairs)):
        at, row = pairs[i, 0], pairs[i, 1]
        if i + _AHEAD < len(pairs):
            prefetch_row(values, pairs[i + _AHEAD, 1], _BEGINNING)
        if at != last:
            last = at
            total, query_norm2, size = scale(queries[at], scaled)
        dot = size * dot_code(kind, scaled, values[row])
        scores[i] = score_code(metric, dot, total, query_norm2, low[row], step[row], norm2[row])


def compare(queries: F32, pairs: I64, codes: Codes, metric: Metric) -> F32:
    """The score of each pair; see `kernels.reference.compare`."""
    pairs = np.ascontiguousarray(pairs, np.int64)
    if not (queries.dtype == np.float32 and queries.flags.c_contiguous):
        used, at = np.unique(pairs[:, 0], return_inverse=True)
        queries, pairs = np.array(queries[used], np.float32), np.stack([at.reshape(-1), pairs[:, 1]], axis=1)
    scores, m = np.empty(len(pairs), np.float32), METRICS[metric]

    def work(a: int, b: int) -> None:
        for start in range(a, b, _TOGETHER):
            part = slice(start, min(start + _TOGETHER, b))
            some = pairs[part]
            if disk_was_read():  # by the last ones: then these, too, want what is not in memory
                ask_for(queries, some[:, :1])
                ask_for(codes.values, some[:, 1:])
            if codes.low is None:
                _of_rows(queries, some, codes.values, m, scores[part])
            else:
                kind, values = kind_of(codes)
                _of_codes(kind, queries, some, values, codes.low, codes.step, codes.norm2, m, scores[part])

    in_blocks(len(pairs), _PAIRS, work)
    return scores
