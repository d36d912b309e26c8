"""What every set of kernels offers: the shapes, the meaning, and the constants they share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
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


class Done:
    """What waits for work that is done."""

    def synchronize(self) -> None:
        """Return at once."""


class Decoded(NamedTuple):
    """Records split into their layers, on the device of the kernels.

    fc7: (n, 4096), fc8: (n, 1000) float32. flags: (n,) uint8, as of `decode`. norms7, norms8: (n,) float32, the L2
    norm of each row of fc7 and fc8. ready: its `synchronize()` returns once the records have been read and all of
    this is written; arrays may be handed on to other kernels before.
    """

    fc7: Any
    fc8: Any
    flags: Any
    norms7: Any
    norms8: Any
    ready: Any


Blocks = Callable[[], Iterator[tuple[I64, Any]]]
"""Gives the rows of a layer in blocks, as often as it is called: row numbers (b,) int64, ascending, and rows (b, d)."""


ALL_LINES = 0, 1 << 62
"""Of a join: that pairs are wanted of every row with all that follow it."""


class Nearest(NamedTuple):
    """Rows that may be a query's nearest, and what is certain of all others.

    rows: (q, k) int64 row numbers, −1 = absent, highest ceiling first. ceilings: (q, k) float32, what the exact
    score of a row cannot exceed; −inf = absent. bound: (q,) float32, what that of no other row can exceed; −inf
    where there is no other row, inf where the numbers are too large to say.
    """

    rows: Any
    ceilings: Any
    bound: Any


class TooManyPairsError(ValueError):
    """A join found more pairs than were asked for at most."""


class Kernels(Protocol):
    """The functions of `kernels.reference`, `kernels.cpu` and `kernels.cuda`.

    Arrays are taken from the host or, on CUDA, from the device (CuPy arrays, and what has CUDA's array interface or
    DLPack). Results lie where the first array argument lay: on the host after one wait for the device, on the device
    after none. `principal_axes` and `join` always give host arrays, `decode` writes to those it is given, and
    candidates on the device of codes on the host are waited for.
    """

    xp: ModuleType
    """The array module of the device: numpy or cupy."""

    def to_device(self, array: Any) -> Any:
        """A C-ordered array of `xp` on the device of the kernels, of the same shape and dtype."""

    def to_host(self, array: Any) -> npt.NDArray[Any]:
        """The array in host memory."""

    def host_buffer(self, shape: tuple[int, ...]) -> U8:
        """Host memory (uint8) that the device can copy from without a detour: page-locked on CUDA."""

    def decode(self, records: U8, fc7: F32, fc8: F32) -> U8:
        """Split raw records (n, 20400) into `fc7` (n, 4096) and `fc8` (n, 1000); the flags (n,) of each record."""

    def decode_resident(self, records: U8) -> Decoded:
        """Split raw records (n, 20400) into their layers, which stay on the device, and do not wait for it."""

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

    def compare(self, queries: F32, pairs: I64, codes: Codes, metric: Metric) -> F32:
        """The score of each pair (m, 2), a query's place and a row of the codes; see `kernels.reference.compare`."""

    def normalize(self, rows: F32) -> F32:
        """Rows (n, d) float32 of unit length, zero rows as they are, whatever finite values they hold."""

    def project(self, rows: F32, axes: F32, *, unit: bool) -> F32:
        """Rows (n, D) onto axes (D, d), (n, d) float32; see `kernels.dense.project`."""

    def principal_axes(self, blocks: Iterable[F32], count: int, *, unit: bool) -> tuple[F32, F32, float]:
        """The leading principal axes of rows that come in blocks; see `kernels.reference.principal_axes`."""

    def top_axes(self, covariance: F64 | F32, count: int) -> tuple[F32, F32]:
        """The `count` leading eigenvectors (D, count) of a symmetric matrix (D, D), and their eigenvalues (count,)."""

    def nearest(self, queries: F32, rows: F32, metric: Metric, k: int) -> tuple[I64, F32]:
        """The best k rows of a block for each query, unordered; see `kernels.dense.nearest`."""

    def nearest_of(self, queries: F32, blocks: Blocks, metric: Metric, k: int) -> Nearest:
        """The k rows of all blocks that may be nearest to each query; see `kernels.reference.nearest_of`."""

    def join(
        self, blocks: Blocks, threshold: float, metric: Metric, most: int = 1 << 28, lines: tuple[int, int] = ALL_LINES
    ) -> tuple[I64, F32]:
        """All pairs of rows whose score may reach a threshold; see `kernels.reference.join`."""
