"""`build`: indices over the layers of a store."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, size, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DeviceOption,
    JsonOption,
    NameOption,
    StoreArgument,
    chosen,
    device_facts,
    index_folder,
    make_spec,
    settle,
)
from engine.errors import EngineError, InputError

if TYPE_CHECKING:
    from engine.index.build import BuildReport
    from engine.index.manifest import IndexManifest
    from engine.index.update import UpdateReport

PHASES = ("pca", "train", "reduce", "add", "codes", "write", "flush")


@with_gpu_options
def build(
    context: typer.Context,
    store: StoreArgument,
    layer: Annotated[str, typer.Option("--layer", "-l", help="A layer, or all.")] = "all",
    metric: Annotated[str, typer.Option("--metric", help="cosine, ip (inner product) or l2.")] = "cosine",
    reduced: Annotated[int | None, typer.Option("--reduced", help="Dimensions kept by the PCA.")] = None,
    lists: Annotated[int | None, typer.Option("--lists", help="Cells of the coarse quantizer; 0: exact.")] = None,
    pq_m: Annotated[int | None, typer.Option("--pq-m", help="Sub-quantizers of a code.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="Bits of each: 4 (CPU) or 8 (CUDA and CPU).")] = None,
    refine: Annotated[
        str, typer.Option("--refine", help="Codes of the raw rows: uint8, uint4, float16 or none.")
    ] = "uint4",
    rows_per_shard: Annotated[int, typer.Option("--rows-per-shard", help="Rows in one shard.")] = 1_000_000,
    training_rows: Annotated[int | None, typer.Option("--training-rows", help="Rows to learn from.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed and device, same answers.")] = 0,
    name: NameOption = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if such an index is there.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Let appended photos join the index that is there.")] = False,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Build an index over one layer or all of them. What is not given is chosen from the number of rows.

    An index that covers the store is kept, if it has what is given.

    Example: `mirsearch build store --layer fc7 --metric cosine`
    """
    from engine.index.build import build_index
    from engine.index.spec import IndexSpec
    from engine.store.store import Store

    if update:
        _refuse_what_update_keeps(context)
        _update(store, layer, name, device, json_)
        return
    options = {
        "metric": metric, "reduced": reduced, "lists": lists, "pq_m": pq_m, "bits": bits, "refine": refine,
        "rows_per_shard": rows_per_shard, "training_rows": training_rows, "seed": seed,
    }  # fmt: skip
    wanted = {_IN_SPEC.get(each, each): value for each, value in options.items() if _given(context, each)}
    spec = make_spec(IndexSpec, layer=layer, **wanted)
    settled = settle(device)
    opened = Store.open(store)
    layers = sorted(opened.layers) if layer == "all" else [layer]
    if name and len(layers) > 1:
        raise InputError("--name: one name for several layers; give one --layer too")
    reports, untuned = [], []
    for each in layers:
        tuned = was_tuned(store / "indices" / (name or each))
        one = spec.model_copy(update={"layer": each})
        with Reporter() as progress:
            reports.append(build_index(opened, one, device=settled, name=name, force=force, progress=progress))
        if tuned and not reports[-1].reused:
            untuned.append(each)
        for line in one.cut(reports[-1].manifest.spec, opened.photos, reports[-1].manifest.dim):
            warn(line)
        if not json_:
            say_index(reports[-1], device_facts(settled), untuned=each in untuned)
    if json_:
        say_json({"device": str(settled), "indices": [index_document(report) for report in reports]})
    else:
        which = chosen(layers[0], name)
        say_next(
            ["query", store, *which, "--photo", opened.photo_ids[opened.present_rows[0]], "-k", 10],
            ["bench", store, *which],
            *(["tune", store, *chosen(each, name)] for each in untuned),
        )


def was_tuned(folder: Path) -> bool:
    """Whether an index is there that was tuned."""
    from engine.index.manifest import read_index_manifest

    try:
        return read_index_manifest(folder).tuned is not None
    except EngineError:  # there is none, or it is damaged: it is built anew
        return False


# What an index is was settled when it was built.
KEPT = ("metric", "reduced", "lists", "pq_m", "bits", "refine", "rows_per_shard", "training_rows", "seed", "force")


_IN_SPEC = {"bits": "pq_bits"}  # options that are called otherwise in an IndexSpec


def _given(context: typer.Context, option: str) -> bool:
    """Whether an option stands in the command line: its default says nothing about an index that is there."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _refuse_what_update_keeps(context: typer.Context) -> None:
    for option in KEPT:
        if _given(context, option):
            raise InputError(
                f"--{option.replace('_', '-')}: --update keeps the index as it was built. Leave one of the two out."
            )


def _update(path: Path, layer: str, name: str | None, device: str, json_: bool) -> None:
    from engine.index.manifest import NAME, check_layer_of
    from engine.index.update import update_index
    from engine.store.store import Store

    settled = settle(device)
    store = Store.open(path)
    if name:
        names = [index_folder(path, None if layer == "all" else layer, name)[1].name]
    else:
        there = [each for each in sorted(store.layers) if (path / "indices" / each / NAME).exists()]
        names = [layer] if layer != "all" else there or sorted(store.layers)[:1]
        for each in names:
            check_layer_of(path / "indices" / each, each)
    documents = []
    for each in names:
        with Reporter() as progress:
            report = update_index(store, each, device=settled, progress=progress)
        if json_:
            drift = report.drift
            figures = {**asdict(drift), "advice": drift.advice()} if drift else None
            documents.append(
                {**index_document(report), "added": report.added, "drift": figures, "untuned": report.untuned}
            )
        else:
            _say_update(report, device_facts(settled))
    if json_:
        say_json({"device": str(settled), "indices": documents})


def _say_update(report: "UpdateReport", device: tuple[str, object]) -> None:
    from engine.index.manifest import build_words

    did = f"{report.added:,} joined in {report.seconds:.1f} s" if report.added else "nothing was appended since"
    facts: list[tuple[str, object]] = [("shards", len(report.manifest.shards))]
    tuned, advice = report.manifest.tuned, None
    if report.untuned:
        facts.append(
            ("tuned", "what was measured is dropped: too much has joined since, or what is unlike the rows before")
        )
    elif tuned and report.added:
        facts.append(("tuned", f"what was measured on {tuned.rows:,} rows is kept"))
    if drift := report.drift:
        advice = drift.advice()
        facts += [
            (
                "drift",
                f"of the new, axes lose {drift.reduction:.2f} times as much, lists {drift.lists:.2f} times",
            ),
            (
                "crowding",
                f"{drift.crowding:.2f} times that of the rows before; {drift.growth:.2f} times the rows now",
            ),
        ]
    if advice:
        facts.append(("advice", f"build it anew: {advice}"))
    say_facts(f"Index {report.path.name} over {report.manifest.rows:,} photos: {did}", [*facts, device])
    words: list[list[object]] = [[*build_words(report.path, report.manifest.spec), "--force"]] if advice else []
    if report.untuned:
        words.append(["tune", report.path.parent.parent, *chosen(report.manifest.spec.layer, report.path.name)])
    if words:
        say_next(*words)


def describe(report: "BuildReport") -> list[tuple[str, object]]:
    """The lines that say what an index is."""
    spec, training = report.manifest.spec, report.manifest.training
    if not spec.lists:
        return [("kind", f"exact, {spec.metric}: {report.manifest.rows:,} rows are compared one by one")]
    phases = [(phase, training[f"seconds_{phase}"]) for phase in PHASES if f"seconds_{phase}" in training]
    kept = float(training.get("explained_variance", 0))
    return [
        ("metric", spec.metric),
        ("reduced", f"{report.manifest.dim:,} to {spec.reduced} dimensions, {kept:.0%} of the variance kept"),
        (
            "IVF-PQ",
            f"{spec.lists:,} lists, {spec.pq_m} × {spec.pq_bits}-bit codes, {len(report.manifest.shards)} shard(s)",
        ),
        ("refine", spec.refine),
        ("default", _default(report.manifest)),
        ("phases", ", ".join(f"{name} {seconds} s" for name, seconds in phases)),
        ("memory", f"{training['peak_memory_mib']:,} MiB at most"),
    ]


def _default(manifest: "IndexManifest") -> str:
    """What a search uses that names nothing."""
    if (tuned := manifest.tuned) is None:
        return f"{manifest.probes} probes, {manifest.rerank} candidates re-ranked"
    point, day = tuned.default, tuned.measured_at[:10]
    rows = f" on {tuned.rows:,} rows" if tuned.rows else ""
    what = f"{point.probes} probes, {point.rerank} candidates re-ranked"
    return f"{what}: tuned {day}{rows}, recall@10 {point.recall:.4f}, {point.qps:,.0f} queries/s"


def say_index(report: "BuildReport", device: tuple[str, object], *, untuned: bool) -> None:
    """What a build did. untuned: it lost settings that `tune` had found."""
    total = report.bytes_per_photo * report.manifest.rows
    did = "is up to date (--force builds it anew)" if report.reused else f"built in {report.seconds:.1f} s"
    say_facts(
        f"Index {report.path.name} over {report.manifest.rows:,} photos {did}",
        [
            *describe(report),
            ("size", f"{size(total)}, {report.bytes_per_photo:,.0f} bytes a photo"),
            *([("tuned", "what was measured of the index before is dropped")] if untuned else []),
            device,
        ],
    )


def index_document(report: "BuildReport") -> dict[str, Any]:
    """What a build did, JSON-able."""
    return {
        "path": str(report.path),
        "reused": report.reused,
        "seconds": report.seconds,
        "rows": report.manifest.rows,
        "bytes_per_photo": report.bytes_per_photo,
        "spec": report.manifest.spec.model_dump(),
        "training": report.manifest.training,
    }
