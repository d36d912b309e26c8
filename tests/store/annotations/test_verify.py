"""Every flipped bit and every cut of the annotations is found by a verification."""

import numpy as np
import pytest

from engine.errors import StoreError
from engine.store.annotations.ingest import ingest_annotations
from engine.store.annotations.schema import FILE, QUARANTINE
from engine.store.annotations.sealed import check_seal, seal
from engine.store.annotations.table import Annotations, write_table
from engine.store.annotations.verify import verify_annotations
from tests.builders import flip_bit
from tests.store.annotations.test_table import IDS, a_store, a_table


def test_every_flip_and_every_cut_is_found(tmp_path):
    store = a_store(tmp_path / "s")
    assert verify_annotations(store.path) is None
    path = write_table(store, a_table(IDS))
    report = verify_annotations(store.path)
    assert (
        report is not None and report.damage == [] and report.notes == [] and report.bytes_read == path.stat().st_size
    )
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for byte in [*range(8), *range(len(whole) - 8, len(whole)), *random.integers(0, len(whole), 150).tolist()]:
        flip_bit(path, byte * 8 + byte % 8)
        report = verify_annotations(store.path)
        assert report is not None and len(report.damage) == 1, byte
        assert "`mirsearch annotations ingest SOURCE" in report.damage[0].reason
        flip_bit(path, byte * 8 + byte % 8)
    for length in (0, 1, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        report = verify_annotations(store.path)
        assert report is not None and len(report.damage) == 1, length
    path.write_bytes(whole)
    assert verify_annotations(store.path).damage == []  # type: ignore[union-attr]


def test_a_table_that_has_vanished_is_missed(tmp_path):
    store = a_store(tmp_path / "s")
    (tmp_path / "3.json").write_text('{"title": "t"}')
    ingest_annotations(store.path, [tmp_path / "3.json"])
    assert verify_annotations(store.path).damage == []  # type: ignore[union-attr]
    (store.path / FILE).unlink()
    report = verify_annotations(store.path)
    assert report is not None and [damage.file for damage in report.damage] == [FILE]
    assert "is absent" in report.damage[0].reason and "`mirsearch annotations ingest SOURCE" in report.damage[0].reason
    with pytest.raises(StoreError, match=r"has no annotations any more: annotations\.parquet is gone\. `mirsearch"):
        Annotations.open(store)
    (store.path / QUARANTINE).unlink()
    assert verify_annotations(store.path) is None


def test_only_what_has_a_place_for_it_is_sealed(tmp_path):
    (tmp_path / "a").write_bytes(b"PAR1 and more, and PAR1")
    for work in (seal, check_seal):
        with pytest.raises(StoreError, match="has no checksum where one is expected"):
            work(tmp_path / "a")
