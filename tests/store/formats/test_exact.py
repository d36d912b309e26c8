"""No number changes in silence: every type against Python's own arithmetic."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.store.formats.exact import as_float32, from_float32

WHOLE = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def integers(dtype: str) -> Any:
    limits = np.iinfo(dtype)
    low, high = int(limits.min), int(limits.max)
    near = [v for e in (24, 25, 31, 32, 53, 63, 64) for v in (2**e - 1, 2**e, 2**e + 1, -(2**e), -(2**e) - 1)]
    return st.one_of(
        st.integers(low, high), st.sampled_from([v for v in [low, high, *near] if low <= v <= high] or [0])
    )


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("order", ["<", ">"])
@given(data=st.data())
def test_an_integer_is_held_exactly_or_refused(dtype, order, data):
    value = data.draw(integers(dtype))
    rows = np.array([[0, 1], [1, value]], order + dtype)
    if int(np.float64(np.float32(value))) == value:
        assert [int(v) for v in as_float32(rows, "f", 0).reshape(-1)] == [0, 1, 1, value]
    else:
        with pytest.raises(InputError, match=f"^f: row 101, value 1 is {value}: float32 cannot hold it"):
            as_float32(rows, "f", 100)


@given(value=st.floats(allow_nan=False, allow_infinity=False), order=st.sampled_from("<>"))
def test_a_float64_is_held_exactly_or_refused_unless_lossy(value, order):
    rows = np.array([[1.0], [value]], order + "f8")
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
    if float(nearest) == value:
        assert as_float32(rows, "f", 0)[1].tobytes() == nearest.tobytes()
    else:
        with pytest.raises(InputError, match=r"row 1, value 0 is .* --lossy"):
            as_float32(rows, "f", 0)
    if np.isfinite(nearest):
        assert as_float32(rows, "f", 0, lossy=True)[1].tobytes() == nearest.tobytes()
    else:
        with pytest.raises(InputError, match="past the range"):
            as_float32(rows, "f", 0, lossy=True)


def test_lossy_is_of_float64_alone():
    with pytest.raises(InputError, match="16777217"):
        as_float32(np.array([[2**24 + 1]]), "f", 0, lossy=True)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_not_finite_is_refused_in_every_type(dtype):
    rows = np.zeros((3, 2), dtype)
    rows[2, 1] = np.nan
    with pytest.raises(InputError, match="row 2, value 1 is nan: expected finite values"):
        as_float32(rows, "f", 0, lossy=True)


def test_float32_is_passed_on_and_strides_are_made_straight():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert as_float32(rows, "f", 0) is rows
    straight = as_float32(rows.T, "f", 0)
    assert straight.flags.c_contiguous and (straight == rows.T).all()
    assert as_float32(np.array([[True, False]]), "f", 0).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "f2"])
@given(data=st.data())
def test_a_narrower_type_holds_the_number_or_refuses_it(dtype, data):
    kind = np.dtype(dtype)
    value = np.float32(
        data.draw(
            st.one_of(
                st.floats(width=32, allow_nan=False, allow_infinity=False),
                st.integers(-(2**24), 2**24).map(float),
                st.sampled_from([2.0**31, 2.0**31 - 128, -(2.0**31), 255.0, 256.0, -128.0, -129.0, -0.0]),
            )
        )
    )
    rows = np.array([[1], [value]], np.float32)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            fits = np.float32(value.astype(kind)) == value
    else:
        minus_zero = value == 0 and np.signbit(value)
        fits = float(value).is_integer() and np.iinfo(kind).min <= int(value) <= np.iinfo(kind).max and not minus_zero
    if fits:
        narrow = from_float32(rows, kind, "f", 0)
        assert narrow.dtype == kind and narrow.astype(np.float32).tobytes() == rows.tobytes()
    else:
        with pytest.raises(InputError, match=r"row 1, value 0 is .*Choose"):
            from_float32(rows, kind, "f", 0)
