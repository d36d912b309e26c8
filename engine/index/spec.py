"""What an index is made of, and what a search is: the two specifications that a user can set."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from engine.errors import InputError
from engine.words import counted
from kernels import Metric

MAX_REDUCED = 256
# What classic GPU IVF-PQ takes (faiss/gpu/GpuIndexIVFPQ.cu, 1.15.1): sub-quantizers; the most lists visited.
GPU_PQ_M = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
GPU_MAX_PROBES = 2048
# Below this, comparing with every row takes less than a millisecond: no lists, no codes, no training.
EXACT_BELOW = 1_000
ROWS_A_LIST = 40


class IndexSpec(BaseModel):
    """How an index over one layer is built. What is None is chosen from the number of rows; see `resolved`.

    metric: cosine, ip (inner product) or l2. reduced: dimensions kept by the PCA. lists: cells of the coarse
    quantizer; 0 means no quantizers, every row a candidate. pq_m × pq_bits: sub-quantizers and bits of each.
    refine: the codes of the raw rows that re-rank (`none`: the raw rows alone). training_rows: rows that the PCA
    and the quantizers learn from. seed: of their choice and of k-means.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    layer: str
    metric: Metric = "cosine"
    reduced: Annotated[int, Field(ge=1)] | None = None
    lists: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    pq_m: Annotated[int, Field(ge=1)] | None = None
    pq_bits: Literal[4, 8] | None = None
    refine: Literal["uint8", "uint4", "float16", "none"] = "uint4"
    rows_per_shard: Annotated[int, Field(ge=1_000)] = 1_000_000
    training_rows: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.reduced and self.pq_m and self.reduced % self.pq_m:
            raise ValueError(f"pq_m {self.pq_m} does not divide the {self.reduced} reduced dimensions")
        return self

    def is_met_by(self, built: "IndexSpec") -> bool:
        """Whether an index has all that was asked for here; None, and what was not given, asks for nothing."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return all(value is None or value == getattr(built, name) for name, value in given.items())

    def resolved(self, *, rows: int, dim: int, device: str) -> "IndexSpec":
        """The same specification with every None chosen for `rows` rows of `dim` dimensions, built on cpu or cuda.

        4-bit codes (FastScan) on the CPU, 8-bit ones of the same size on CUDA, where classic IVF-PQ knows no other.
        """
        tiny = rows < EXACT_BELOW or dim < 8
        lists = self.lists if self.lists is not None else 0 if tiny else default_lists(rows)
        reduced = min(self.reduced or min(MAX_REDUCED, dim - dim % 8 or dim), dim)
        bits = self.pq_bits or (4 if device == "cpu" else 8)
        pq_m = self.pq_m or default_pq_m(reduced, bits)
        if reduced % pq_m:
            raise InputError(f"pq_m {pq_m} does not divide the {reduced} reduced dimensions of {self.layer}")
        training_rows = min(rows, self.training_rows or default_training_rows(lists))
        lists = min(lists, max(rows // ROWS_A_LIST, 1)) if lists else 0
        if lists and self.training_rows:
            _check_enough(self.training_rows, rows, lists, bits)
        chosen = {"reduced": reduced, "lists": lists, "pq_m": pq_m, "pq_bits": bits, "training_rows": training_rows}
        return self.model_copy(update=chosen)

    def cut(self, built: "IndexSpec", photos: int, dim: int) -> list[str]:
        """What an index over so many photos of `dim` dimensions has less of than was asked for here, in sentences."""
        said = []
        if self.reduced and built.reduced and built.reduced < self.reduced:
            said.append(f"--reduced {self.reduced}: {built.layer} has {dim:,} dimensions, and all are kept.")
        if self.lists and built.lists and built.lists < self.lists:
            said.append(
                f"--lists {self.lists}: {photos:,} photos are kept in {counted(built.lists, 'list')}, of "
                f"{ROWS_A_LIST} photos at least."
            )
        return said


def _check_enough(training_rows: int, rows: int, lists: int, bits: int) -> None:
    """InputError where k-means is given fewer rows than centroids, of lists or codes, and there are more."""
    least, why = max((lists, "one a list"), (1 << bits, f"one for each value of the {bits}-bit codes"))
    if training_rows < min(least, rows):
        raise InputError(f"--training-rows {training_rows}: expected at least {least:,}, {why}")


def default_pq_m(reduced: int, bits: int) -> int:
    """Two dimensions for each 4-bit code, four for each 8-bit one, as near as the dimensions divide.

    8-bit codes only of a number of sub-quantizers that CUDA takes too, so that the index opens on both devices.
    """
    most = max(reduced // (2 if bits == 4 else 4), 1)
    return max(m for m in (range(1, most + 1) if bits == 4 else GPU_PQ_M) if m <= most and reduced % m == 0)


def default_lists(rows: int) -> int:
    """The power of two nearest to 4√n, with at least 40 rows a list."""
    wanted = max(min(4 * math.sqrt(rows), rows / 40), 1)
    return 1 << round(math.log2(wanted))


def default_training_rows(lists: int) -> int:
    """64 rows for each list, and at least 20,000 for the covariance."""
    return max(64 * lists, 20_000)


class SearchSpec(BaseModel):
    """How a search is done. What is None is what the index recommends.

    k: neighbours wanted. probes: lists visited. rerank: candidates taken from the lists to be compared again, more
    closely; when it covers all rows, all are compared exactly. recall: instead of these two, the recall@10 that is
    wanted, of an index that was tuned; 1 compares all rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    k: Annotated[int, Field(ge=1, le=1 << 20)] = 10
    probes: Annotated[int, Field(ge=1)] | None = None
    rerank: Annotated[int, Field(ge=1)] | None = None
    recall: Annotated[float, Field(gt=0, le=1)] | None = None

    @field_validator("rerank")
    @classmethod
    def _enough(cls, rerank: int | None, other: ValidationInfo) -> int | None:
        if rerank is not None and rerank < other.data.get("k", 1):
            raise ValueError(f"rerank {rerank} is less than k {other.data['k']}")
        return rerank

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.recall is not None and (self.probes or self.rerank):
            raise ValueError("recall beside probes or rerank: choose one")
        return self


def default_probes(lists: int, metric: Metric) -> int:
    """Lists to visit for a recall@10 of 0.95 with room to spare: see benchmarks/results/defaults.md.

    The largest inner products belong to long rows, whatever their direction, so they lie in many lists.
    """
    return max(1, min(lists, lists // 2 if metric == "ip" else 16 + lists // 32, GPU_MAX_PROBES))


def default_rerank(k: int, rows: int, metric: Metric) -> int:
    """Candidates to take from the lists: see benchmarks/results/defaults.md.

    Of more rows more lie about as near as the true ones: 300 of a million give 0.98, 600 give 0.995. Four bits rank
    inner products worse than distances: the lengths of the rows spread them.
    """
    more = round(6 * math.cbrt(rows))
    wanted = max(1000, 40 * k, 3 * more) if metric == "ip" else max(300, 20 * k, more)
    return min(rows, wanted)
