"""`query`: the neighbours of photos, files or vectors."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import Reporter, err, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DatOption,
    DeviceOption,
    ExactOption,
    IdsFileOption,
    ImagesOption,
    JsonOption,
    LayerOption,
    NameOption,
    PhotoOption,
    ProbesOption,
    RerankOption,
    StoreArgument,
    WeightsOption,
    index_folder,
    make_spec,
    parse_weights,
    settle,
    several_layers,
    wrong_usage,
)
from engine.errors import InputError, StoreError
from engine.words import counted

MOST_NEIGHBORS = 1 << 20

if TYPE_CHECKING:
    from engine.index.filter import Filter
    from engine.index.queries import Questions
    from engine.index.searcher import Searcher
    from engine.store.annotations.fields import PhotoFields
    from engine.store.store import Store
    from kernels import Device, Kernels


@with_gpu_options
def query(
    store: StoreArgument,
    layer: LayerOption = None,
    photo: PhotoOption = None,
    dat: DatOption = None,
    ids_file: IdsFileOption = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="A .npy file of (n, dim) vectors.", show_default=False)
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="Neighbours wanted.", show_default="10; with --min-score all")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="All photos that score at least this.", show_default=False)
    ] = None,
    within: Annotated[
        Path | None,
        typer.Option("--within", help="Only these photos: ids, one a line (or .npy).", show_default=False),
    ] = None,
    without: Annotated[Path | None, typer.Option("--without", help="None of these photos.", show_default=False)] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Only photos whose annotations fit.", show_default=False),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Annotations to show: title,tags,owner,classes.", show_default=False),
    ] = None,
    probes: ProbesOption = None,
    rerank: RerankOption = None,
    recall: Annotated[
        float | None, typer.Option("--recall", help="Recall@10 that is wanted; see `tune`.", show_default=False)
    ] = None,
    exact: ExactOption = False,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self/--include-self", help="Leave a photo out of its own answer.")
    ] = True,
    images: ImagesOption = None,
    json_: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the answers to FILE.parquet.", show_default=False)
    ] = None,
    weights: WeightsOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the nearest photos, best first; scores are of the raw features, higher is better.

    --where is a condition in SQL over the annotations, such as "tags @> 'sunset' and year(taken) = 2009".

    Example: `mirsearch query store --layer fc7 --photo 103169 -k 10`
    """
    from engine.cli import answers
    from engine.index.search import Index
    from engine.index.searcher import Searcher
    from engine.index.spec import SearchSpec
    from engine.store.outside import check_outside
    from engine.store.store import Store
    from kernels import load

    if csv and (json_ or out):
        raise InputError("--csv beside --json or --out: choose one")
    if min_score is not None and not math.isfinite(min_score):
        raise wrong_usage("min_score", f"{min_score}: expected a finite number")
    everything = min_score is not None and k is None
    spec = make_spec(
        SearchSpec,
        k=MOST_NEIGHBORS if everything else 10 if k is None else k,
        probes=probes,
        rerank=rerank,
        recall=recall,
    )
    settled = settle(device, needs_faiss=not exact)
    opened = Store.open(store)
    if out is not None:
        check_outside(opened.path, out)
    fields = _fields(opened, columns, credited=images is not None and out is None)
    among = _filter(opened, within, without, where)
    layers = several_layers(store, layer, name, weights)
    if layers:
        if vectors:
            raise InputError(
                f"--vectors {vectors}: one layer's, and {layer} are several. Use --photo, --dat, --ids-file."
            )
        questions = _of_layers([_questions(opened, one, photo, dat, ids_file, None) for one in layers])
        searcher = fused_searcher(opened, layers, weights, None if exact else settled, load(settled))
    else:
        layer, folder = index_folder(store, layer, name)
        questions = _questions(opened, layer, photo, dat, ids_file, vectors)
        if exact:
            searcher = Searcher.exact(opened, layer, folder, load(settled))
        else:
            searcher = Searcher.of_index(Index.open(folder, device=settled, store=opened))
    with Reporter() as progress:
        stream = searcher.answer(
            questions, spec, exclude_self=exclude_self, within=among, min_score=min_score, progress=progress
        )
        heading = answers.Heading(
            layer=searcher.layer, metric=searcher.metric, device=str(settled), images=images,
            weights=searcher.fused.weights if searcher.fused else None, fields=fields,
            where=(where, among.count) if where is not None and among else None,
        )  # fmt: skip
        if out is not None:
            answers.write_parquet(stream, heading, out, as_json=json_)
        elif json_:
            answers.print_json(stream, heading)
        elif csv:
            answers.print_csv(stream, heading)
        else:
            answers.print_tables(stream, heading)


def fused_searcher(
    store: "Store", layers: list[str], weights: str | None, device: "Device | None", kernels: "Kernels"
) -> "Searcher":
    """Several layers in one search: through their indices on a device, or (None) by comparing every photo."""
    from engine.index.fused import FusedIndex, one_metric
    from engine.index.searcher import Searcher

    shares = None if weights is None else parse_weights(weights)
    if device is not None:
        return Searcher.of_fused(FusedIndex.open(store, layers, shares, device=device))
    metrics = {one: Searcher.exact(store, one, store.path / "indices" / one, kernels).metric for one in layers}
    return Searcher.of_fused(FusedIndex.exact(store, layers, shares, one_metric(metrics), kernels))


def _of_layers(asked: "list[list[Questions]]") -> "list[Questions]":
    """The questions of each layer as questions of all of them."""
    from engine.index.fused import joined

    return [joined(parts) for parts in zip(*asked, strict=True)]


def _filter(store: "Store", within: Path | None, without: Path | None, where: str | None) -> "Filter | None":
    from engine.index.filter import Filter
    from engine.index.queries import read_ids
    from engine.store.annotations.sql import rows_where

    if within is None and without is None and where is None:
        return None
    made = Filter.of_ids(
        store, within=read_ids(within) if within else None, without=read_ids(without) if without else None,
        where=None if where is None else rows_where(store, where),
    )  # fmt: skip
    if made.unknown:
        err.print(
            f"Passed over, since {store.path} does not have them: {counted(made.unknown, 'photo id')} of the filter."
        )
    if where is not None:
        err.print(f"Searched among {made.count:,} of {counted(store.photos, 'photo')}.")
    return made


def _fields(store: "Store", columns: str | None, *, credited: bool) -> "PhotoFields | None":
    """What is said of each photo; credited: whose it is too, where that is known, since pictures are shown."""
    from engine.store.annotations.fields import ATTRIBUTION, PhotoFields
    from engine.store.annotations.table import Annotations

    names = [] if columns is None else [name.strip().lower() for name in columns.split(",") if name.strip()]
    if columns is not None and not names:
        raise wrong_usage("columns", f"{columns!r}: expected names such as title,tags,owner")
    asked = PhotoFields.open(store, names) if names else None
    asked = asked if asked and asked.names else None  # photo_id alone adds nothing
    if not credited or ATTRIBUTION in names or not Annotations.exists(store):
        return asked
    try:
        return PhotoFields.open(store, [*names, ATTRIBUTION])
    except StoreError as error:  # the pictures were asked for, the annotations were not
        warn(f"No owners or licences are shown. {error}")
        return asked


def _questions(
    store: "Store",
    layer: str,
    photo: list[int] | None,
    dat: list[Path] | None,
    ids_file: Path | None,
    vectors: Path | None,
) -> "list[Questions]":
    from engine.index.queries import dat_questions, photo_questions, read_ids, vector_questions

    asked = []
    if photo:
        asked.append(photo_questions(store, layer, photo))
    if ids_file:
        asked.append(photo_questions(store, layer, read_ids(ids_file)))
    if dat:
        asked.append(dat_questions(layer, dat))
    if vectors:
        asked.append(vector_questions(layer, vectors, store.layer(layer).shape[1]))
    if not asked:
        raise InputError("nothing to look for: give --photo ID, --dat FILE, --ids-file FILE or --vectors FILE")
    return asked
