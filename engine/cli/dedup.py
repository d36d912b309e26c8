"""`dedup`: which photos are the same."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.console import Reporter, say_facts, say_json
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    LayerOption,
    NameOption,
    StoreArgument,
    device_facts,
    index_folder,
    settle,
)
from engine.errors import InputError


@with_gpu_options
def dedup(
    store: StoreArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder of the answers.", show_default=False)],
    layer: LayerOption = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Least cosine of a duplicate.", show_default="the layer's")
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
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Find photos that are the same or nearly: pairs, groups, and a report to look at.

    Example: `mirsearch dedup store --layer fc7 --out duplicates --images sample/images`
    """
    import json

    from engine.index.search import Index
    from engine.jobs.copy_metrics import score_against_truth
    from engine.jobs.dedup import DedupSpec, find_duplicates
    from engine.jobs.decisions import Decisions
    from engine.jobs.keep import check_keep, choose_kept
    from engine.jobs.report import ReportSpec, check_outputs, write_duplicates

    told = Decisions.read(*decisions or [])
    spec = DedupSpec(threshold=threshold)
    if truth and not truth.is_file():
        raise InputError(f"--truth {truth}: no such file, expected the truth.jsonl of a sample collection")
    layer, index_path = index_folder(store, layer, name)
    index = Index.open(index_path, device=settle(device))
    check_outputs(out, images)
    rule = check_keep(keep, index.store, images)
    with Reporter() as progress:
        found = find_duplicates(index, spec, progress)
        planted = score_against_truth(found, truth) if truth else None
        if rule:
            found = choose_kept(found, index.store, rule, images, progress)
        progress("write the report", 0, 0)
        made = ReportSpec(images=images, truth=planted, decisions=told, keep=rule)
        files = write_duplicates(found, index.store, out, made)
    summary = json.loads(files["summary.json"].read_bytes())
    if json_:
        say_json(summary | {"files": {name: str(path) for name, path in files.items()}})
        return
    seconds = sum(found.seconds.values())
    say_facts(
        f"{len(found.groups):,} groups of duplicates, {found.grouped:,} of {found.photos:,} photos",
        [
            ("pairs", f"{len(found.pairs):,} with a cosine of at least {found.threshold:g}"),
            (
                "searched",
                f"{found.photos:,} photos in {seconds:.1f} s ({found.photos / max(seconds, 1e-9):,.0f} photos/s)",
            ),
            device_facts(index.device),
            *_against_truth(summary["truth"]),
        ],
    )
    say_facts("Written", list(files.items()))


def _against_truth(truth: dict[str, Any] | None) -> list[tuple[str, object]]:
    if not truth:
        return []
    lines: list[tuple[str, object]] = []
    for kind, counts in truth["kinds"].items():
        if counts["planted"]:
            lines.append((kind, f"{counts['found']:,} of {counts['planted']:,} planted pairs found"))
    if truth["precision"] is not None:
        lines.append(("precision", f"{truth['precision']:.4f} of the pairs found are planted duplicates"))
    return lines
