"""Opening a store: every flipped bit of what it trusts is an error that says where; never an answer from damage."""

import io
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InputError, StoreError
from engine.store import npy
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.ingest import ingest
from engine.store.manifest import FORMAT_VERSION, digest, own_digest, read_document, read_manifest, write_document
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, flip_bit, make_store, photo_bytes, photo_layers, write_photo, write_photos

ROWS, BLOCK = 700, 256


@pytest.fixture
def store(tmp_path):
    """700 rows of two layers, 3 blocks."""
    random = np.random.default_rng(4)
    layers = {"fc7": random.random((ROWS, 6), np.float32), "fc8": random.random((ROWS, 3), np.float32)}
    return make_store(tmp_path / "store", layers, block_rows=BLOCK).path


def sampled_bits(file: Path, *, first: int, more: int) -> list[int]:
    """All bits of the first bytes of a file, and a sample of the rest."""
    size = file.stat().st_size
    head = range(min(first, size) * 8)
    rest = np.random.default_rng(1).integers(len(head), size * 8, more).tolist() if size > first else []
    return sorted({*head, *rest})


@pytest.mark.parametrize(
    ("name", "first", "more"),
    [("manifest.json", 600, 2000), ("photo_ids.npy", 136, 500), ("fc7.npy", 128, 0), ("fc8.npy", 128, 0)],
)
def test_every_flipped_bit_of_what_opening_trusts_is_an_error(store, name, first, more):
    file = store / name
    bits = sampled_bits(file, first=first, more=more) if more else range(first * 8)
    for bit in bits:
        flip_bit(file, bit)
        with pytest.raises(StoreError, match="|".join([name.replace(".", r"\."), "manifest"])):
            Store.open(store)
        flip_bit(file, bit)
    assert len(Store.open(store)) == ROWS


@pytest.mark.parametrize("name", ["photo_ids.npy", "fc7.npy", "fc8.npy"])
@pytest.mark.parametrize("change", ["empty", "short", "shorter", "long", "absent", "folder", "header only"])
def test_an_array_of_another_length_is_an_error(store, name, change):
    file = store / name
    size = file.stat().st_size
    if change in ("absent", "folder"):
        file.unlink()
        if change == "folder":
            file.mkdir()
    else:
        os.truncate(
            file, {"empty": 0, "short": size - 1, "shorter": size // 2, "long": size + 1, "header only": 128}[change]
        )
    with pytest.raises(StoreError, match=name.replace(".", r"\.")):
        Store.open(store)


def rewrite(store: Path, **changes: object) -> None:
    """Change entries of the manifest as somebody would who knows the checksum."""
    document = json.loads((store / "manifest.json").read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    write_document(store / "manifest.json", document)


def test_a_newer_format_asks_for_an_upgrade(store):
    rewrite(store, version=FORMAT_VERSION + 1, something_new=[1, 2])
    expected = rf"version {FORMAT_VERSION + 1}, this mirsearch knows up to {FORMAT_VERSION}\. Upgrade mirsearch\."
    with pytest.raises(StoreError, match=expected):
        Store.open(store)


def test_a_damaged_version_is_damage_not_a_newer_format(store):
    text = (store / "manifest.json").read_text()
    (store / "manifest.json").write_text(text.replace(f'"version": {FORMAT_VERSION}', '"version": 9'))
    with pytest.raises(StoreError, match="does not match its own checksum"):
        Store.open(store)


def test_absent_unfinished_and_not_a_folder(tmp_path, store):
    with pytest.raises(StoreError, match=r"absent\. This is no store: `mirsearch ingest` makes one\."):
        Store.open(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="This is no store"):
        Store.open(str(tmp_path / "empty"))
    (tmp_path / "empty" / "fc7.npy.part").touch()
    with pytest.raises(StoreError, match="An ingest was interrupted here: run it again"):
        Store.open(tmp_path / "empty")
    with pytest.raises(StoreError, match="manifest"):
        Store.open(store / "fc7.npy")


WRONG: dict[str, dict[str, Any]] = {
    "extra key": {"surprise": 1},
    "missing key": {"rows": None},
    "missing layers": {"layers": None},
    "missing sums": {"photo_ids_xxh3": None},
    "negative rows": {"rows": -1},
    "negative rows that add up": {"rows": -1, "block_rows": [-1]},
    "rows as text": {"rows": "700"},
    "rows as float": {"rows": 700.0},
    "rows as bool": {"rows": True, "block_rows": [1]},
    "rows as list": {"rows": [700]},
    "huge rows": {"rows": 1 << 70, "block_rows": [1 << 70]},
    "huge rows of no blocks": {"rows": 1 << 62},
    "blocks do not add up": {"block_rows": [256, 256, 187]},
    "blocks of none": {"block_rows": [256, 256, 188, 0]},
    "blocks as text": {"block_rows": "256"},
    "other format": {"format": "mirsearch-index"},
    "version as text": {"version": "1"},
    "version as bool": {"version": True},
    "layers as list": {"layers": [1]},
    "layer leaves the store": {"layers": {"fc7": {"file": "../fc7.npy", "dim": 6, "xxh3": ["0" * 16] * 3}}},
    "layer is absolute": {"layers": {"fc7": {"file": "/etc/passwd", "dim": 6, "xxh3": ["0" * 16] * 3}}},
    "layer of dimension 0": {"layers": {"fc7": {"file": "fc7.npy", "dim": 0, "xxh3": ["0" * 16] * 3}}},
    "layer of huge dimension": {"layers": {"fc7": {"file": "fc7.npy", "dim": 1 << 40, "xxh3": ["0" * 16] * 3}}},
    "layer with an extra key": {"layers": {"fc7": {"file": "fc7.npy", "dim": 6, "xxh3": ["0" * 16] * 3, "x": 1}}},
    "too few sums": {"layers": {"fc7": {"file": "fc7.npy", "dim": 6, "xxh3": ["0" * 16] * 2}}},
    "sums that are none": {"layers": {"fc7": {"file": "fc7.npy", "dim": 6, "xxh3": ["x" * 16] * 3}}},
    "other dimension": {"layers": {"fc7": {"file": "fc7.npy", "dim": 7, "xxh3": ["0" * 16] * 3}}},
    "sources as text": {"sources": "here"},
    "other ids": {"photo_ids_xxh3": "0" * 16},
    "ids as a newline": {"photo_ids_xxh3": "0" * 16 + "\n"},
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_manifest_that_does_not_fit_is_an_error_even_with_a_right_checksum(store, case):
    rewrite(store, **WRONG[case])
    with pytest.raises(StoreError) as caught:
        Store.open(store)
    assert str(store) in str(caught.value)


TEXTS = {
    "empty": b"",
    "spaces": b"   ",
    "half": b'{"rows": 7',
    "list": b"[]",
    "number": b"7",
    "null": b"null",
    "text": b'"manifest"',
    "empty object": b"{}",
    "two objects": b"{}{}",
    "not text": b"\xff\xfe\xfd",
    "utf-16": '{"rows": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b'{"rows": NaN}',
    "nested lists": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested lists, closed": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long number": b'{"rows": ' + b"9" * 100_000 + b"}",
    "zeros": b"\0" * 4096,
}


@pytest.mark.parametrize("case", TEXTS)
def test_a_manifest_that_is_no_manifest_is_an_error(store, case):
    (store / "manifest.json").write_bytes(TEXTS[case])
    with pytest.raises(StoreError, match=r"manifest\.json"):
        Store.open(store)


@pytest.mark.parametrize("depth", [900, 960, 980, 990, 995, 1000, 1100, 5000])
def test_nesting_near_the_limit_of_recursion_is_an_error_of_ours(tmp_path, depth):
    for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(StoreError):
            read_document(tmp_path / "x.json", "", 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(document=st.dictionaries(st.text(), json_values))
def test_any_document_survives_its_file(tmp_path_factory, document):
    document.pop("version", None)
    path = tmp_path_factory.mktemp("document") / "x.json"
    write_document(path, document)
    back = read_document(path, "", 1)
    assert back.pop("digest") == own_digest(document)
    document.pop("digest", None)
    assert back == document


def test_rows_of_ids(tmp_path):
    """Ids in any order of rows, as an append would leave them."""
    ids = [50, 3, 10**18 - 1, 0, 7]
    store = make_store(tmp_path / "store", {"fc7": np.arange(20, dtype=np.float32).reshape(5, 4)}, ids)
    assert store.rows_of(ids).tolist() == [0, 1, 2, 3, 4]
    assert store.rows_of(7).tolist() == [4]
    assert store.rows_of([]).tolist() == []
    for absent in (1, -1, 51, 2**62):
        with pytest.raises(InputError, match=rf"photo {absent}: not in .* which holds 5 photos"):
            store.rows_of([50, absent])
    with pytest.raises(InputError, match=r"photo 1 \(and 1 more\)"):
        store.rows_of([1, 2, 7])


def test_layers_by_name_and_by_block(store):
    opened = Store.open(store)
    assert opened.layer("fc7") is opened.fc7 is opened.layers["fc7"]
    with pytest.raises(InputError, match="layer 'fc6': this store has fc7, fc8"):
        opened.layer("fc6")
    with pytest.raises(AttributeError):
        _ = opened.fc6
    blocks = list(opened.blocks("fc8", 300))
    assert [start for start, _ in blocks] == [0, 300, 600]
    assert np.concatenate([rows for _, rows in blocks]).tobytes() == opened.fc8.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        opened.fc7[0, 0] = 1


def test_checksums_are_of_the_bytes_in_the_file(store):
    """With numpy and xxhash alone, as the format promises."""
    manifest = read_manifest(store)
    for layer in manifest.layers.values():
        rows = np.load(store / layer.file)
        edges = np.cumsum([0, *manifest.block_rows])
        sums = [digest(rows[a:b].tobytes()) for a, b in pairwise(edges)]
        assert sums == layer.xxh3
    assert digest(np.load(store / "photo_ids.npy").tobytes()) == manifest.photo_ids_xxh3


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=3), st.sampled_from(["<f4", "<i8", "|u1", "<f2"]))
def test_npy_headers_have_one_length_and_numpy_reads_them(shape, dtype):
    data = io.BytesIO(npy.header(tuple(shape), dtype))
    assert len(data.getvalue()) == npy.HEADER_BYTES
    assert np.lib.format.read_magic(data) == (1, 0)
    assert np.lib.format.read_array_header_1_0(data) == (tuple(shape), False, np.dtype(dtype))


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object], times: int = 1) -> None:
    """Let `change` happen after the manifest and the first layer have been read, `times` times."""
    opened, left = npy.open_rows, [times]

    def open_rows(path: Path, *args: Any, **named: Any) -> Any:
        found = opened(path, *args, **named)
        if path.name == "fc7.npy" and left[0]:
            left[0] -= 1
            change()
        return found

    monkeypatch.setattr(npy, "open_rows", open_rows)


def test_a_store_that_is_changed_while_it_is_opened_is_that_of_one_moment(tmp_path, monkeypatch):
    """Rows that were replaced in place fit the old manifest's headers and lengths: only its being another tells."""
    write_photos(tmp_path / "in", range(5))
    ingest([tmp_path / "in"], tmp_path / "store", device=CPU)
    old = Store.open(tmp_path / "store").manifest
    write_photo(tmp_path / "in", 3, photo_bytes(3, 1))
    meanwhile(monkeypatch, lambda: ingest([tmp_path / "in"], tmp_path / "store", device=CPU, replace=True))
    store = Store.open(tmp_path / "store")
    assert store.fc7[3].tobytes() == photo_layers(3, 1)[0].tobytes()
    assert store.manifest.state != old.state
    assert store.manifest == read_manifest(tmp_path / "store")


def test_a_store_that_is_compacted_while_it_is_opened(tmp_path, monkeypatch):
    path = make_store(tmp_path / "store", {"fc7": np.eye(4, dtype=np.float32), "fc8": np.eye(4, dtype=np.float32)}).path
    remove(path, [1000])
    before = Store.open(path)
    meanwhile(monkeypatch, lambda: compact_store(path))
    assert len(Store.open(path)) == 3
    assert before.fc7.tolist() == np.eye(4).tolist()  # who had it open keeps what was there
    assert before.removed is not None and before.removed.tolist() == [True, False, False, False]


def test_a_store_that_begins_to_grow_while_it_is_opened(tmp_path, monkeypatch):
    """A file that is longer than it should be is damage, but not when rows are being added at its end."""
    ones = {"fc7": np.ones((3, 4), np.float32), "fc8": np.ones((3, 4), np.float32)}
    path = make_store(tmp_path / "store", ones).path
    writer = StoreWriter(path, {"fc7": 4, "fc8": 4}, append=True)

    def begin():
        writer.__enter__().write(writer.reserve(3), np.arange(3), ones, key="one")

    meanwhile(monkeypatch, begin)
    assert len(Store.open(path)) == 3
    writer.__exit__(None, None, None)


def test_a_store_that_never_stands_still_is_an_error(tmp_path, monkeypatch):
    path = make_store(tmp_path / "store", {"fc7": np.eye(4, dtype=np.float32)}).path

    def write_again():
        (path / "again").write_bytes((path / "manifest.json").read_bytes())
        (path / "again").replace(path / "manifest.json")

    meanwhile(monkeypatch, write_again, times=1000)
    with pytest.raises(StoreError, match="was changed whenever it was looked at"):
        Store.open(path)


@pytest.mark.parametrize("name", ["photo_ids.npy", "fc7.npy"])
def test_a_file_that_is_gone_or_cut_says_how_it_is_mended(tmp_path, name):
    write_photos(tmp_path / "photos", range(5))
    store = tmp_path / "s t"
    ingest([tmp_path / "photos"], store, device=CPU)
    mends = f"`mirsearch verify '{store}' --repair SOURCE...` mends it"
    os.truncate(store / name, (store / name).stat().st_size - 8)
    with pytest.raises(StoreError, match=mends):
        Store.open(store)
    (store / name).unlink()
    with pytest.raises(StoreError, match=mends):
        Store.open(store)
