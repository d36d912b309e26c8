"""`query`: the neighbours of photos, files or vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import Reporter
from engine.cli.options import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    LayerOption,
    NameOption,
    StoreArgument,
    index_folder,
    make_spec,
    settle,
)
from engine.errors import InputError

if TYPE_CHECKING:
    from engine.index.queries import Questions
    from engine.store.store import Store


def query(
    store: StoreArgument,
    layer: LayerOption = None,
    photo: Annotated[
        list[int] | None,
        typer.Option("--photo", min=0, max=(1 << 63) - 1, help="Photo id; repeatable.", show_default=False),
    ] = None,
    dat: Annotated[
        list[Path] | None, typer.Option("--dat", help="A .dat file; repeatable.", show_default=False)
    ] = None,
    ids_file: Annotated[
        Path | None, typer.Option("--ids-file", help="Photo ids, one a line (or .npy).", show_default=False)
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="A .npy file of (n, dim) vectors.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours wanted.")] = 10,
    probes: Annotated[int | None, typer.Option("--probes", help="Lists visited.", show_default="the index's")] = None,
    rerank: Annotated[
        int | None, typer.Option("--rerank", help="Candidates compared again.", show_default="the index's")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every row; needs no index.")] = False,
    exclude_self: Annotated[
        bool, typer.Option("--exclude-self/--include-self", help="Leave a photo out of its own answer.")
    ] = True,
    images: ImagesOption = None,
    json_: JsonOption = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the answers to FILE.parquet.", show_default=False)
    ] = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Find the nearest photos, best first; scores are of the raw features, higher is better.

    Example: `mirsearch query store --layer fc7 --photo 103169 -k 10`
    """
    from engine.cli import answers
    from engine.index.search import Index
    from engine.index.searcher import Searcher
    from engine.index.spec import SearchSpec
    from engine.store.store import Store
    from kernels import load

    if csv and (json_ or out):
        raise InputError("--csv beside --json or --out: choose one")
    settled = settle(device, needs_faiss=not exact)
    opened = Store.open(store)
    spec = make_spec(SearchSpec, k=k, probes=probes, rerank=rerank)
    layer, folder = index_folder(store, layer, name)
    questions = _questions(opened, layer, photo, dat, ids_file, vectors)
    if exact:
        searcher = Searcher.exact(opened, layer, folder, load(settled))
    else:
        searcher = Searcher.of_index(Index.open(folder, device=settled, store=opened))
    with Reporter() as progress:
        stream = searcher.answer(questions, spec, exclude_self=exclude_self, progress=progress)
        heading = answers.Heading(layer=layer, metric=searcher.metric, device=str(settled), images=images)
        if out is not None:
            answers.write_parquet(stream, heading, out, as_json=json_)
        elif json_:
            answers.print_json(stream, heading)
        elif csv:
            answers.print_csv(stream, heading)
        else:
            answers.print_tables(stream, heading)


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
