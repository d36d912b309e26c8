"""`graph`: the nearest neighbours of every photo of a store."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.console import Reporter, err, say_facts, say_json, size
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    JsonOption,
    LayerOption,
    NameOption,
    StoreArgument,
    device_facts,
    index_folder,
    make_spec,
    settle,
)
from engine.progress import Progress
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
    probes: Annotated[int | None, typer.Option("--probes", help="Lists visited.", show_default="the index's")] = None,
    rerank: Annotated[
        int | None, typer.Option("--rerank", help="Candidates compared again.", show_default="the index's")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row; needs no index.")] = False,
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
        report = neighbor_graph(searcher, spec, out, device=settled.kind, progress=_TimeLeft(progress))
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


class _TimeLeft:
    """Progress whose lines in a log say how much time is left, as a bar on a terminal does."""

    def __init__(self, reporter: Progress) -> None:
        self._reporter = reporter
        self._started: dict[str, float] = {}

    def __call__(self, phase: str, done: int, total: int, *, unit: str = "rows", detail: str = "") -> None:
        """See `engine.progress.Progress`."""
        now = time.monotonic()
        passed = now - self._started.setdefault(phase, now)
        if done and total and not err.is_terminal:
            detail = f"{detail}, {_span(passed * (total - done) / done)} left".lstrip(", ")
        self._reporter(phase, done, total, unit=unit, detail=detail)


def _span(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"
