"""Which tuned point a search takes, and what is said where none will do."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from engine.errors import IndexUnusableError, InputError
from engine.index.build import build_index
from engine.index.filter import Filter
from engine.index.manifest import FORMAT_VERSION, read_index_manifest, write_index_manifest
from engine.index.search import Index
from engine.index.shards import Visit, enough_candidates
from engine.index.sizes import index_bytes, total_bytes
from engine.index.spec import IndexSpec, SearchSpec
from engine.index.tuned import Tuned, TunedPoint
from engine.index.verify import verify_index
from engine.store.store import Store
from tests.builders import CPU, clustered, make_store


def point(probes: int, rerank: int, recall: float, qps: float, *, p99: float | None = 2.0) -> TunedPoint:
    return TunedPoint(
        probes=probes, rerank=rerank, recall=recall, least=recall - 0.01, qps=qps, p50_ms=p99 and p99 / 2, p99_ms=p99
    )


POINTS = (
    point(1, 20, 0.85, 900), point(2, 40, 0.96, 500), point(4, 30, 0.97, 700), point(8, 90, 0.99, 100),
    point(8, 400, 1.0, 950, p99=None),
)  # fmt: skip
TUNED = Tuned(device="cpu", queries=50, seed=0, measured_at="2026-01-01T00:00:00+00:00", points=POINTS, chosen=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = make_store(tmp_path_factory.mktemp("tuned") / "store", {"x": clustered(1500, 32, seed=3)})
    build_index(store, IndexSpec(layer="x", lists=16), device=CPU)
    return store


@pytest.fixture
def index(store: Store) -> Index:
    """Tuned by hand, and put back as it was."""
    path = store.path / "indices" / "x"
    before = read_index_manifest(path).model_copy(update={"tuned": None})
    write_index_manifest(path, before.model_copy(update={"tuned": TUNED}))
    return Index.open(path, device=CPU, store=store)


def test_the_fastest_point_that_surely_reached_a_recall_is_taken() -> None:
    assert TUNED.choose(0.95) is POINTS[2]  # not the slower one of 0.96, nor the fastest, which was only looked at
    assert TUNED.choose(0.965) is POINTS[3]  # 0.97 was measured, and 0.96 is sure
    assert TUNED.choose(0.5) is POINTS[0]


def test_a_recall_that_no_point_reached_names_the_best() -> None:
    with pytest.raises(InputError, match=r"0\.999 was not reached: the best is 0\.9900 .*--probes 8 --rerank 90\."):
        TUNED.choose(0.999)


def test_a_search_takes_the_point_of_its_recall_and_else_the_chosen_one(index: Index) -> None:
    assert index.settings(SearchSpec(recall=0.95)) == (4, 30)
    assert index.settings(SearchSpec()) == (2, 40)
    assert index.settings(SearchSpec(k=30)) == (4, 120)  # more lists for farther neighbours
    assert index.settings(SearchSpec(probes=5)) == (5, 40)
    assert index.settings(SearchSpec(rerank=70)) == (2, 70)
    assert index.settings(SearchSpec(recall=1)) == (16, 1500)


def test_under_a_filter_a_search_takes_no_less_than_an_index_that_was_never_tuned(index: Index) -> None:
    part = Filter.of_ids(index.store, within=index.store.photo_ids[:300])
    tuned = index.settings(SearchSpec(), part)
    write_index_manifest(index.path, index.manifest.model_copy(update={"tuned": None}))
    untuned = Index.open(index.path, device=CPU, store=index.store).settings(SearchSpec(), part)
    assert tuned == untuned
    assert tuned > index.settings(SearchSpec())
    all_of_them = Filter.of_ids(index.store, within=index.store.photo_ids)
    assert index.settings(SearchSpec(), all_of_them) == (2, 40)


def test_many_neighbours_are_found_by_settings_tuned_for_ten(index: Index) -> None:
    rows = np.asarray(index.store.layer("x")[:40])
    for k in (100, 500, 1400):
        found = index.search(rows, SearchSpec(k=k))
        exact = index.search(rows, SearchSpec(k=k, recall=1))
        assert (found.photo_ids >= 0).all()
        assert (found.scores >= exact.scores[:, -1:] - 1e-6).mean() > 0.9
    probes, rerank = index.settings(SearchSpec(k=500))
    assert 2 * rerank <= probes * 1500 / 16 or probes == 16


def test_lists_that_hold_too_few_are_not_all_that_is_searched(index: Index) -> None:
    """Unless so many lists were asked for."""
    rows = np.asarray(index.store.layer("x")[:40])
    assert (index.search(rows, SearchSpec(k=10, recall=0.9)).photo_ids >= 0).all()
    sparse = index.search(rows, SearchSpec(k=300, probes=1, rerank=300))
    assert (sparse.photo_ids < 0).any()
    wider = Visit(count=300, probes=1, most=16)
    reduced = index.reduction.apply(rows, index.kernels)  # type: ignore[union-attr]
    assert ((enough_candidates(index.shards, reduced, wider, 300) >= 0).sum(axis=1) == 300).all()


def test_all_of_a_recall_is_exact_search(index: Index) -> None:
    rows = np.asarray(index.store.layer("x")[:20])
    exact = index.search(rows, SearchSpec(probes=16, rerank=1500))
    np.testing.assert_array_equal(index.search(rows, SearchSpec(recall=1)).photo_ids, exact.photo_ids)


def test_an_index_that_was_never_tuned_names_the_command(index: Index, store: Store) -> None:
    path = index.path
    write_index_manifest(path, index.manifest.model_copy(update={"tuned": None}))
    untuned = Index.open(path, device=CPU, store=store)
    with pytest.raises(InputError, match=rf"Measure it: mirsearch tune {store.path} --layer x --recall 0\.98$"):
        untuned.search(np.asarray(store.layer("x")[:1]), SearchSpec(recall=0.98))


def test_what_was_measured_holds_up_to_twice_the_rows() -> None:
    assert TUNED.grown(1000, 2000) == TUNED.model_copy(update={"rows": 1000})
    assert TUNED.grown(1000, 2001) is None
    again = TUNED.model_copy(update={"rows": 600}).grown(1000, 1200)  # grown before: the rows of the measurement count
    assert again is not None and again.rows == 600
    assert again.grown(1200, 1201) is None


@pytest.mark.parametrize("values", [{"probes": 4}, {"rerank": 40}])
def test_a_recall_beside_what_it_stands_for_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="choose one"):
        SearchSpec(recall=0.9, **values)


def test_what_was_tuned_is_read_back_and_checked(index: Index) -> None:
    assert read_index_manifest(index.path).tuned == TUNED
    assert verify_index(index.path).damage == []
    bad = index.manifest.model_copy(update={"tuned": TUNED.model_copy(update={"chosen": 9})})
    write_index_manifest(index.path, bad)
    with pytest.raises(IndexUnusableError, match="point 9 of 5 is chosen"):
        read_index_manifest(index.path)
    write_index_manifest(index.path, index.manifest)


def test_an_index_of_the_version_before_opens(index: Index, store: Store) -> None:
    old = index.manifest.model_dump(mode="json")
    del old["tuned"]
    from engine.store.manifest import write_document

    write_document(index.path / "index.json", old | {"version": 1})
    opened = Index.open(index.path, device=CPU, store=store)
    assert (opened.manifest.version, opened.manifest.tuned) == (1, None)
    assert FORMAT_VERSION > 1


@pytest.mark.parametrize("refine", ["uint8", "float16", "none"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_size_of_an_index_is_known_before_it_is_built(tmp_path: Path, refine: str, bits: int) -> None:
    store = make_store(tmp_path / "store", {"x": clustered(3000, 64, seed=1)})
    spec = IndexSpec(layer="x", refine=refine, pq_bits=bits, reduced=32, pq_m=16, lists=32, rows_per_shard=2000)
    parts = build_index(store, spec, device=CPU).manifest.parts
    spec = spec.resolved(rows=3000, dim=64, device="cpu")
    found = index_bytes(spec, rows=3000, dim=64)
    measured = {
        "axes": parts["axes.npy"].bytes,
        "shards": sum(part.bytes for file, part in parts.items() if file.endswith(".faiss")),
        "sketch": parts["sketch.npy"].bytes + parts["sketch_scale.npy"].bytes,
    }
    if refine != "none":
        measured["refine"] = parts["refine.npy"].bytes + parts["refine_scale.npy"].bytes
    assert found == pytest.approx(measured, rel=0.05)
    assert {name: found[name] for name in found if name != "shards"} == {
        name: size for name, size in measured.items() if name != "shards"
    }
    assert total_bytes(spec, rows=3000, dim=64) == sum(found.values())
