"""What IVF-PQ on GPUs takes (FAISS 1.15.1): checked before anything is trained, with the nearest value that fits.

Sources: faiss/gpu/GpuIndexIVFPQ.cu and impl/IVFPQ.cu (FAISS's own), impl/CuvsIVFPQ.cu (cuVS).
"""

from dataclasses import dataclass

from engine.errors import EngineError
from engine.index.spec import GPU_PQ_M, IndexSpec
from kernels.device import GpuLibrary

# Candidates of one search, and as many lists visited.
MOST: dict[GpuLibrary, int] = {"faiss": 2048, "cuvs": 16384}
# FAISS's tables of more sub-quantizers fit a block's shared memory in half precision only.
FLOAT32_TABLES_M = 48
# cuVS keeps codes of a list in groups of 32 rows and 16 bytes, and grows a list by up to 1,024 rows at a time.
_GROUP_ROWS, _GROUP_BYTES, _GROWTH = 32, 16, 1024
_ALIGNED = 256  # bytes that an allocation is rounded up to


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the size of a shard depends on, but for its rows: dimensions, lists, sub-quantizers, bits of each."""

    dim: int
    lists: int
    m: int
    bits: int


def check_spec(spec: IndexSpec, library: GpuLibrary = "faiss") -> None:
    """EngineError for a resolved specification that IVF-PQ of this library cannot hold."""
    dim, m, bits = spec.reduced or 1, spec.pq_m or 1, spec.pq_bits or 8
    if library == "faiss":
        if bits != 8:
            raise EngineError(f"--bits {bits}: IVF-PQ on CUDA has 8-bit codes only. Use --bits 8, or --device cpu.")
        legal = [some for some in GPU_PQ_M if dim % some == 0]
        takes = f"IVF-PQ on CUDA takes {GPU_PQ_M}"
    else:
        if not 4 <= bits <= 8:
            raise EngineError(f"--bits {bits}: IVF-PQ of cuVS has codes of 4 to 8 bits. Use --bits 8.")
        legal = [some for some in range(1, dim + 1) if dim % some == 0 and some * bits % 8 == 0]
        takes = f"IVF-PQ of cuVS takes divisors of {dim} whose {bits}-bit codes fill whole bytes"
    if m in legal:
        return
    if not legal:
        raise EngineError(f"--bits {bits}: no number of sub-quantizers of {dim} dimensions fills bytes. Use --bits 8.")
    nearest = min(legal, key=lambda some: abs(some - m))
    raise EngineError(f"--pq-m {m}: {takes}. The nearest that fits is {nearest}.")


def check_search(count: int, probes: int, lists: int, library: GpuLibrary) -> int:
    """The lists that are visited, no more than there are; EngineError for more of either than the library takes."""
    most, probes = MOST[library], min(probes, lists)
    if count > most or probes > most:
        owner = "CUDA" if library == "faiss" else "CUDA by cuVS"
        raise EngineError(
            f"--rerank {count}, --probes {probes}: IVF-PQ on {owner} takes at most {most} of each. "
            "Lower them, or use --device cpu."
        )
    return probes


def shard_bytes(shape: Shape, rows: int, library: GpuLibrary, *, growing: bool = False) -> int:
    """GPU memory of a shard of so many rows, never less than it takes.

    Codes and ids of each list, the centroids of the lists and what finds them, the tables of the sub-quantizers.
    growing: it is added to, and not copied whole: its lists have room to spare.
    """
    code = -(-shape.m * shape.bits // 8)
    tables = 2 * 4 * shape.dim * (1 << shape.bits) + 4 * 8 * shape.lists + 8 * _ALIGNED
    centroids = 4 * shape.dim * shape.lists
    if library == "cuvs":
        row = _GROUP_BYTES * -(-code // _GROUP_BYTES) + 8
        spare = _GROWTH if growing else _GROUP_ROWS
        return (rows + spare * shape.lists) * row + 3 * centroids + 2 * _ALIGNED * shape.lists + tables
    lists = rows * (code + 8) * (2 if growing else 1) + 2 * _ALIGNED * shape.lists
    return lists + centroids + 4 * shape.lists + tables
