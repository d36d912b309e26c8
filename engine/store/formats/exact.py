"""Numbers of a file as float32, and float32 as the numbers of a file: never another number in silence."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import InputError


def as_float32(rows: npt.NDArray[Any], where: str, first: int, *, lossy: bool = False) -> npt.NDArray[np.float32]:
    """Rows (r, dim) of any real type as float32 of the same values, C order; float32 ones are passed on, not copied.

    where and first: the file and the number of its row that the errors count from. InputError names the first row
    that holds NaN or infinity, or a number that float32 cannot hold; lossy lets float64 be rounded.
    """
    if rows.dtype.kind == "f":
        _require(rows, np.isfinite(rows), where, first, "expected finite values")
    with np.errstate(over="ignore", under="ignore"):
        converted = np.ascontiguousarray(rows, np.float32)
    if rows.dtype.kind == "f" and rows.dtype.itemsize > 4:
        if lossy:
            good, why = np.isfinite(converted), "it is past the range of float32"
        else:
            good = converted.astype(np.float64) == rows
            why = "float32 cannot hold it exactly. --lossy rounds float64 to the nearest float32"
        _require(rows, good, where, first, why)
    elif rows.dtype.kind in "iu" and rows.dtype.itemsize > 2:
        _require(rows, _same_integers(converted, rows), where, first, "float32 cannot hold it exactly")
    return converted


def _same_integers(converted: npt.NDArray[np.float32], rows: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    # 2**31, 2**32, 2**63 or 2**64: what rounding up can reach, and what no cast back is defined for.
    limit = float(np.iinfo(rows.dtype).max) if rows.dtype.itemsize == 8 else np.iinfo(rows.dtype).max + 1.0
    inside = converted < limit
    back = np.where(inside, converted, np.float32(0)).astype(rows.dtype)
    return np.asarray(inside & (back == rows))


def from_float32(rows: npt.NDArray[np.float32], dtype: np.dtype[Any], where: str, first: int) -> npt.NDArray[Any]:
    """Rows (r, dim) float32 as a type of smaller range; InputError names the first number that it cannot hold.

    −0.0 is no integer here: it would come back as 0.0.
    """
    if dtype == np.float32:
        return rows
    if dtype.kind == "f":
        with np.errstate(over="ignore", under="ignore"):
            converted = rows.astype(dtype)
        good = converted.astype(np.float32) == rows
    else:
        limits = np.iinfo(dtype)
        # Compared in float64: the largest int32 is no float32.
        inside = (rows >= float(limits.min)) & (rows.astype(np.float64) <= float(limits.max))
        converted = np.where(inside, rows, np.float32(0)).astype(dtype)
        good = inside & (converted == rows) & ~(np.signbit(rows) & (rows == 0))
    why = f"{dtype} cannot hold it exactly. Choose a format of float32, such as .fbin or .npy"
    _require(rows, good, where, first, why)
    return converted


def _require(rows: npt.NDArray[Any], good: npt.NDArray[np.bool_], where: str, first: int, why: str) -> None:
    if not good.all():
        row, column = np.unravel_index(int(np.argmin(good)), good.shape)
        raise InputError(f"{where}: row {first + int(row):,}, value {int(column)} is {rows[row, column]!s}: {why}.")
