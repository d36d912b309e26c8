"""Codes of 4 and of 8 bits, in the lists and of the raw rows: after the re-ranking they give the same recall."""

from pathlib import Path

import numpy as np
import pytest

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec, SearchSpec
from engine.store.store import Store
from tests.builders import CPU, Array, clustered, make_store, oracle_scores, recall

ROWS, LISTS = 3000, 32
METRICS = ("cosine", "l2", "ip")
# Fifteen of 3,000 neighbours: what codes that round otherwise may do by chance.
TOLERANCE, FLOOR = 0.005, 0.98
ALL = SearchSpec(k=10, probes=LISTS, rerank=ROWS)
# The lists' codes alone decide which are compared: all lists, twice as many candidates as neighbours.
FEW = SearchSpec(k=10, probes=LISTS, rerank=20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """3,000 rows of 64 dimensions in clusters, half of the values zeros."""
    return make_store(tmp_path_factory.mktemp("parity") / "store", {"fc7": clustered(ROWS, 64, seed=9, relu=True)})


@pytest.fixture(scope="module", params=METRICS)
def pair(store: Store, request: pytest.FixtureRequest) -> tuple[Index, Index]:
    """By 4-bit and by 8-bit codes."""
    return opened(store, request.param, 4), opened(store, request.param, 8)


def opened(store: Store, metric: str, bits: int, refine: str = "uint8") -> Index:
    values = {"layer": "fc7", "metric": metric, "pq_bits": bits, "refine": refine, "reduced": 32, "lists": LISTS}
    name = f"{metric}-{bits}-{refine}"
    path: Path = build_index(store, IndexSpec.model_validate(values), device=CPU, name=name).path
    return Index.open(path, device=CPU, store=store)


def asked(index: Index) -> tuple[Array, Array, Array]:
    """Queries (300, dim), their photo ids, and the ten true scores of each."""
    data, at = np.asarray(index.store.layer("fc7")), np.arange(0, ROWS, 10)
    truth = []
    for row in at:
        scores = oracle_scores(data[row], data, index.manifest.spec.metric)
        scores[row] = -np.inf
        truth.append(np.sort(scores)[::-1][:10])
    return data[at], index.store.photo_ids[at], np.array(truth)


def measured(index: Index, spec: SearchSpec) -> float:
    queries, ids, truth = asked(index)
    return recall(index.search(queries, spec, exclude=ids).scores, truth, tolerance=3e-6)


def test_codes_of_4_and_8_bits_of_as_many_bytes_give_the_same_recall(pair: tuple[Index, Index]) -> None:
    assert [index.manifest.spec.pq_bits for index in pair] == [4, 8]
    assert len({(index.manifest.spec.pq_m or 0) * (index.manifest.spec.pq_bits or 0) for index in pair}) == 1
    four, eight = (measured(index, SearchSpec(k=10)) for index in pair)
    assert min(four, eight) >= FLOOR
    assert abs(four - eight) <= TOLERANCE
    # It is the re-ranking that makes them alike: with few candidates the finer codes find more.
    assert measured(pair[1], FEW) >= measured(pair[0], FEW) + 0.05


def test_with_every_row_a_candidate_they_answer_alike(pair: tuple[Index, Index]) -> None:
    queries, ids, truth = asked(pair[0])
    one, other = (index.search(queries, ALL, exclude=ids) for index in pair)
    assert np.array_equal(one.photo_ids, other.photo_ids) and np.array_equal(one.scores, other.scores)
    np.testing.assert_allclose(one.scores, truth, atol=3e-6 * max(np.abs(truth).max(), 1))
    # One less, and the candidates come from the lists.
    assert [measured(index, ALL.model_copy(update={"rerank": ROWS - 1})) for index in pair] == [1, 1]


@pytest.mark.parametrize("bits", [4, 8])
def test_raw_rows_coded_by_4_bits_and_by_8_give_the_same_recall(store: Store, bits: int) -> None:
    four, eight = opened(store, "cosine", bits, "uint4"), opened(store, "cosine", bits)
    assert four.refine is not None and four.refine.packed == 64 and eight.refine is not None
    assert four.refine.values.nbytes * 2 == eight.refine.values.nbytes
    for spec in (SearchSpec(k=10), SearchSpec(k=10, probes=LISTS, rerank=300)):
        found = measured(four, spec), measured(eight, spec)
        assert min(found) >= FLOOR
        assert abs(found[0] - found[1]) <= TOLERANCE
