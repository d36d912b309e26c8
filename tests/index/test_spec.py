"""Specifications: every size of store resolves to something that can be built, and nonsense is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import InputError
from engine.index.spec import (
    EXACT_BELOW,
    IndexSpec,
    SearchSpec,
    default_lists,
    default_probes,
    default_rerank,
)

SIZES = [1, 2, 15, 16, 40, 999, 1000, 1001, 5_000, 100_000, 1_000_000, 10_000_000]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dim", [1000, 4096])
@pytest.mark.parametrize("rows", SIZES)
def test_defaults_of_every_size_can_be_built(rows, dim, device):
    spec = IndexSpec(layer="fc7").resolved(rows=rows, dim=dim, device=device)
    assert None not in spec.model_dump().values()
    assert spec.reduced == 256
    assert spec.pq_m is not None and spec.reduced % spec.pq_m == 0
    assert (spec.pq_bits, spec.pq_m) == ((4, 128) if device == "cpu" else (8, 64))
    assert spec.training_rows is not None and 1 <= spec.training_rows <= rows
    if rows < EXACT_BELOW:
        assert spec.lists == 0
    else:
        assert spec.lists is not None and 1 <= spec.lists <= rows // 40
        assert spec.training_rows >= min(rows, 40 * spec.lists)
        assert spec.training_rows >= 1 << (spec.pq_bits or 0)


@given(
    rows=st.integers(1, 10**7),
    dim=st.integers(1, 5000),
    device=st.sampled_from(["cpu", "cuda"]),
    reduced=st.none() | st.integers(1, 5000),
    lists=st.none() | st.integers(0, 1 << 20),
)
def test_what_is_given_partly_still_fits_together(rows, dim, device, reduced, lists):
    spec = IndexSpec(layer="x", reduced=reduced, lists=lists).resolved(rows=rows, dim=dim, device=device)
    assert spec.reduced is not None and spec.pq_m is not None and spec.lists is not None and spec.training_rows
    assert 1 <= spec.reduced <= dim
    assert spec.reduced % spec.pq_m == 0
    assert spec.lists <= max(rows // 40, 1)
    assert (spec.lists == 0) == (lists == 0 or (lists is None and (rows < EXACT_BELOW or dim < 8)))
    assert spec.resolved(rows=rows, dim=dim, device=device) == spec


def test_codes_that_do_not_divide_the_dimensions_are_refused_before_any_work():
    with pytest.raises(ValidationError, match="pq_m 7 does not divide the 256 reduced dimensions"):
        IndexSpec(layer="fc7", reduced=256, pq_m=7)
    with pytest.raises(InputError, match="pq_m 7 does not divide the 256 reduced dimensions of fc7"):
        IndexSpec(layer="fc7", pq_m=7).resolved(rows=5000, dim=4096, device="cpu")


@pytest.mark.parametrize("wrong", [
    {"metric": "euclid"}, {"reduced": 0}, {"reduced": -8}, {"lists": -1}, {"pq_m": 0}, {"pq_bits": 5}, {"pq_bits": 16},
    {"refine": "int4"}, {"rows_per_shard": 999}, {"training_rows": 0}, {"seed": -1}, {"seed": 1 << 31}, {"nlist": 3},
])  # fmt: skip
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValidationError):
        IndexSpec.model_validate({"layer": "fc7", **wrong})


@pytest.mark.parametrize("wrong", [{"k": 0}, {"k": -1}, {"probes": 0}, {"rerank": 0}, {"k": 10, "rerank": 9}, {"n": 1}])
def test_a_search_of_nonsense_is_refused(wrong):
    with pytest.raises(ValidationError):
        SearchSpec.model_validate(wrong)


def test_specifications_cannot_be_changed():
    with pytest.raises(ValidationError):
        IndexSpec(layer="fc7").seed = 3  # type: ignore[misc]


@given(st.integers(1, 10**8))
def test_lists_are_a_power_of_two_near_four_roots(rows):
    lists = default_lists(rows)
    assert lists & (lists - 1) == 0
    assert lists <= 4 * math.sqrt(rows) * math.sqrt(2) + 1
    assert lists <= max(rows / 40 * math.sqrt(2), 1)


@given(st.integers(1, 1 << 20), st.sampled_from(["cosine", "ip", "l2"]), st.integers(1, 5000), st.integers(1, 10**7))
def test_recommended_settings_are_legal(lists, metric, k, rows):
    assert 1 <= default_probes(lists, metric) <= lists
    for metric in ("cosine", "ip", "l2"):
        assert min(k, rows, 1) <= default_rerank(k, rows, metric) <= rows
        assert default_rerank(k, rows, metric) >= min(k, rows)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"training_rows": 1, "pq_bits": 4}, r"^--training-rows 1: expected at least 64, one a list$"),
        ({"training_rows": 100, "pq_bits": 8}, "100: expected at least 256, one for each value of the 8-bit codes"),
    ],
)
def test_too_few_rows_to_learn_from_are_refused(given: dict[str, int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        IndexSpec.model_validate({"layer": "a", "lists": 64, **given}).resolved(rows=2600, dim=64, device="cpu")


def test_it_is_said_what_was_cut() -> None:
    asked = IndexSpec(layer="a", lists=5000, reduced=2000)
    built = asked.resolved(rows=2200, dim=1000, device="cpu")
    assert asked.cut(built, 2200, 1000) == [
        "--reduced 2000: a has 1,000 dimensions, and all are kept.",
        "--lists 5000: 2,200 photos are kept in 55 lists, of 40 photos at least.",
    ]
    fits = IndexSpec(layer="a", lists=55, reduced=1000)
    assert fits.cut(fits.resolved(rows=2200, dim=1000, device="cpu"), 2200, 1000) == []
