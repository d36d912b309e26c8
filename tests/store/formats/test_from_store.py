"""Rows of a store, each block against its checksum, whatever its size and whatever is left out."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.store import blocks as module
from engine.store.formats.from_store import checked_rows, stored_vectors
from engine.store.store import Store
from tests.builders import flip_bit, make_store, truncate

WIDE = np.arange(1000 * 12, dtype=np.float32).reshape(1000, 12)


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Store:
    return make_store(tmp_path_factory.mktemp("s") / "store", {"wide": WIDE, "thin": WIDE[:, :3]}, block_rows=100)


# A block of the wide layer has 4,800 bytes, of the thin one 1,200.
@pytest.mark.parametrize("piece", [8 << 20, 4800, 4799, 700])
@settings(max_examples=15)
@given(chosen=st.sets(st.integers(0, 999), min_size=1, max_size=60))
def test_the_rows_that_are_asked_for_are_given(store, piece, chosen):
    rows = np.array(sorted(chosen))
    with patch.object(module, "PIECE", piece):
        found = np.concatenate([block.copy() for block in stored_vectors(store, "wide", rows).blocks()])
    assert (found == WIDE[rows]).all()


@pytest.mark.parametrize("piece", [8 << 20, 4000])
def test_layers_are_cut_alike(store, piece):
    with patch.object(module, "PIECE", piece):
        starts = [[(start, len(rows)) for start, rows in checked_rows(store, layer, 30)] for layer in ("wide", "thin")]
    assert starts[0] == starts[1] and sum(rows for _, rows in starts[0]) == 1000
    assert max(rows for _, rows in starts[0]) == 30


@pytest.mark.parametrize("piece", [8 << 20, 4000])
@pytest.mark.parametrize("row", [0, 399, 400, 999])
def test_damage_is_named_even_where_nothing_is_taken_from(tmp_path, piece, row):
    store = make_store(tmp_path / "s", {"wide": WIDE}, block_rows=100)
    flip_bit(tmp_path / "s" / "wide.npy", (4096 + row * 48) * 8 + 5)
    first = row // 100 * 100
    with (
        patch.object(module, "PIECE", piece),
        pytest.raises(StoreError, match=f"rows {first} to {first + 99}: does not match its checksum"),
    ):
        list(stored_vectors(store, "wide", np.array([row ^ 1])).blocks())


@pytest.mark.parametrize("piece", [8 << 20, 4000])
def test_a_file_cut_short_after_it_was_opened_is_an_error(tmp_path, piece):
    store = make_store(tmp_path / "s", {"wide": WIDE}, block_rows=100)
    truncate(tmp_path / "s" / "wide.npy", 4096 + 48 * 950)
    with patch.object(module, "PIECE", piece), pytest.raises(StoreError, match="rows 900 to 999: is cut short"):
        list(checked_rows(store, "wide"))
