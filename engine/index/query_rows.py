"""Vectors that somebody asks with: that they are what a layer holds, and where they lie."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError

_CUDA = 2, 13  # DLPack: kDLCUDA, kDLCUDAManaged


def on_gpu(array: Any) -> bool:
    """Whether an array lies on a GPU, whichever library it is of (CUDA's array interface, or DLPack)."""
    if type(array) in (np.ndarray, np.memmap, list, tuple):  # most are, and need no more looks
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in _CUDA


def check_on_gpu(xp: ModuleType, rows: Any, dim: int, layer: str) -> Any:
    """Queries on a GPU as C-ordered (n, dim) float32 there, under the rules of `check_queries`; one wait for it."""
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind not in "fiu":
        raise InputError(f"queries of shape {rows.shape}, {rows.dtype}: expected (n, {dim}) float32 for {layer}")
    rows = xp.ascontiguousarray(rows.astype(xp.float32, copy=False))
    if not bool(xp.isfinite(rows).all()):
        raise InputError("queries: hold NaN, infinity or values past float32, expected finite float32")
    return rows


def check_queries(
    queries: npt.ArrayLike, dim: int, layer: str, name: Callable[[int], str] = "query {}".format
) -> npt.NDArray[np.float32]:
    """Queries as C-ordered (n, dim) float32; InputError when the shape is another or a value is not finite.

    name: what query i is called in the error.
    """
    rows = np.asarray(queries)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind not in "fiu":
        raise InputError(f"queries of shape {rows.shape}, {rows.dtype}: expected (n, {dim}) float32 for {layer}")
    if rows.dtype != np.float32:
        with np.errstate(over="ignore"):  # a float64 past float32's range becomes an infinity, and is refused below
            rows = rows.astype(np.float32)
    rows = np.ascontiguousarray(rows)
    if math.isfinite(np.add.reduce(rows, axis=None, dtype=np.float64)):  # which no finite float32 values exceed
        return rows
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError(f"{name(int(bad[0]))}: holds NaN, infinity or values past float32, expected finite float32")
    return rows
