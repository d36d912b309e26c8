"""Principal axes: the covariance of rows that come in blocks, and the leading eigenvectors of a large matrix.

The same lines run on NumPy and CuPy (`xp`), as those of `kernels.dense`.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np

# Up to so many dimensions, or times as many as axes are wanted, all eigenvectors take no longer than some.
_SMALL, _TIMES = 1024, 4
_WIDTH = 64  # columns of the Krylov space that one product with the matrix adds
_GAIN = 1e-3  # a step that adds less than this share of what the axes keep is the last one

Add = Callable[[Any, Any], Any]
"""What adds the product of rows (n, D) with themselves to a (D, D) float32 array, and gives that array back."""


def covariance(xp: ModuleType, blocks: Iterable[Any], add: Add) -> tuple[Any, int]:
    """Centred covariance (D, D) float32 of rows given as blocks (n, D) float32, and how many rows there were.

    float32 products of rows from which the first block's mean was taken: a mean far from the origin costs no digits.
    ValueError for no blocks.
    """
    shift: Any = None
    square: Any = None
    total: Any = None
    seen = 0
    for rows in blocks:
        if shift is None:
            shift = rows.mean(axis=0, dtype=xp.float64).astype(xp.float32)
            square = xp.zeros((rows.shape[1],) * 2, xp.float32, order="F")
            total = xp.zeros(rows.shape[1], xp.float64)
        rows = rows - shift
        total += rows.sum(axis=0, dtype=xp.float64)
        square = add(square, rows)
        seen += len(rows)
    if not seen:
        raise ValueError("no rows to take a covariance of")
    mean = (total / seen).astype(xp.float32)
    square /= xp.float32(seen)
    square -= mean[:, None] * mean
    return square, seen


def columns(dim: int, count: int) -> int:
    """About how many columns the space has in which `leading` finds so many axes of so many; 0: it finds none."""
    return 0 if dim <= max(_SMALL, _TIMES * count) else round(2.25 * count)


def leading(xp: ModuleType, matrix: Any, count: int) -> tuple[Any, Any] | None:
    """The `count` leading eigenvectors (D, count) and eigenvalues (count,) of a symmetric (D, D) float32 matrix.

    By a block Krylov space that grows until it keeps no more of the variance (Musco and Musco 2015,
    arXiv:1504.05477): orthonormal columns that keep 0.999 and more of what the true ones keep, largest first. None
    where the matrix is small, or its spectrum falls so slowly that all eigenvectors are found sooner.
    """
    dim = len(matrix)
    if not columns(dim, count):
        return None
    block = xp.asarray(np.random.default_rng(0).standard_normal((dim, _WIDTH)).astype(np.float32))
    basis = products = xp.empty((dim, 0), xp.float32)
    kept, block = 0.0, matrix @ block
    while basis.shape[1] < 3 * count + _WIDTH:
        for _ in range(2):  # once loses the columns' right angles to rounding
            block = block - basis @ (basis.T @ block)
        block = xp.linalg.qr(block)[0]
        basis = xp.concatenate([basis, block], axis=1)
        block = matrix @ block
        products = xp.concatenate([products, block], axis=1)
        if basis.shape[1] < count:
            continue
        values, turns = xp.linalg.eigh(basis.T @ products)
        before, kept = kept, float(values[-count:].sum())
        if kept - before <= _GAIN * kept:
            return basis @ turns[:, ::-1][:, :count], values[::-1][:count]
    return None
