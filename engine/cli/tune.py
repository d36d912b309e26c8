"""`tune` and `estimate`: which settings reach what is wanted, and what things will take before they are done."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, say_table, size, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    JsonOption,
    LayerOption,
    StoreArgument,
    chosen,
    device_facts,
    index_folder,
    known_layer,
    make_spec,
    parse_size,
    settle,
)
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.jobs.tune import TuneReport


@with_gpu_options
def tune(
    store: StoreArgument,
    layer: LayerOption = None,
    recall: Annotated[
        float | None,
        typer.Option("--recall", help="Recall@10 to reach, as fast as possible.", show_default="0.95"),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", help="Most that 99 of 100 single queries take.", show_default=False),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Most that the index takes, such as 500MB.", show_default=False)
    ] = None,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Photos held out as queries.")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of their choice.")] = 0,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often the good settings are timed.")] = 3,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build an index anew that is too large.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the index, if not its layer's.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Find the settings of an index that reach a recall, a latency or a size, by measuring, and keep them in it.

    Example: `mirsearch tune store --layer fc7 --recall 0.98`
    """
    from engine.jobs.tune import TuneSpec, run_tune
    from engine.store.store import Store

    limit = None if memory is None else parse_size(memory, "memory")
    if rebuild and limit is None:
        raise InputError("--rebuild: for an index that is larger than --memory, which says how large it may be")
    spec = make_spec(
        TuneSpec, recall=recall, latency_ms=latency_ms, memory=limit, queries=queries, seed=seed, rounds=rounds,
        rebuild=rebuild,
    )  # fmt: skip
    settled = settle(device)
    if name and (store / "indices" / name).exists():
        layer, _ = index_folder(store, layer, name)
    else:
        layer = known_layer(store, layer)
    with Reporter() as progress:
        report = run_tune(Store.open(store), layer, spec, name=name, device=settled, progress=progress)
    if report.tuned.queries < queries:
        there = f"there are {report.tuned.queries:,} photos to hold out"
        warn(f"--queries {queries:,}: {there}, and all of them are asked.")
    if json_:
        say_json(report.to_dict() | {"device": str(settled)})
    else:
        _say(report, store, device_facts(settled))
    if report.missed:
        warn(report.missed)
        raise typer.Exit(3)


def _say(report: "TuneReport", store: Path, device: tuple[str, object]) -> None:
    tuned, best = report.tuned, report.tuned.default
    spec = report.manifest.spec
    kind = f"{spec.reduced} dimensions, refine {spec.refine}, {size(report.size)}" + ", built now" * report.built
    rows = [
        [
            ("chosen" if point is best else "") + (" *" if point.pareto else ""),
            f"{point.probes:,}", f"{point.rerank:,}", f"{point.recall:.4f}", f"{point.least:.4f}", f"{point.qps:,.0f}",
            f"{point.p50_ms:.2f}", f"{point.p99_ms:.2f}",
        ]
        for point in sorted(tuned.points, key=lambda point: -point.qps)
        if point.p50_ms is not None and point.p99_ms is not None
    ]  # fmt: skip
    say_facts(
        f"Index {report.path.name} tuned: {len(tuned.points):,} settings tried, {len(rows):,} timed",
        [
            ("index", kind),
            ("queries", f"{tuned.queries:,} photos held out, seed {tuned.seed}"),
            ("chosen", f"{best.options}: recall@10 {best.recall:.4f}, {best.qps:,.0f} queries/s"),
            device,
        ],
    )
    say_table(["", "probes", "rerank", "recall@10", "at least", "queries/s", "p50 ms", "p99 ms"], rows)
    which = chosen(spec.layer, report.path.name)
    reach = f"{int(best.least * 1000) / 1000:g}"
    say_next(["query", store, *which, "--recall", reach, "--photo", "ID"], ["bench", store, *which])


def estimate(
    store: Annotated[
        Path | None, typer.Argument(metavar="STORE", help="Folder of a store.", show_default=False)
    ] = None,
    photos: Annotated[int | None, typer.Option("--photos", "-n", min=1, help="Instead of a store: so many.")] = None,
    layers: Annotated[str | None, typer.Option("--layers", help="Such as fc7,fc8.", show_default="all")] = None,
    json_: JsonOption = False,
) -> None:
    """Say what disk, memory and time a collection will take, before any work is done.

    Example: `mirsearch estimate --photos 1000000`
    """
    from engine.jobs.calibrate import calibrate
    from engine.jobs.estimate import collection, where
    from engine.jobs.estimate import estimate as figures_of
    from engine.store.store import Store

    opened = None if store is None else Store.open(store)
    wanted = tuple(name.strip() for name in layers.split(",")) if layers else ()
    count, dims = collection(opened, photos, wanted)
    folder = where(store)
    machine = calibrate(folder)
    figures = figures_of(count, dims, machine)
    if json_:
        from dataclasses import asdict

        document = {"photos": count, "layers": dims, "machine": asdict(machine)}
        say_json(document | {"figures": [figure.to_dict() for figure in figures]})
        return
    for group in dict.fromkeys(figure.group for figure in figures):
        rows = [
            (
                figure.name,
                f"{f'{figure.value:,.1f} s' if group == 'time' else size(figure.value):>10}  {figure.made_of}",
            )
            for figure in figures
            if figure.group == group
        ]
        say_facts(f"{group[0].upper()}{group[1:]}, for {count:,} photos", rows)
    say_facts(
        f"Measured of this machine in {machine.seconds:.1f} s",
        [
            ("products", f"{machine.flops / 1e9:,.0f} GFLOP/s"),
            (
                "disk",
                f"{size(machine.write)}/s written and flushed"
                + ("" if folder == (store or Path()) else f", in {folder}"),
            ),
            ("memory", f"{size(machine.copy)}/s copied"),
        ],
    )
