"""Numbers in messages."""

import pytest

from engine.words import counted, sized


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (999.7, "1.0 KB"),
        (1000, "1.0 KB"),
        (20_400, "20.4 KB"),
        (999_949, "999.9 KB"),
        (999_950, "1.0 MB"),
        (49_000_000, "49.0 MB"),
        (20_400_000_000, "20.4 GB"),
        (5e15, "5,000,000.0 GB"),
    ],
)
def test_bytes_have_a_fitting_unit(count: float, text: str) -> None:
    assert sized(count) == text


def test_one_is_no_plural() -> None:
    assert [counted(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert [counted(n, "index", "indices") for n in (1, 2)] == ["1 index", "2 indices"]
