"""`dedup`: which photos are the same."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from engine.cli.console import Reporter, TimeLeft, say_json, warn
from engine.cli.dedup_apply import apply
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    LayerOption,
    NameOption,
    StoreArgument,
    WeightsOption,
    index_folder,
    settle,
    several_layers,
    wrong_usage,
)

if TYPE_CHECKING:
    from engine.index.searcher import Searcher
    from engine.jobs.dedup import DedupSpec
    from engine.store.store import Store
    from kernels import Device


@with_gpu_options
def dedup(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the answers.", show_default=False)],
    layer: LayerOption = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="Least cosine of a duplicate.", show_default="chosen from the data"),
    ] = None,
    false_pairs: Annotated[
        float | None,
        typer.Option(
            "--false-pairs", help="Choose it by this rate of unrelated pairs for each photo.", show_default=False
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            help="medoid: all like one of them. complete: all alike. components: chains.",
            show_default="medoid",
        ),
    ] = None,
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Count scores beside what is usual for their photos.")
    ] = False,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Compare every row with every other; needs no index.")
    ] = False,
    query_store: Annotated[
        Path | None,
        typer.Option("--query-store", help="Find which photos of this store are in STORE.", show_default=False),
    ] = None,
    images: ImagesOption = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", help="largest, oldest, most-favoured or first of a group.", show_default="the most typical"
        ),
    ] = None,
    decisions: Annotated[
        list[Path] | None,
        typer.Option("--decisions", help="decisions.json saved from a report; may be repeated.", show_default=False),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="truth.jsonl of a sample collection.", show_default=False)
    ] = None,
    weights: WeightsOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Find photos that are the same or nearly: pairs, groups, and a report to look at.

    Interrupted, the same command continues with what is there. `mirsearch dedup apply DIR` acts on what was found.

    Example: `mirsearch dedup store --layer fc7 --out duplicates --images sample/images`
    """
    import json

    from engine.cli.dedup_facts import say_found
    from engine.jobs import dedup_files
    from engine.jobs.copy_metrics import score_against_truth
    from engine.jobs.copy_truth import check_truth, read_truth
    from engine.jobs.decisions import Decisions
    from engine.jobs.dedup import DedupSpec, find_duplicates
    from engine.jobs.dedup_out import answers_in
    from engine.jobs.keep import check_keep, choose_kept
    from engine.jobs.report import ReportSpec, write_duplicates
    from engine.store.outside import check_outside
    from engine.store.store import Store

    _check_values(threshold, false_pairs, groups, keep)
    if query_store is not None:
        _refuse_beside_query_store(
            groups=groups, normalise=normalise, images=images, keep=keep, decisions=decisions, truth=truth
        )
    told = Decisions.read(*decisions or [])
    spec = DedupSpec(
        threshold=threshold, false_pairs=false_pairs, method="exhaustive" if exhaustive else "index",
        groups=cast(Any, groups or "medoid"), normalise=normalise, decisions=told,
    )  # fmt: skip
    settled, opened = settle(device, needs_faiss=not exhaustive), Store.open(store)
    for path in (store, query_store):
        if path is not None:
            check_outside(path, out)
    planted = read_truth(truth) if truth else None
    if planted and truth:
        check_truth(planted, truth, opened.photo_ids)
    searcher = _searcher(opened, (layer, name, weights), settled, exhaustive=exhaustive)
    if query_store is not None:
        _find_known(searcher, spec, Store.open(query_store), out, settled, json_=json_)
        return
    for doubt in told.doubts(opened):
        warn(doubt)
    unfinished = out / dedup_files.FOLDER
    with answers_in(out, images), Reporter() as reporter:
        rule, progress = check_keep(keep, opened, images), TimeLeft(reporter)
        found = find_duplicates(searcher, spec, progress, unfinished=unfinished, device=str(settled))
        scored = score_against_truth(found, planted) if planted else None
        if rule:
            found = choose_kept(found, opened, rule, images, progress)
        progress("write the report", 0, 0)
        made = ReportSpec(images=images, truth=scored, decisions=told, keep=rule)
        files = write_duplicates(found, opened, out, made)
        dedup_files.remove(unfinished)
    if json_:
        summary = json.loads(files["summary.json"].read_bytes())
        say_json(summary | {"files": {name: str(path) for name, path in files.items()}})
    else:
        say_found(found, scored, settled, files)


def _check_values(threshold: float | None, false_pairs: float | None, groups: str | None, keep: str | None) -> None:
    """Wrong usage for what no store could make right."""
    from engine.jobs.dedup_groups import GROUPINGS
    from engine.jobs.keep import KEEP_RULES

    if threshold is not None and not 0 < threshold <= 1:
        raise wrong_usage("threshold", f"{threshold}: expected a cosine above 0 and up to 1, such as 0.95")
    if false_pairs is not None and not 0 < false_pairs < 1:
        raise wrong_usage("false_pairs", f"{false_pairs}: expected a rate between 0 and 1, such as 0.001")
    if groups is not None and groups not in GROUPINGS:
        raise wrong_usage("groups", f"{groups!r}: expected one of {', '.join(GROUPINGS)}")
    if keep is not None and keep not in KEEP_RULES:
        raise wrong_usage("keep", f"{keep!r}: expected one of {', '.join(KEEP_RULES)}")


def _refuse_beside_query_store(**given: Any) -> None:
    """Wrong usage where an option is given that is about groups of one store."""
    for option, value in given.items():
        if value:
            raise wrong_usage(
                option, "does nothing beside --query-store, which groups no photos. Leave one of them out."
            )


def _searcher(
    store: "Store", asked: tuple[str | None, str | None, str | None], device: "Device", *, exhaustive: bool
) -> "Searcher":
    """What is searched. asked: layer, name and weights."""
    from engine.cli.query import fused_searcher
    from engine.index.search import Index
    from engine.index.searcher import Searcher
    from kernels import load

    layer, name, weights = asked
    layers = several_layers(store.path, layer, name, weights)
    if layers:
        return fused_searcher(store, layers, weights, None if exhaustive else device, load(device))
    layer, folder = index_folder(store.path, layer, name)
    if exhaustive:
        return Searcher.exact(store, layer, folder, load(device))
    return Searcher.of_index(Index.open(folder, device=device, store=store))


def _find_known(
    searcher: "Searcher", spec: "DedupSpec", new: "Store", out: Path, device: "Device", *, json_: bool
) -> None:
    """Which photos of a new store are in the one that is searched."""
    from engine.cli.dedup_facts import say_known
    from engine.jobs import dedup_files
    from engine.jobs.dedup_between import find_known, summary_of, write_known
    from engine.jobs.dedup_out import answers_in

    unfinished = out / dedup_files.FOLDER
    with answers_in(out, kind="known"), Reporter() as reporter:
        known = find_known(searcher, new, spec, TimeLeft(reporter), unfinished=unfinished)
        files = write_known(known, out)
        dedup_files.remove(unfinished)
    if json_:
        say_json(summary_of(known) | {"files": {name: str(path) for name, path in files.items()}})
    else:
        say_known(known, new.photos + searcher.store.photos, device, files)


SUBVERBS = {"dedup": dedup, "apply": apply}
