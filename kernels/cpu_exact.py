"""Exact search and self-join on the CPU: `kernels.tiles` in float32 on all cores."""

from kernels import tile_join, tile_nearest
from kernels.contract import ALL_LINES, F32, I64, Blocks, Metric, Nearest
from kernels.threads import in_spans
from kernels.tiles import HostTiles


def nearest_of(queries: F32, blocks: Blocks, metric: Metric, k: int) -> Nearest:
    """The k rows of all blocks that may be nearest to each query; see `kernels.reference.nearest_of`."""
    return tile_nearest.nearest_of(HostTiles(in_spans), queries, blocks, metric, k)


def join(
    blocks: Blocks, threshold: float, metric: Metric, most: int = 1 << 28, lines: tuple[int, int] = ALL_LINES
) -> tuple[I64, F32]:
    """All pairs of rows whose score may reach a threshold; see `kernels.reference.join`."""
    return tile_join.join(HostTiles(in_spans), blocks, threshold, metric, most, lines)
