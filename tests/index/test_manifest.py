"""What an index says when it no longer fits its store, and how an index of any layer's name is found."""

from pathlib import Path

import numpy as np
import pytest

from engine.errors import IndexUnusableError, StoreError
from engine.index.build import build_index, check_name
from engine.index.manifest import read_index_manifest, stale
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.index.verify import verify_index
from engine.store.change import remove
from engine.store.compact import compact_store
from engine.store.store import Store
from engine.store.writer import StoreWriter
from tests.builders import CPU, clustered, make_store
from tests.index.removal import mark_removed


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = make_store(tmp_path / "store", {"sift": clustered(300, 16, seed=1)})
    build_index(store, IndexSpec(layer="sift"), device=CPU)
    return store


def append(store: Store, rows: int) -> Store:
    with StoreWriter(store.path, {"sift": 16}, append=True) as writer:
        writer.write(writer.reserve(rows), np.arange(rows) + 10**6, {"sift": clustered(rows, 16, seed=2)})
        writer.finish(["more"])
    return Store.open(store.path)


def test_photos_that_are_only_marked_as_removed_leave_an_index_as_it_is(store: Store) -> None:
    removed = mark_removed(store, [0, 7])
    path = store.path / "indices" / "sift"
    assert removed.manifest.state == store.manifest.state
    assert stale(read_index_manifest(path), removed.manifest) is None
    assert verify_index(path).damage == []
    assert Index.open(path, device=CPU).photos == 298


def test_appended_photos_make_an_index_stale_and_it_says_how_many_there_are(store: Store) -> None:
    path = store.path / "indices" / "sift"
    append(store, 40)
    says = r"built from another state of .*store: it had 300 rows then and has 340 now, 40 more"
    with pytest.raises(IndexUnusableError, match=says):
        Index.open(path, device=CPU)
    found = verify_index(path)
    assert found.damage == []
    assert found.stale == (
        "Index sift is of an earlier state of the store: it had 300 rows then and has 340 now, 40 more. It cannot be "
        f"searched until they join it: mirsearch build {store.path} --layer sift --update"
    )
    report = build_index(Store.open(store.path), IndexSpec(layer="sift"), device=CPU)
    assert not report.reused and len(Index.open(path, device=CPU)) == 340
    assert verify_index(path).stale is None


def test_an_index_whose_rows_are_gone_is_no_damage_but_cannot_be_searched(store: Store) -> None:
    build_index(store, IndexSpec(layer="sift", metric="l2"), device=CPU, name="other")
    remove(store.path, store.photo_ids[:7])
    compact_store(store.path)
    found = verify_index(store.path / "indices" / "other")
    assert found.damage == []
    assert "is of another state of the store: it had 300 rows then and has 293 now, 7 fewer." in str(found.stale)
    assert str(found.stale).endswith(f"mirsearch build {store.path} --layer sift --name other --metric l2")


def test_an_index_of_a_damaged_store_is_still_verified(store: Store) -> None:
    (store.path / "manifest.json").write_bytes(b"{}")
    path = store.path / "indices" / "sift"
    assert (verify_index(path).damage, verify_index(path).stale) == ([], None)
    data = bytearray((path / "index.json").read_bytes())
    data[9] ^= 1
    (path / "index.json").write_bytes(data)
    (damage,) = verify_index(path).damage
    assert damage.file == "index.json" and str(path) not in damage.reason


def test_what_else_may_have_changed(store: Store, tmp_path: Path) -> None:
    index = read_index_manifest(store.path / "indices" / "sift")

    def says(name: str, rows: int, dim: int, layer: str = "sift") -> str | None:
        return stale(index, make_store(tmp_path / name, {layer: clustered(rows, dim, seed=3)}).manifest)

    assert says("fewer", 200, 16) == "it had 300 rows then and has 200 now, 100 fewer"
    assert says("other", 300, 16) == "it has 300 rows as it had then, but not the same ones"
    assert says("dims", 300, 8) == "its sift had 16 dimensions then and has 8 now"
    assert says("name", 300, 16, "glove") == "it has no layer 'sift' any more"


@pytest.mark.parametrize("layer", ["sift", "glove-100-angular", "_", "-", "0", "all"])
def test_an_index_has_the_name_of_its_layer_whatever_it_is(tmp_path: Path, layer: str) -> None:
    store = make_store(tmp_path / "store", {layer: clustered(50, 3, seed=1)})
    path = build_index(store, IndexSpec(layer=layer), device=CPU).path
    assert path == store.path / "indices" / layer
    assert Index.open(path, device=CPU).search(store.layer(layer)[:1]).photo_ids[0, 0] == 1000
    check_name(layer)
    with pytest.raises(IndexUnusableError, match=f"build {store.path} --layer LAYER --name another` makes it"):
        read_index_manifest(store.path / "indices" / "another")


def test_the_hint_needs_no_store(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusableError, match="--layer LAYER --name fc7` makes it"):
        read_index_manifest(tmp_path / "indices" / "fc7")
    with pytest.raises(StoreError):
        Store.open(tmp_path)


def test_the_hint_can_be_pasted_into_a_shell_and_a_store_is_told_from_an_index(tmp_path: Path) -> None:
    store = make_store(tmp_path / "sp é", {"sift": clustered(50, 3, seed=1)})
    with pytest.raises(IndexUnusableError, match=f"build '{store.path}' --layer sift` makes it"):
        Index.open(store.path / "indices" / "sift", device=CPU)
    index = store.path / "indices" / "sift"
    meant = rf"{store.path} is a store, expected the folder of an index in it, such as {index}\."
    for _ in range(2):  # before there is one, and with it
        with pytest.raises(IndexUnusableError, match=meant):
            Index.open(store.path, device=CPU)
        build_index(store, IndexSpec(layer="sift"), device=CPU)
