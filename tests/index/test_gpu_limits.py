"""What GPUs take is checked before anything is trained, and the nearest that fits is named."""

import pytest

from engine.errors import EngineError
from engine.index.gpu_limits import check_search, check_spec
from engine.index.spec import IndexSpec


def spec(reduced: int, m: int, bits: int = 8) -> IndexSpec:
    return IndexSpec.model_construct(layer="fc7", reduced=reduced, pq_m=m, pq_bits=bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reduced", "m", "nearest"), [(256, 128, 64), (248, 62, 8), (31, 31, 1)])
def test_faiss_has_a_table_of_sub_quantizers(reduced, m, nearest):
    with pytest.raises(EngineError, match=rf"--pq-m {m}: IVF-PQ on CUDA takes .*nearest that fits is {nearest}\."):
        check_spec(spec(reduced, m))


@pytest.mark.parametrize(
    ("reduced", "m", "bits", "nearest"), [(256, 100, 8, 128), (250, 25, 4, 10), (30, 3, 6, None), (36, 2, 6, 4)]
)
def test_cuvs_takes_codes_that_fill_bytes(reduced, m, bits, nearest):
    expected = rf"nearest that fits is {nearest}\." if nearest else r"no number of sub-quantizers of 30 dimensions"
    with pytest.raises(EngineError, match=expected):
        check_spec(spec(reduced, m, bits), "cuvs")


@pytest.mark.parametrize(
    ("reduced", "m", "bits"), [(256, 128, 8), (256, 128, 4), (248, 62, 8), (1000, 250, 8), (32, 4, 6)]
)
def test_cuvs_takes_what_faiss_does_not(reduced, m, bits):
    check_spec(spec(reduced, m, bits), "cuvs")
    with pytest.raises(EngineError):
        check_spec(spec(reduced, m, bits), "faiss")


@pytest.mark.parametrize(("library", "bits", "said"), [
    ("faiss", 4, "8-bit codes only.*--bits 8, or --device cpu"), ("cuvs", 3, "4 to 8 bits"), ("cuvs", 9, "4 to 8 bits"),
])  # fmt: skip
def test_bits(library, bits, said):
    with pytest.raises(EngineError, match=f"--bits {bits}: .*{said}"):
        check_spec(spec(256, 64, bits), library)


@pytest.mark.parametrize(("library", "most"), [("faiss", 2048), ("cuvs", 16384)])
def test_candidates_and_lists(library, most):
    assert check_search(most, most, 1 << 20, library) == most
    assert check_search(10, 1 << 20, 100, library) == 100  # never more lists than there are: cuVS would throw
    for count, probes in ((most + 1, 1), (1, most + 1)):
        with pytest.raises(EngineError, match=f"--rerank {count}, --probes {probes}: .* at most {most} of each"):
            check_search(count, probes, 1 << 20, library)
