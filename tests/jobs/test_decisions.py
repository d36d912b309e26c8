"""Decisions about duplicates: what a file says of pairs, which of two decisions holds, and what is no such file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.jobs import decisions
from engine.jobs.decisions import Decisions


def entry(verdict: str, *photo_ids: int) -> dict[str, Any]:
    return {"photo_ids": list(photo_ids), "verdict": verdict, "at": "2026-01-02T03:04:05Z"}


def write(path: Path, *entries: Any, **changes: Any) -> Path:
    path.write_text(json.dumps({"version": 1, "store": "s", "decisions": list(entries)} | changes))
    return path


def test_verdicts_become_pairs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.json", entry("different", 9, 3, 12), entry("all-different", 5, 4, 6), entry("same", 20, 8, 21)
    )
    read = Decisions.read(path)
    assert read.different.tolist() == [[3, 9], [4, 5], [4, 6], [5, 6], [9, 12]]
    assert read.same.tolist() == [[20, 8], [20, 21]]
    assert len(read) == 3 and read.different.dtype == np.int64


def test_the_last_decision_about_two_photos_holds(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", entry("different", 1, 2), entry("same", 3, 4), entry("same", 5, 6))
    second = write(tmp_path / "b.json", entry("same", 2, 1), entry("different", 4, 3), entry("same", 6, 5))
    both = Decisions.read(first, second)
    assert both.different.tolist() == [[3, 4]] and both.same.tolist() == [[2, 1], [6, 5]]
    other = Decisions.read(second, first)
    assert other.different.tolist() == [[1, 2]] and other.same.tolist() == [[3, 4], [5, 6]]


def test_of_two_verdicts_the_later_made_holds_in_any_order(tmp_path: Path) -> None:
    times = {"old": "2025-01-01T00:00:00Z", "new": "2025-03-01T10:00:00+02:00", "older": "2024-12-31T23:59:59"}
    old = write(tmp_path / "a.json", entry("same", 1, 2) | {"at": times["old"]})
    new = write(tmp_path / "b.json", entry("different", 1, 2) | {"at": times["new"]})
    for files in ((old, new), (new, old)):
        read = Decisions.read(*files)
        assert read.different.tolist() == [[1, 2]] and not len(read.same)
    timeless = [{key: value for key, value in entry("same", 1, 2).items() if key != "at"}, entry("same", 3, 4)]
    timeless[1]["at"] = "yesterday"
    read = Decisions.read(new, write(tmp_path / "c.json", *timeless), old)  # as if made right after the one before
    assert read.same.tolist() == [[1, 2], [3, 4]] and not len(read.different)
    read = Decisions.read(new, write(tmp_path / "d.json", entry("same", 1, 2) | {"at": times["older"]}))
    assert read.different.tolist() == [[1, 2]]


def test_no_decisions(tmp_path: Path) -> None:
    for read in (Decisions(), Decisions.read(), Decisions.read(write(tmp_path / "d.json"))):
        assert read.different.shape == read.same.shape == (0, 2) and len(read) == 0
        assert not read.are_different(np.array([[1, 2]])).any()
    assert Decisions().are_different(np.empty((0, 2), np.int64)).shape == (0,)


def test_pairs_are_looked_up_either_way_round() -> None:
    told = Decisions.of([entry("different", 1, 2), entry("different", (1 << 62) + 1, 7)])
    pairs = np.array([[1, 2], [2, 1], [1, 3], [7, (1 << 62) + 1], [7, 1 << 62]])
    assert told.are_different(pairs).tolist() == [True, True, False, True, False]


@given(st.lists(st.tuples(st.sampled_from(decisions.VERDICTS), st.lists(st.integers(0, 5), min_size=2, unique=True))))
def test_equals_a_dictionary_of_pairs(told: list[tuple[str, list[int]]]) -> None:
    verdicts: dict[tuple[int, ...], tuple[bool, tuple[int, int]]] = {}
    for verdict, photos in told:
        for i, a in enumerate(photos):
            for b in photos[i + 1 :]:
                if i == 0 or verdict == "all-different":
                    verdicts[tuple(sorted((a, b)))] = verdict == "same", (a, b)
    read = Decisions.of([entry(verdict, *photos) for verdict, photos in told])
    assert {tuple(pair) for pair in read.different.tolist()} == {p for p, (same, _) in verdicts.items() if not same}
    assert {tuple(pair) for pair in read.same.tolist()} == {pair for same, pair in verdicts.values() if same}
    assert np.array_equal(read.different, np.unique(read.different, axis=0))


BAD = {
    "no JSON": ("{", "is no JSON text"),
    "deep": ("[" * 100_000, "is no JSON text"),
    "a list": ("[]", "expected"),
    "no list": ('{"version": 1, "decisions": 3}', "expected"),
    "no version": ('{"decisions": []}', "version None"),
    "newer": ('{"version": 2, "decisions": []}', "version 2.*Upgrade"),
    "verdict": ('{"version": 1, "decisions": [{"photo_ids": [1, 2], "verdict": "perhaps"}]}', "decision 1: expected"),
    "text ids": ('{"version": 1, "decisions": [{"photo_ids": ["1", 2], "verdict": "same"}]}', "whole numbers"),
    "true": ('{"version": 1, "decisions": [{"photo_ids": [true, 2], "verdict": "same"}]}', "whole numbers"),
    "negative": ('{"version": 1, "decisions": [{"photo_ids": [-1, 2], "verdict": "same"}]}', "whole numbers"),
    "huge": ('{"version": 1, "decisions": [{"photo_ids": [9223372036854775808, 2], "verdict": "same"}]}', "whole"),
    "one": ('{"version": 1, "decisions": [{"photo_ids": [1], "verdict": "same"}]}', "1 photo ids, expected two"),
    "twice": ('{"version": 1, "decisions": [{"photo_ids": [1, 1], "verdict": "same"}]}', "each once"),
    "no object": ('{"version": 1, "decisions": [7]}', "decision 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_such_file_is_one_line(tmp_path: Path, case: str) -> None:
    text, expected = BAD[case]
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(InputError, match=expected) as caught:
        Decisions.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_absent_folder_or_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        Decisions.read(tmp_path / "absent.json")
    with pytest.raises(InputError, match="cannot be read"):
        Decisions.read(tmp_path)
    path = write(tmp_path / "d.json", entry("all-different", *range(10)))
    monkeypatch.setattr(decisions, "MOST_PAIRS", 44)
    with pytest.raises(InputError, match="decision 1: more than 44 pairs"):
        Decisions.read(path)
    monkeypatch.setattr(decisions, "MOST_BYTES", 10)
    with pytest.raises(InputError, match="larger than"):
        Decisions.read(path)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(b"\xef\xbb\xbf" + write(path, entry("different", 1, 2)).read_bytes())
    assert Decisions.read(path).different.tolist() == [[1, 2]]
