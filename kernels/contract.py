"""What every set of kernels offers: the shapes, the meaning, and the constants they share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Metric = Literal["cosine", "ip", "l2"]
"""How two vectors are compared. Scores are higher-is-better: cosine, inner product, minus the squared distance."""

CodeKind = Literal["uint8", "uint4", "float16"]
"""How the values of a row are coded; see `kernels.reference.quantize`."""

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

FC8_DIM, FC7_DIM = 1000, 4096
FC8_AT, FC7_AT, RECORD_BYTES = 8, 4016, 20_400

# What `decode` says of a record, as bits.
BAD_FC8_HEADER, BAD_FC7_HEADER, FC8_NOT_FINITE, FC7_NOT_FINITE = 1, 2, 4, 8


def code_width(kind: CodeKind, dim: int) -> int:
    """How many values of a codes' array a row of so many dimensions takes: two 4-bit codes share one."""
    return -(-dim // 2) if kind == "uint4" else dim


class Codes(NamedTuple):
    """Rows in a compact form: row i is `low[i] + step[i] * values[i]`, in every dimension.

    values: (n, d) uint8 or float16 codes, or float32 rows as they are (then low, step, norm2 are None).
    low, step: (n,) float32. norm2: (n,) float32, the squared length of the uncompressed row.
    packed: d, where the values are 4-bit codes: (n, h) uint8 with h = ⌈d/2⌉, dimension j in the low half of byte j,
    dimension h + j in the high half, and 0 past the end of an odd d; None for all others.
    """

    values: Any
    low: Any = None
    step: Any = None
    norm2: Any = None
    packed: int | None = None

    def each(self, change: Callable[[Any], Any]) -> "Codes":
        """The same codes, each array of them changed."""
        arrays = self.values, self.low, self.step, self.norm2
        values, low, step, norm2 = (None if array is None else change(array) for array in arrays)
        return Codes(values, low, step, norm2, self.packed)


class Step(NamedTuple):
    """One step of a cascade: candidates are compared with these codes, the best `keep` go on.

    queries: (q, d) float32, in the space of the codes.
    """

    queries: F32
    codes: Codes
    keep: int


class Kernels(Protocol):
    """The functions of `kernels.reference`, `kernels.cpu` and `kernels.cuda`."""

    def host_buffer(self, shape: tuple[int, ...]) -> U8:
        """Host memory (uint8) that the device can copy from without a detour: page-locked on CUDA."""

    def decode(self, records: U8, fc7: F32, fc8: F32) -> U8:
        """Split raw records (n, 20400) into `fc7` (n, 4096) and `fc8` (n, 1000); the flags (n,) of each record."""

    def non_finite(self, rows: F32) -> npt.NDArray[np.bool_]:
        """Whether each row of (n, d) float32 holds a NaN or an infinity, shape (n,)."""

    def quantize(self, rows: F32, kind: CodeKind) -> Codes:
        """Codes of float32 rows (n, d), each row scaled by its own range, so any finite values fit."""

    def resident(self, codes: Codes) -> Codes:
        """The codes where `rerank` reads them fastest: on the GPU if they fit there, else as they are."""

    def rerank(self, queries: F32, candidates: I64, codes: Codes, metric: Metric, keep: int) -> tuple[I64, F32]:
        """The best `keep` of each query's candidates, best first; see `kernels.reference.rerank`."""

    def cascade(self, candidates: I64, steps: Sequence[Step], metric: Metric) -> tuple[I64, F32]:
        """Candidates (q, r) through one step after another; rows and scores of the last, as `rerank` gives them."""

    def normalize(self, rows: F32) -> F32:
        """Rows (n, d) float32 of unit length, zero rows as they are, whatever finite values they hold."""

    def project(self, rows: F32, axes: F32, *, unit: bool) -> F32:
        """Rows (n, D) onto axes (D, d), (n, d) float32; see `kernels.dense.project`."""

    def principal_axes(self, blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
        """The leading principal axes of rows that come in blocks; see `kernels.reference.principal_axes`."""

    def top_axes(self, covariance: F64, count: int) -> tuple[F32, F32]:
        """The `count` leading eigenvectors (D, count) of a symmetric matrix (D, D), and their eigenvalues (count,)."""

    def nearest(self, queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
        """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""
