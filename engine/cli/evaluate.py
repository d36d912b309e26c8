"""`evaluate`: how relevant the answers are, by what people wrote of the photos."""

from pathlib import Path
from typing import Annotated, Any

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, say_table, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.judge import make_folder, numbers_of
from engine.cli.options import (
    DeviceOption,
    JsonOption,
    NameOption,
    StoreArgument,
    device_facts,
    index_folder,
    make_spec,
    parse_weights,
    settle,
    wrong_usage,
)

ExcludeSameOption = Annotated[
    list[str] | None,
    typer.Option("--exclude-same", help="Leave out photos of the same owner, album, burst.", show_default=False),
]
BurstOption = Annotated[int, typer.Option("--burst-seconds", min=0, help="How long a burst is.")]
MostShareOption = Annotated[
    float, typer.Option("--most-share", help="Terms of more than this share of the photos say nothing.")
]


def parse_same(given: list[str] | None) -> tuple[str, ...]:
    """What `--exclude-same owner,burst` or several of it name; wrong usage for what is not known."""
    names = tuple(name.strip() for text in given or () for name in text.split(","))
    for name in names:
        if name not in ("owner", "album", "burst"):
            raise wrong_usage("exclude_same", f"{name!r}: expected owner, album or burst")
    return names


@with_gpu_options
def evaluate(
    store: StoreArgument,
    layer: Annotated[
        str | None,
        typer.Option("--layer", "-l", help="Layers: fc7,fc8,fc7+fc8, or all.", show_default="fc7, or the only one"),
    ] = None,
    relevance: Annotated[
        str, typer.Option("--relevance", help="tags, groups, albums, geo, combined.", show_default="tags, or labels")
    ] = "",
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Photo → labels: a file or a folder.", show_default=False)
    ] = None,
    min_shared: Annotated[
        int | None,
        typer.Option("--min-shared", min=1, help="Terms that must be shared.", show_default="1; combined 2"),
    ] = None,
    most_share: MostShareOption = 0.05,
    threshold: Annotated[float, typer.Option("--threshold", help="Least grade of combined.")] = 0.15,
    radius_km: Annotated[float, typer.Option("--radius-km", help="Of geo.")] = 1.0,
    candidates: Annotated[
        str | None,
        typer.Option(
            "--candidates", help="May be answers: all, or labelled.", show_default="all; with --labels labelled"
        ),
    ] = None,
    exclude_same: ExcludeSameOption = None,
    burst_seconds: BurstOption = 60,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Photos held out as queries.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of their choice.")] = 0,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Photos ranked: the R of mAP@R.")] = 100,
    k: Annotated[int, typer.Option("-k", min=1, help="Of precision, recall and nDCG.")] = 10,
    gain: Annotated[str, typer.Option("--gain", help="Of nDCG: linear, or exponential (2^grade - 1).")] = "linear",
    probes: Annotated[
        str | None, typer.Option("--probes", help="Points of the index: 4,16,64.", show_default="tuned ones, or a grid")
    ] = None,
    rerank: Annotated[str | None, typer.Option("--rerank", help="The same: 100,300.", show_default=False)] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed repeats of each point.")] = 3,
    resamples: Annotated[int, typer.Option("--resamples", min=10, help="Of the bootstrap.")] = 2000,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Of layers in one: 0.7,0.3.", show_default="equal ones")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of evaluate.json and the plot.", show_default=False)
    ] = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Measure how relevant answers are by annotations: random ranking, exact search and the index side by side.

    Example: `mirsearch evaluate store --layer fc7 --relevance tags`
    """
    from engine.jobs.evaluate import EvaluateSpec, run_evaluate, write_evaluation
    from engine.jobs.evaluate_ways import layer_names
    from engine.jobs.relevance import RelevanceSpec
    from engine.store.outside import check_outside
    from engine.store.store import Store

    if relevance not in ("", "labels", "tags", "groups", "albums", "geo", "combined"):
        raise wrong_usage("relevance", f"{relevance!r}: expected tags, groups, albums, geo or combined")
    truth = make_spec(
        RelevanceSpec, source=relevance or ("labels" if labels else "tags"), labels=labels, min_shared=min_shared,
        most_share=most_share, threshold=threshold, radius_km=radius_km, candidates=candidates,
        exclude_same=parse_same(exclude_same), burst_seconds=burst_seconds,
    )  # fmt: skip
    grid = {"probes": numbers_of(probes, "probes"), "rerank": numbers_of(rerank, "rerank")}
    spec = make_spec(
        EvaluateSpec, relevance=truth, queries=queries, seed=seed, depth=depth, k=k, gain=gain, repeats=repeats,
        resamples=resamples, **grid,
    )  # fmt: skip
    shares = None if weights is None else parse_weights(weights)
    if layer is None or name:
        layer, _ = index_folder(store, layer, name)
    opened = Store.open(store)
    names = layer_names(opened, layer)
    indexed = any((store / "indices" / (name or part)).exists() for one in names for part in one.split("+"))
    settled = settle(device, needs_faiss=indexed)
    if out:
        check_outside(store, out)
        make_folder(out)
    with Reporter() as progress:
        report = run_evaluate(opened, names, spec, device=settled, weights=shares, index_name=name, progress=progress)
    files = write_evaluation(report, out) if out else {}
    document: dict[str, Any] = report.to_dict()
    if json_:
        say_json(document | {"files": {key: str(path) for key, path in files.items()}})
        return
    _say(document, store, device_facts(settled))
    if files:
        say_facts("Written", list(files.items()))
    say_next(["annotate", store, "--layer", names[0].split("+")[0], "--evaluate"])


def _say(document: dict[str, Any], store: Path, device: tuple[str, object]) -> None:
    asked, made, spec = document["queries"], document["relevance"], document["spec"]
    lonely = f"{asked['passed_over_nothing_relevant']:,} with nothing relevant"
    passed = f"{asked['passed_over_unlabelled']:,} without labels, {lonely}"
    median = f"{asked['relevant_median']:,.0f} photos to the median query"
    facts: list[tuple[str, object]] = [
        ("labelled", f"{made['labelled']:,} of {made['photos']:,} photos; {made['candidates']:,} may be answers"),
        ("queries", f"{asked['queries']:,} photos held out, seed {spec['seed']}; passed over: {passed}"),
        (
            "relevant",
            f"{median}, {asked['relevant_mean']:,.1f} on average",
        ),
        device,
    ]
    if spec["relevance"]["exclude_same"]:
        same = ", ".join(spec["relevance"]["exclude_same"])
        facts.insert(3, ("left out", f"of the same {same}: {asked['left_out_mean']:,.1f} photos a query"))
    for kind in ("stop_terms", "camera_tags"):
        if made.get(kind):
            most = ", ".join(made[f"{kind}_most"][:8])
            facts.insert(1, (kind.replace("_", " "), f"{made[kind]:,} dropped, such as {most}"))
    say_facts(f"{store}: relevance by {spec['relevance']['source']}", facts)
    for layer in document["layers"]:
        if not layer["indexed"]:
            warn(f"{layer['layer']}: has no index that leaves anything out, and is searched exactly alone.")
    r, k = spec["depth"], spec["k"]
    columns = ["", "probes", "rerank", f"mAP@{r}", "interval", f"mAP@{r} found", f"P@{k}", f"R@{k}", f"nDCG@{k}",
               "R-prec", "recall@10", "queries/s", f"mAP@{r} less exact"]  # fmt: skip
    say_table(columns, [point_row(point) for point in document["points"]])


def point_row(point: dict[str, Any]) -> list[object]:
    """One point of an evaluation's document as cells of the table."""
    metrics = point["metrics"]

    def mean(name: str) -> str:
        return f"{metrics[name]['mean']:.4f}"

    least, most = metrics["map"]["low"], metrics["map"]["high"]
    less = point["minus_exact"] or point["minus_first"]
    recall = point["recall"]
    return [
        f"{point['layer']} {point['kind']}".strip() + (", default" if point["default"] else ""),
        f"{point['probes']:,}" if point["probes"] else "–",
        f"{point['rerank']:,}" if point["rerank"] else "–",
        mean("map"),
        f"{least:.4f}…{most:.4f}",
        *(mean(name) for name in ("map_found", "precision", "recall", "ndcg", "r_precision")),
        f"{recall.get('10', list(recall.values())[-1]):.4f}" if recall else "–",
        f"{point['qps']['median']:,.0f}" if point["qps"] else "–",
        f"{less['map']['mean']:+.4f} ({less['map']['low']:+.4f}…{less['map']['high']:+.4f})" if less else "–",
    ]
