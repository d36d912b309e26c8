"""`bench`: how good an index is."""

import errno
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, say_table, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    JsonOption,
    LayerOption,
    NameOption,
    StoreArgument,
    chosen,
    device_facts,
    index_folder,
    make_spec,
    settle,
    wrong_usage,
)
from engine.errors import InputError


def numbers_of(text: str | None, option: str) -> tuple[int, ...] | None:
    """The numbers of `16,32,64`; wrong usage of the option where they are none."""
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise wrong_usage(option, f"{text!r}: expected numbers such as 16,32,64") from None
    if min(numbers) < 1:
        raise wrong_usage(option, f"{text!r}: expected numbers of at least 1")
    return numbers


@with_gpu_options
def bench(
    store: StoreArgument,
    layer: LayerOption = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", min=1, help="How many queries.", show_default="1,000 photos, or all imported ones"),
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Hold photos out even if queries were imported.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of the timed searches.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of queries.")] = 0,
    probes: Annotated[str | None, typer.Option("--probes", help="Grid, such as 16,32,64.", show_default=False)] = None,
    rerank: Annotated[str | None, typer.Option("--rerank", help="Grid, such as 100,300.", show_default=False)] = None,
    recall: Annotated[
        float | None, typer.Option("--recall", help="Instead of a grid: see `tune`.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed repeats of each point.")] = 3,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of bench.json and the plots.", show_default="STORE/bench/NAME")
    ] = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Measure recall, throughput and latency of an index against exact search.

    Example: `mirsearch bench store --layer fc7 --probes 16,32,64,128`
    """
    from engine.index.search import Index
    from engine.jobs.bench import BenchSpec, run_bench, write_bench
    from engine.store.outside import check_outside

    grid = {"probes": numbers_of(probes, "probes"), "rerank": numbers_of(rerank, "rerank")}
    spec = make_spec(
        BenchSpec, queries=queries, own_queries=held_out, k=k, seed=seed, repeats=repeats, recall=recall, **grid
    )
    layer, index_path = index_folder(store, layer, name)
    index = Index.open(index_path, device=settle(device))
    folder = out or store / "bench" / index.path.name
    check_outside(store, folder, but=store / "bench")
    make_folder(folder)
    with Reporter() as progress:
        report = run_bench(index, spec, progress)
    files = write_bench(report, folder)
    document: dict[str, Any] = report.to_dict() | {"files": {key: str(path) for key, path in files.items()}}
    if json_:
        say_json(document)
        return
    say_facts(f"Index {index.path.name} of {store}: {layer}, {index.manifest.spec.metric}", [
        device_facts(index.device),
        ("queries", report.asked),
    ])  # fmt: skip
    for warning in report.warnings:
        warn(warning)
    say_table(BENCH_COLUMNS, [bench_row(point) for point in document["points"]])
    say_facts("Written", list(files.items()))
    say_next(["dedup", store, *chosen(layer, name), "--out", "duplicates"])


def make_folder(folder: Path) -> None:
    """Make the folder of a benchmark, and see that it can be written to: before an hour is spent on measuring."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: is a file, expected a folder. Give another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}), and the results go there. Give another folder with --out."
        ) from None


BENCH_COLUMNS = [
    "",
    "probes",
    "rerank",
    "recall@1",
    "recall@10",
    "recall@100",
    "queries/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
]


def bench_row(point: dict[str, Any]) -> list[object]:
    """One point of a benchmark's document as cells of `BENCH_COLUMNS`."""
    name = "exact" if point["kind"] == "exact" else "default" if point["default"] else ""

    def cell(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    latency = point["latency_ms"] or {}
    return [
        name + (" *" if point["pareto"] else ""),
        cell(point["probes"], ",d"),
        cell(point["rerank"], ",d"),
        *(cell(point["recall"].get(k), ".4f") for k in ("1", "10", "100")),
        cell(point["qps"]["median"], ",.0f"),
        *(cell(latency.get(percentile), ".2f") for percentile in ("p50", "p95", "p99")),
    ]
