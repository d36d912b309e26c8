"""`annotate`: tags for photos from those of their neighbours, and how good such tags are."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.console import Reporter, out, say_facts, say_json, say_table
from engine.cli.evaluate import BurstOption, ExcludeSameOption, MostShareOption, parse_same
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import (
    DatOption,
    DeviceOption,
    ExactOption,
    IdsFileOption,
    JsonOption,
    LayerOption,
    NameOption,
    PhotoOption,
    ProbesOption,
    RerankOption,
    StoreArgument,
    device_facts,
    index_folder,
    make_spec,
    settle,
)
from engine.errors import InputError
from engine.words import counted

if TYPE_CHECKING:
    from engine.index.queries import Questions
    from engine.jobs.annotate import Guess
    from engine.jobs.annotate_score import AnnotateScore
    from engine.store.store import Store

SHOWN = 25  # tags of an evaluation that the table has


@with_gpu_options
def annotate(
    store: StoreArgument,
    layer: LayerOption = None,
    photo: PhotoOption = None,
    dat: DatOption = None,
    ids_file: IdsFileOption = None,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Predict tags that are known, and count.")] = False,
    tags: Annotated[int, typer.Option("--tags", min=1, help="Tags for each photo, at most.")] = 5,
    neighbours: Annotated[int, typer.Option("-k", min=1, help="Neighbours that vote.")] = 50,
    votes: Annotated[str, typer.Option("--votes", help="prior, idf, both or plain.")] = "prior",
    most_share: MostShareOption = 0.05,
    probes: ProbesOption = None,
    rerank: RerankOption = None,
    exact: ExactOption = False,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Of --evaluate: photos held out.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of their choice.")] = 0,
    min_photos: Annotated[
        int, typer.Option("--min-photos", min=1, help="Of mean AP: held-out photos that a tag must have.")
    ] = 5,
    exclude_same: ExcludeSameOption = None,
    burst_seconds: BurstOption = 60,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write to FILE.parquet.", show_default=False)] = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Predict the tags of photos from those of their neighbours; --evaluate: how good such tags are.

    Example: `mirsearch annotate store --layer fc7 --photo 103169`
    """
    from engine.index.search import Index
    from engine.index.searcher import Searcher
    from engine.jobs.annotate import AnnotateSpec
    from engine.jobs.annotate import annotate as predict
    from engine.jobs.annotate_score import HeldOut, score_annotation
    from engine.store.outside import check_outside
    from engine.store.store import Store
    from kernels import load

    spec = make_spec(
        AnnotateSpec, neighbours=neighbours, tags=tags, votes=votes, probes=probes, rerank=rerank, most_share=most_share
    )
    same: Any = parse_same(exclude_same)
    if out_file is not None and out_file.suffix != ".parquet":
        raise InputError(f"--out {out_file}: expected a name that ends in .parquet")
    if same and not evaluate:
        raise InputError("--exclude-same: of --evaluate, where it is known who took the photos")
    settled = settle(device, needs_faiss=not exact)
    opened = Store.open(store)
    if out_file is not None:
        check_outside(opened.path, out_file)
    layer, folder = index_folder(store, layer, name)
    asked = _questions(opened, layer, photo, dat, ids_file, evaluate=evaluate)
    if exact:
        searcher = Searcher.exact(opened, layer, folder, load(settled))
    else:
        searcher = Searcher.of_index(Index.open(folder, device=settled, store=opened))
    heading = {"layer": layer, "metric": searcher.metric, "device": str(settled), "spec": spec.model_dump(mode="json")}
    if evaluate:
        held_out = HeldOut(
            queries=queries, seed=seed, min_photos=min_photos, exclude_same=same, burst_seconds=burst_seconds
        )
        with Reporter() as progress:
            score = score_annotation(searcher, spec, held_out, progress)
        if out_file is not None:
            _write(out_file, "tag", [asdict(entry) for entry in score.by_tag])
        _say_score(score, heading, device_facts(settled), out_file, as_json=json_)
        return
    with Reporter() as progress:
        found = list(predict(searcher, asked, spec, progress))
    _say_tags(found, heading, out_file, as_json=json_)


def _questions(
    store: "Store",
    layer: str,
    photo: list[int] | None,
    dat: list[Path] | None,
    ids_file: Path | None,
    *,
    evaluate: bool,
) -> "list[Questions]":
    from engine.index.queries import dat_questions, photo_questions, read_ids

    asked = []
    if photo:
        asked.append(photo_questions(store, layer, photo))
    if ids_file:
        asked.append(photo_questions(store, layer, read_ids(ids_file)))
    if dat:
        asked.append(dat_questions(layer, dat))
    if evaluate and asked:
        raise InputError("--evaluate beside --photo, --dat or --ids-file: it chooses its photos itself. Choose one.")
    if not asked and not evaluate:
        raise InputError("nothing to annotate: give --photo ID, --ids-file FILE or --dat FILE, or --evaluate")
    return asked


def _name(questions: "Questions", at: int) -> dict[str, Any]:
    ids = questions.photo_ids
    return {"source": questions.source(at)} if ids is None else {"photo_id": int(ids[at])}


def _say_tags(
    found: "Iterable[tuple[Questions, int, list[Guess]]]", heading: dict[str, Any], file: Path | None, *, as_json: bool
) -> None:
    photos = [_name(questions, at) | {"tags": [asdict(guess) for guess in tags]} for questions, at, tags in found]
    if file is not None:
        rows = [
            {"query_photo_id": one.get("photo_id"), "query_source": one.get("source"), "rank": rank} | guess
            for one in photos
            for rank, guess in enumerate(one["tags"], 1)
        ]
        _write(file, "photo", rows)
        heading |= {"out": str(file), "rows": len(rows)}
    if as_json:
        say_json(heading | ({"photos_annotated": len(photos)} if file else {"photos": photos}))
        return
    if file is not None:
        out.print(f"{heading['rows']:,} tags for {counted(len(photos), 'photo')} in {file}")
        return
    for one in photos:
        what = f"photo {one['photo_id']}" if "photo_id" in one else one["source"]
        out.print(f"{what} · {heading['layer']}, {heading['metric']}, {heading['device']}", style="bold")
        if one["tags"]:
            rows = [[t["tag"], f"{t['score']:.4f}", f"{t['share']:.1%}", f"{t['photos']:,}"] for t in one["tags"]]
            say_table(["tag", "score", "of the votes", "photos with it"], rows)
        else:
            out.print("no tag has more votes than by chance")
        out.print()


def _say_score(
    score: "AnnotateScore", heading: dict[str, Any], device: tuple[str, object], file: Path | None, *, as_json: bool
) -> None:
    if as_json:
        say_json(heading | score.to_dict() | ({"out": str(file)} if file else {}))
        return
    n = heading["spec"]["tags"]
    say_facts(f"Tags predicted by {heading['spec']['neighbours']:,} neighbours, {heading['layer']}", [
        ("photos", f"{score.queries:,} held out of {score.photos:,} with tags; passed over: "
                   f"{score.passed_over_untagged:,} without"),
        ("tags", f"{score.tags:,} in the store, {score.evaluated:,} of enough held-out photos for mean AP"),
        device,
    ])  # fmt: skip
    say_table(["", f"precision@{n}", "interval", f"recall@{n}", "interval", "mean AP over tags"], [
        [
            method.name, f"{method.precision.mean:.4f}", f"{method.precision.low:.4f}…{method.precision.high:.4f}",
            f"{method.recall.mean:.4f}", f"{method.recall.low:.4f}…{method.recall.high:.4f}",
            "–" if method.mean_ap is None else f"{method.mean_ap:.4f}",
        ]
        for method in score.methods
    ])  # fmt: skip
    out.print()
    say_table(["tag", "photos", "held out", "given", "precision", "recall", "AP"], [
        [
            one.tag, f"{one.photos:,}", f"{one.held_out:,}", f"{one.given:,}",
            "–" if one.precision is None else f"{one.precision:.3f}", f"{one.recall:.3f}",
            f"{one.average_precision:.3f}",
        ]
        for one in score.by_tag[:SHOWN]
    ])  # fmt: skip
    if file is not None:
        say_facts("Written", [("all tags", file)])


def _write(file: Path, what: str, rows: list[dict[str, Any]]) -> None:
    """A Parquet file of a row for each `what`; renamed when whole."""
    import pyarrow as pa
    from pyarrow import parquet

    from engine.store.durable import disk_errors, part_of, publish

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    kinds: dict[str, Any] = {
        "photo": {"query_photo_id": whole, "query_source": text, "rank": pa.int32(), "tag": text, "score": number,
                  "share": number, "photos": whole},
        "tag": {"tag": text, "photos": whole, "held_out": whole, "given": whole, "hits": whole, "precision": number,
                "recall": number, "average_precision": number},
    }  # fmt: skip
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            parquet.write_table(pa.Table.from_pylist(rows, pa.schema(list(kinds[what].items()))), part_of(file))
            publish(file)
        finally:
            part_of(file).unlink(missing_ok=True)
