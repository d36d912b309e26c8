"""`graph`: the nearest neighbours of every photo of a store."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.console import Reporter, TimeLeft, say_facts, say_json, size
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    ExactOption,
    JsonOption,
    LayerOption,
    NameOption,
    ProbesOption,
    RerankOption,
    StoreArgument,
    device_facts,
    index_folder,
    make_spec,
    settle,
)
from engine.words import counted


@with_gpu_options
def graph(
    store: StoreArgument,
    out: Annotated[
        Path,
        typer.Option("--out", help="Folder of the answers, or FILE.npy or FILE.parquet.", show_default=False),
    ],
    layer: LayerOption = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each photo.")] = 32,
    probes: ProbesOption = None,
    rerank: RerankOption = None,
    exact: ExactOption = False,
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Find the nearest neighbours of every photo of a store: its k-NN graph.

    Interrupted, the same command continues with what is there.

    Example: `mirsearch graph store --layer fc7 -k 32 --out graph`
    """
    from engine.index.search import Index
    from engine.index.searcher import Searcher
    from engine.index.spec import SearchSpec
    from engine.jobs.graph import neighbor_graph
    from engine.store.store import Store
    from kernels import load

    spec = make_spec(SearchSpec, k=k, probes=probes, rerank=rerank)
    settled = settle(device, needs_faiss=not exact)
    opened = Store.open(store)
    layer, folder = index_folder(store, layer, name)
    if exact:
        searcher = Searcher.exact(opened, layer, folder, load(settled))
    else:
        searcher = Searcher.of_index(Index.open(folder, device=settled, store=opened))
    with Reporter() as progress:
        report = neighbor_graph(searcher, spec, out, device=settled.kind, progress=TimeLeft(progress))
    if json_:
        say_json(asdict(report) | {"device": str(settled)})
        return
    rate = f"{(report.photos - report.resumed) / max(report.seconds, 1e-9):,.0f} photos/s"
    facts: list[tuple[str, object]] = [
        ("searched", "exactly" if exact else f"{report.probes:,} lists, {report.rerank:,} candidates"),
        ("neighbours", f"{report.neighbors:,}" + (f", {report.absent:,} absent" if report.absent else "")),
        ("written", f"{size(report.bytes)} in {report.seconds:.1f} s ({rate})"),
        device_facts(settled),
    ]
    if report.reused:
        facts[2] = ("written", f"{size(report.bytes)}, there already")
    elif report.resumed:
        facts.insert(2, ("continued", f"{report.resumed:,} photos were there"))
    of = f"{report.layer}, {report.metric}"
    say_facts(f"The {report.k:,} nearest of {counted(report.photos, 'photo')} in {out}: {of}", facts)
