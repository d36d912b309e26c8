"""How large an index will be, by arithmetic on its specification: what `tune --memory` and `estimate` reckon with."""

from engine.index.spec import IndexSpec

HEADER = 128  # bytes of a .npy file before its array
SCALES = 12  # low, step, norm2: float32 for each row of codes
ROW_NUMBER = 8  # in the lists
BLOCK = 32  # FastScan keeps the codes of a list in blocks of so many rows (faiss/IndexFastScan.h, bbs)
REFINE_BITS = {"uint8": 8, "float16": 16, "uint4": 4, "none": 0}


def index_bytes(spec: IndexSpec, *, rows: int, dim: int) -> dict[str, int]:
    """Bytes of each part of an index of `rows` rows of `dim` dimensions: axes, shards, sketch and refine.

    spec: resolved for these rows. The lists' last blocks, which are not full, are counted half.
    """
    if not spec.lists:
        return {}
    reduced, m, bits = spec.reduced or 1, spec.pq_m or 1, spec.pq_bits or 4
    code = m * bits / 8
    shards = -(-rows // spec.rows_per_shard)
    learned = 4 * reduced * (spec.lists + (1 << bits)) + 24 * spec.lists
    padding = spec.lists * code * BLOCK / 2 if bits == 4 else 0
    parts = {
        "axes": 4 * dim * reduced + HEADER,
        "shards": round(rows * (code + ROW_NUMBER) + shards * (learned + padding)),
        "sketch": rows * (reduced + SCALES) + 2 * HEADER,
    }
    if refined := REFINE_BITS[spec.refine]:
        parts["refine"] = rows * (-(-dim * refined // 8) + SCALES) + 2 * HEADER
    return parts


def total_bytes(spec: IndexSpec, *, rows: int, dim: int) -> int:
    """Bytes of the whole index."""
    return sum(index_bytes(spec, rows=rows, dim=dim).values())
