"""The targets notice: with one check of the engine taken away, each of them soon has a finding."""

import random
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine.store import dat, manifest, npy
from engine.store.archives import headers, members
from engine.store.archives import zip as zips
from engine.store.arrays import Arrays
from engine.store.formats import bins
from tests.fuzz.__main__ import scratch
from tests.fuzz.choices import Choices
from tests.fuzz.targets import TARGETS


class AnyBytes:
    """Equal to whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class AnySum(int):
    """A checksum that is never wrong."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


# What is replaced, and by what: NaN passes, any path passes, long names are lost, checksums, headers and lengths hold.
SABOTAGE: dict[str, tuple[Any, str, Any]] = {
    "dat": (dat, "examine_bytes", lambda data: (None, np.frombuffer(data, dat.RECORD)[0])),
    "tar": (members, "_reason", lambda name, kind, size: None if size == 20_400 else "no"),
    "stream": (headers, "_of_interest", lambda said: {}),
    "zip": (zips, "zlib", SimpleNamespace(**vars(zlib) | {"crc32": lambda data: AnySum()})),
    "manifest": (manifest, "document_bytes", lambda document: AnyBytes()),
    "npy": (npy, "check_file", lambda *_, **__: None),
    "commit": (manifest, "document_bytes", lambda document: AnyBytes()),
    "journal": (Arrays, "_is_there", lambda arrays, block, name: len(str(block.sums[name])) == 16),
    "formats": (bins, "check_length", lambda *_: None),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_missing_check_is_found(monkeypatch, name):
    source = random.Random(name)
    with scratch() as folder, pytest.raises(AssertionError):
        target = TARGETS[name](folder)
        monkeypatch.setattr(*SABOTAGE[name])
        for _ in range(2000):
            target.run(Choices(source.randbytes(source.choice([20, 60, 200, 600]))))
