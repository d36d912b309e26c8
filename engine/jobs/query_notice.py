"""What to say of queries that were imported with a layer: what they are, and why a benchmark does not use them."""

from engine.store.manifest import Manifest
from engine.words import counted


def imported_queries(manifest: Manifest, layer: str) -> str:
    """How many queries came with a layer, with what; "" where none did."""
    known = manifest.query_sets.get(layer)
    if known is None:
        return ""
    queries, neighbours = counted(known.count, "query", "queries"), counted(known.k, "neighbour")
    changed = "" if known.state == manifest.state and not manifest.removed else "; the photos are others since"
    return f"{queries} imported with layer {layer}, {neighbours} of each by {known.metric}{changed}"


def unused_queries(manifest: Manifest, layer: str, metric: str) -> str:
    """Why an index of this metric over a layer is not asked the queries that were imported with it; "" if it is, or
    if none were.
    """
    known = manifest.query_sets.get(layer)
    if known is None or known.metric == metric:
        return ""
    queries = counted(known.count, "imported query", "imported queries")
    verb = "is" if known.count == 1 else "are"
    return (
        f"The {queries} of layer {layer} {verb} for {known.metric}, this index is for {metric}: not used. "
        f"`mirsearch build --layer {layer} --metric {known.metric}` makes an index that they fit."
    )
