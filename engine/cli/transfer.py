"""`import` and `export`: vectors of any kind, in the formats of the field."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, size, warn
from engine.cli.options import DeviceOption, JsonOption, StoreArgument, device_facts, known_layer, settle
from engine.errors import InputError
from engine.words import counted


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Vectors: .npy .npz .fvecs .bvecs .ivecs .fbin .f16bin .u8bin .i8bin .ibin .parquet .hdf5",
            show_default=False,
        ),
    ],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.", show_default=False)],
    layer: Annotated[str, typer.Option("--layer", "-l", help="Name of the layer.", show_default=False)],
    ids: Annotated[
        Path | None,
        typer.Option("--ids", help="Photo id of each row: .npy, .txt or .ivecs.", show_default="0, 1, …"),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Array of a .npz or .hdf5 file.", show_default="train, or the only one")
    ] = None,
    column: Annotated[
        str | None, typer.Option("--column", help="Column of a Parquet file.", show_default="the only one of lists")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Its column of photo ids.", show_default="0, 1, …")
    ] = None,
    lossy: Annotated[bool, typer.Option("--lossy", help="Round float64 to float32.")] = False,
    append: Annotated[bool, typer.Option("--append", help="Add the rows to a store that is there.")] = False,
    json_: JsonOption = False,
) -> None:
    """Make a store from a file of vectors, or add such a file to one.

    From an ann-benchmarks HDF5 file, the queries and their ground truth come along.

    Example: `mirsearch import sift-128-euclidean.hdf5 --store sift --layer sift`
    """
    from engine.jobs.import_vectors import ImportSpec, import_vectors

    spec = ImportSpec(
        file=file, layer=layer, ids=ids, id_column=id_column, key=key, column=column, lossy=lossy, append=append
    )
    with Reporter() as progress:
        report = import_vectors(spec, store, progress=progress)
    for warning in report.warnings:
        warn(warning)
    if json_:
        say_json(asdict(report))
        return
    taken = size(report.rows * report.dim * 4)
    say_facts(
        f"{counted(report.photos, 'photo')} in {store}",
        [
            ("read", f"{report.rows:,} × {report.dim:,} × {report.dtype} in {report.seconds:.1f} s"),
            ("layer", f"{report.layer}, {taken} of float32"),
            *([("queries", f"{report.queries:,} with their ground truth ({report.truth})")] * bool(report.queries)),
        ],
    )
    metric = ["--metric", report.truth] if report.truth not in ("", "cosine") else []
    asked = [["bench", store, "--layer", layer]] if report.queries else []
    say_next(["build", store, "--layer", layer, *metric], *asked, ["info", store])


def export(
    store: StoreArgument,
    out: Annotated[
        Path, typer.Option("--out", help="File to write; its suffix is the format, as in import.", show_default=False)
    ],
    layer: Annotated[
        str | None, typer.Option("--layer", "-l", help="Layer to write.", show_default="fc7, or the only one")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="`dat`: --out is a folder of .dat files.", show_default="the suffix of --out"),
    ] = None,
    ids: Annotated[
        Path | None, typer.Option("--ids", help="Write the photo ids: .npy, .txt or .ivecs.", show_default=False)
    ] = None,
    query_file: Annotated[
        Path | None, typer.Option("--query-file", help="Write the queries: .fvecs, .fbin, …", show_default=False)
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Write their neighbours, rows of --out: .ivecs.", show_default=False)
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", min=1, help="Photos to hold out as queries.", show_default="the imported, or 1000"),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Neighbours of the truth.", show_default="the imported, or 100")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", help="cosine, ip or l2, of the truth.", show_default="the imported, or cosine"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of queries.")] = 0,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Write a layer in a format of the field; .hdf5 with queries and ground truth, as ann-benchmarks does.

    Removed photos are left out.

    Example: `mirsearch export store --layer fc7 --out fc7.hdf5 --queries 1000`
    """
    if format_ not in (None, "dat"):
        raise InputError(f"--format {format_}: expected dat. Other formats are chosen by the suffix of --out.")
    if metric not in (None, "cosine", "ip", "l2"):
        raise InputError(f"--metric {metric}: expected cosine, ip or l2")
    if format_ == "dat":
        asked = {"--layer": layer, "--ids": ids, "--query-file": query_file, "--truth": truth, "--queries": queries,
                 "-k": k, "--metric": metric}  # fmt: skip
        given = [option for option, value in asked.items() if value is not None]
        if given:
            raise InputError(f"{given[0]} beside --format dat: .dat files hold both layers and nothing else")
        _export_dat(store, out, json_)
        return
    from engine.jobs.export import ExportSpec
    from engine.jobs.export import export as export_layer
    from engine.store.store import Store

    opened = Store.open(store)
    spec = ExportSpec(
        layer=known_layer(store, layer), out=out, ids=ids, query_file=query_file, truth=truth, queries=queries, k=k,
        metric=cast(Any, metric), seed=seed,
    )  # fmt: skip
    settled = settle(device, needs_faiss=False) if spec.wants_questions else None
    with Reporter() as progress:
        report = export_layer(opened, spec, device=settled, progress=progress)
    if json_:
        say_json(asdict(report) | {"device": str(settled) if settled else None})
        return
    facts: list[tuple[str, object]] = [
        ("vectors", f"{report.rows:,} × {report.dim:,} of layer {report.layer}"),
        ("written", f"{size(report.bytes)} in {report.seconds:.1f} s"),
    ]
    if settled:
        facts.append(("queries", f"{report.queries:,}, {report.source}"))
        facts.append(("truth", f"{report.k:,} neighbours, {report.metric}"))
        facts.append(device_facts(settled))
    say_facts(", ".join(map(str, report.files)), facts)


def _export_dat(store: Path, out: Path, json_: bool) -> None:
    from engine.jobs.export_dat import export_dat
    from engine.store.store import Store

    with Reporter() as progress:
        report = export_dat(Store.open(store), out, progress=progress)
    if json_:
        say_json(asdict(report))
        return
    rate = f"{report.files / max(report.seconds, 1e-9):,.0f} files/s"
    say_facts(
        f"{counted(report.files, 'photo')} in {out}",
        [("written", f"{size(report.bytes)} in {report.seconds:.1f} s ({rate})")],
    )
    say_next(["ingest", out, "--store", "store"])
