"""A short part of the fuzz run, from seeds: enough to break when a target, or what it tests, is broken at large."""

import random
from collections import Counter

import pytest

from tests.fuzz.__main__ import SHARES, scratch
from tests.fuzz.choices import Choices, mutated
from tests.fuzz.targets import TARGETS

# What must happen among a few hundred inputs: a target that refuses everything, or takes everything, shows nothing.
INPUTS = {"dat": 150, "tar": 400, "stream": 200, "zip": 250, "manifest": 300, "npy": 200, "commit": 120, "journal": 120,
          "formats": 600}  # fmt: skip
BOTH = {
    "dat": ("accepted", "refused", "in part"), "tar": ("accepted", "refused", "in part"),
    "stream": ("accepted", "refused", "in part", "called damaged"), "zip": ("accepted", "refused", "in part"),
    "manifest": ("accepted", "refused", "forged, accepted", "forged, refused"),
    "npy": ("accepted", "refused", "opened, damage elsewhere", "forged, refused"),
    "commit": ("intact, accepted", "refused", "damaged beside it, damage named", "forged, refused"),
    "journal": ("all taken over", "some taken over", "written anew", "forged, finished"),
    "formats": ("accepted", "refused"),
}  # fmt: skip


@pytest.mark.parametrize("name", TARGETS)
def test_right_rows_or_a_refusal(name):
    source, outcomes = random.Random(name), Counter[str]()
    with scratch() as folder:
        target = TARGETS[name](folder)
        for _ in range(INPUTS[name]):
            outcomes[target.run(Choices(source.randbytes(source.choice([20, 60, 200, 600]))))] += 1
    assert set(BOTH[name]) <= set(outcomes), outcomes


def test_every_target_has_its_share():
    assert sum(SHARES.values()) == 100
    assert list(SHARES) == list(TARGETS) == list(INPUTS) == list(BOTH)


def test_choices_and_changes_are_those_of_their_bytes():
    data = random.Random(1).randbytes(300)
    assert mutated(Choices(data), bytes(100)) == mutated(Choices(data), bytes(100))
    assert len({mutated(Choices(random.Random(i).randbytes(50)), bytes(100)) for i in range(50)}) > 25
    assert mutated(Choices(b""), b"same") == b"same"
    assert Choices(b"").pick("ab") == "a"
    assert not Choices(b"").one_in(2)
