"""Many values of a kind at once, from lists of texts to Arrow arrays: what `values` says of one, said of a column.

The usual is found and converted by NumPy and Arrow; what is not, value by value by the functions of `values`.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engine.store.annotations.values import LAST_SECOND, clock, instant, text, unwrapped, whole

if TYPE_CHECKING:
    import pyarrow as pa

I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Texts:
    """A column of texts that grows by batches; None is the text that says nothing.

    What a batch says is joined at once: Python's own texts, by the hundred thousand, would be far apart in memory, and
    Arrow takes six times as long for each as it takes to join them and to find the ends again.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._sizes: list[int] = []

    def add(self, values: Sequence[Any]) -> None:
        """Add texts; numbers as they are written."""
        if values:
            try:
                self._parts.append("\0".join(values))
            except TypeError:
                values = ["" if one is None else str(one) for one in values]
                self._parts.append("\0".join(values))
            self._sizes.append(len(values))

    def all(self) -> "pa.Array[Any]":
        """The column; ValueError if a text holds the character 0."""
        import pyarrow as pa

        if not self._parts:
            return pa.array([], pa.string())
        count, joined = sum(self._sizes), "\0".join(self._parts).encode()
        ends = np.append(np.flatnonzero(np.frombuffer(joined, np.uint8) == 0), len(joined)) - np.arange(count)
        offsets = np.append(0, ends).astype(np.int32)
        return pa.Array.from_buffers(
            pa.string(), count, [None, pa.py_buffer(offsets.data), pa.py_buffer(joined.replace(b"\0", b""))]
        )


def texts(made: Any) -> "tuple[pa.Array[Any], Mask]":
    """(n,) texts as `text` gives them, null where one says nothing; and where that is (n,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets, data = parts_of(made)
    starts, nothing = offsets[:-1], offsets[:-1] == offsets[1:]
    if not len(data):
        return pa.nulls(len(made), pa.string()), nothing
    first = data[np.minimum(starts, len(data) - 1)]
    odd = ((first <= ord(" ")) | (first > ord("~"))) & ~nothing
    odd[np.searchsorted(offsets, np.flatnonzero(data == ord("&")), "right") - 1] = True
    if odd.any():
        new = [text(value) for value in made.filter(pa.array(odd)).to_pylist()]
        made = pc.replace_with_mask(made, pa.array(odd), pa.array(new, pa.string()))
        nothing[odd] = [value is None for value in new]
    return with_nulls(made, nothing), nothing


def looked_up(made: Any, reader: Callable[[str], Any], kind: Any) -> Any:
    """(n,) what a reader makes of texts, each different one read once."""
    import pyarrow as pa

    found = made.dictionary_encode()
    return pa.array([reader(one) for one in found.dictionary.to_pylist()], kind).take(found.indices)


def with_nulls(made: Any, missing: Mask) -> Any:
    """The texts without those that are missing (n,)."""
    import pyarrow as pa

    if not missing.any():
        return made
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little").data)
    return pa.Array.from_buffers(made.type, len(made), [valid, *made.buffers()[1:]])


def parts_of(made: Any) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Offsets (n + 1,) and bytes of an array of texts."""
    _, offsets, data = made.buffers()
    found = np.frombuffer(offsets, np.int32, len(made) + 1, made.offset * 4)
    return found, np.frombuffer(data, np.uint8)[: found[-1]] if data else np.empty(0, np.uint8)


def wholes(made: Any, low: int, high: int) -> tuple[I64, Mask]:
    """(n,) whole numbers between two bounds, and where there is none (n,)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    length = np.diff(parts_of(made)[0])
    plain = pc.ascii_is_decimal(made).to_numpy(zero_copy_only=False) & (length > 0) & (length < 19)
    found = np.zeros(len(made), np.int64)
    found[plain] = made.filter(pa.array(plain)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    missing = (found < low) | (found > high) | ~plain
    for i in np.flatnonzero(~plain & (length > 0)).tolist():
        one = whole(unwrapped(made[i].as_py()), low, high)
        if one is not None:
            found[i], missing[i] = one, False
    return found, missing


def instants(made: Any) -> tuple[I64, Mask]:
    """(n,) seconds since 1970 in UTC, and where there are none (n,)."""
    found, missing = wholes(made, 1, LAST_SECOND)
    return _else(made, found, missing, instant)


def clocks(made: Any) -> tuple[I64, Mask]:
    """(n,) seconds since 1970 of clocks of no zone, and where there are none (n,)."""
    offsets, data = parts_of(made)
    usual = np.flatnonzero(np.diff(offsets) == _LENGTH)
    digits = data[offsets[usual][:, None] + np.arange(_LENGTH)].astype(np.int64) - ord("0")
    found, missing = np.zeros(len(made), np.int64), np.ones(len(made), np.bool_)
    found[usual], missing[usual] = _seconds(digits)
    return _else(made, found, missing, clock)


_LENGTH = 19  # of "2009-07-04 12:30:00"
_EPOCH = datetime(1970, 1, 1)


def _seconds(digits: I64) -> tuple[I64, Mask]:
    """Seconds since 1970 of texts (m, 19), less "0"; and where they are not of the usual form."""

    def value(start: int, stop: int) -> I64:
        total: I64 = digits[:, start:stop] @ (10 ** np.arange(stop - start - 1, -1, -1))
        return total

    def are(places: list[int], signs: str) -> Any:
        return np.isin(digits[:, places], [ord(sign) - ord("0") for sign in signs]).all(1)

    numbers = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
    good = ((digits[:, numbers] >= 0) & (digits[:, numbers] <= 9)).all(1)
    good &= are([4, 7], "-:/.") & are([10], " T") & are([13, 16], ":")
    year, month, day = value(0, 4), np.maximum(value(5, 7), 1), np.maximum(value(8, 10), 1)
    hour, minute, second = value(11, 13), value(14, 16), value(17, 19)
    good &= (year >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    first: Any = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    good &= day <= ((first + 1).astype("datetime64[D]") - first.astype("datetime64[D]")).astype(np.int64)
    days = first.astype("datetime64[D]").astype(np.int64) + day - 1
    return ((days * 24 + hour) * 60 + minute) * 60 + second, ~good


def _else(made: Any, found: I64, missing: Mask, reader: Callable[[Any], datetime | None]) -> tuple[I64, Mask]:
    for i in np.flatnonzero(missing & (np.diff(parts_of(made)[0]) > 0)).tolist():
        time = reader(value) if (value := text(made[i].as_py())) else None
        if time is not None:
            past = time.replace(tzinfo=None) - _EPOCH
            found[i], missing[i] = past.days * 86_400 + past.seconds, False
    return found, missing


def unreadable(said: Any, made: Any) -> Mask:
    """Where a text (n,) says something of which nothing was made (n,)."""
    missing: Mask = made.is_null().to_numpy(zero_copy_only=False)
    return missing & (np.diff(parts_of(said)[0]) > 0)


def array_of(found: tuple[npt.NDArray[Any], Mask], kind: Any) -> Any:
    """Numbers and where there are none, as an Arrow array of a kind."""
    import pyarrow as pa

    made: Any = pa.array(found[0], mask=found[1])
    return made.cast(kind)


def lists(sizes: Sequence[int] | I64, inner: Any, kind: Any) -> Any:
    """Lists of so many items each, null where that is below 0, of the type `kind`."""
    import pyarrow as pa

    counts = np.asarray(sizes, np.int64)
    starts: Any = pa.array(
        np.append(0, np.cumsum(np.maximum(counts, 0))).astype(np.int32), mask=np.append(counts < 0, False)
    )
    if pa.types.is_map(kind):
        keys, items = inner
        return pa.MapArray.from_arrays(starts, keys, items)
    if pa.types.is_struct(kind.value_type):
        inner = pa.StructArray.from_arrays(inner, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(starts, inner, type=kind)
