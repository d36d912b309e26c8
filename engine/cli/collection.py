"""`synth` and `ingest`: photo collections and the stores made from them."""

import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, warn
from engine.cli.gpu_options import with_gpu_options
from engine.cli.options import DeviceOption, JsonOption, device_facts, settle, wrong_usage
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.index.stream import Following
    from engine.store.ingest import IngestReport
    from kernels import Device


def synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.", show_default=False)],
    photos: Annotated[int, typer.Option("--photos", "-n", min=1, help="How many photos.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same collection.")] = 0,
    images: Annotated[bool, typer.Option("--images", help="Draw a small picture of each photo too.")] = False,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Write what Flickr would say of each photo: tags, groups, places.")
    ] = False,
    edits: Annotated[bool, typer.Option("--edits", help="Add edited copies: cropped, mirrored and so on.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a made-up photo collection, laid out as the publisher's, with planted duplicates.

    Example: `mirsearch synth sample --photos 20000 --images`
    """
    from dataclasses import replace

    from engine.store.synth import synthesize
    from engine.store.synth_edits import add_edits, refuse_edited

    if not edits:
        refuse_edited(directory)
    with Reporter() as progress:
        report = synthesize(
            directory, photos=photos, seed=seed, images=images, annotations=annotations, progress=progress
        )
        if edits:
            added = add_edits(directory, progress)
            report = replace(
                report, bytes=report.bytes + added.bytes, pairs=report.pairs | added.pairs,
                seconds=report.seconds + added.seconds,
            )  # fmt: skip
    if json_:
        say_json(asdict(report))
        return
    pairs = ", ".join(f"{count:,} {kind}" for kind, count in report.pairs.items())
    say_facts(
        f"Wrote {counted(report.photos, 'photo')}",
        [
            ("features", directory / "features"),
            *([("pictures", directory / "images")] if images else []),
            *([("annotations", directory / "annotations")] if annotations else []),
            ("planted pairs", pairs or "none"),
            ("truth", report.truth),
            ("written", f"{sized(report.bytes)} in {report.seconds:.1f} s"),
        ],
    )
    further = [["annotations", "ingest", directory / "annotations", "--store", "store"]] if annotations else []
    say_next(["ingest", directory / "features", "--store", "store"], *further)


@with_gpu_options
def ingest(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...", help="Folders of .dat files, archives of them, or single files.", show_default=False
        ),
    ],
    store: Annotated[Path, typer.Option("--store", help="Folder of the store: made, or grown.", show_default=False)],
    replace: Annotated[
        bool, typer.Option("--replace", help="Rewrite photos that the store has with other content.")
    ] = False,
    build: Annotated[
        str | None,
        typer.Option("--build", metavar="LAYERS", help="Build indices too: fc7, or fc7,fc8.", show_default="none"),
    ] = None,
    device: DeviceOption = "auto",
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first bad file instead of setting it aside.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Reading threads; 16 or all cores if unset.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Read all `.dat` files below SOURCE into a store: folders, .tar, .tar.gz, .tar.bz2, .tar.zst and .zip.

    A store that is there keeps its rows and gets the photos that it does not have. A file that is not a whole record
    of finite numbers is set aside in `quarantine.jsonl` with the reason; the exit code is then 3. Interrupted, the
    same command continues.

    With --build, indices are built from the same rows, as `mirsearch build` would; if that fails, the photos stay.

    Example: `mirsearch ingest sample/features --store store --build fc7`
    """
    from engine.store.ingest import ingest as ingest_files

    layers = _layers(build)
    settled = settle(device, needs_faiss=bool(layers))
    with _following(store, layers, settled) as following:
        with Reporter() as progress:
            report = ingest_files(
                sources, store, device=settled, strict=strict, replace=replace, threads=threads, progress=progress,
                follower=following,
            )  # fmt: skip
        _say_ingest(report, device_facts(settled), json_=json_)
        indices = _build(following, device_facts(settled), json_=json_) if following else []
    if json_:
        bound = {"bound": report.bound, "quarantine": store / "quarantine.jsonl"}
        say_json(asdict(report) | bound | ({"indices": indices} if layers else {}))
    elif layers:
        say_next(["query", store, "--layer", layers[0], "--photo", _any_photo(store), "-k", 10], ["info", store])
    else:
        # Beside indices that are there, `info` says of each what brings it up to date: often less than building it.
        there = any((store / "indices").glob("*/index.json"))
        say_next(*([["info", store]] if there else [["build", store, "--layer", "all"], ["info", store]]))
    if report.refused:
        raise typer.Exit(3)


def _say_ingest(report: "IngestReport", device: tuple[str, object], *, json_: bool) -> None:
    if not json_:
        say_facts(_title(report), [*_counts(report), *_stages(report), device])
    if report.refused:
        aside = "file was" if report.refused == 1 else "files were"
        warn(f"{report.refused:,} {aside} set aside; {report.store / 'quarantine.jsonl'} says why.")


def _layers(build: str | None) -> list[str]:
    """The layers that --build names, each once."""
    from engine.store.dat import LAYERS

    layers = [*dict.fromkeys(build.split(","))] if build is not None else []
    for layer in layers:
        if layer not in LAYERS:
            raise wrong_usage("build", f"{layer!r} is no layer of a .dat file, expected {' or '.join(LAYERS)}")
    return layers


def _following(store: Path, layers: list[str], device: "Device") -> "AbstractContextManager[Following | None]":
    """What builds the indices, if there are to be any; FAISS is not looked for otherwise."""
    if not layers:
        return nullcontext()
    from engine.index.stream import Following

    return Following(store, layers, device)


def _build(following: "Following", device: tuple[str, object], *, json_: bool) -> list[dict[str, Any]]:
    """Build the indices that --build names; what `build --json` says of each."""
    from engine.cli.build import index_document, say_index, was_tuned

    documents = []
    for number, layer in enumerate(following.layers):
        tuned = was_tuned(following.path / "indices" / layer)
        with Reporter() as progress:
            built = following.build_next(following.layers[number:], progress)
        documents.append(index_document(built))
        if not json_:
            say_index(built, device, untuned=tuned and not built.reused)
    return documents


def _any_photo(path: Path) -> int:
    from engine.store.store import Store

    store = Store.open(path)
    return int(store.photo_ids[store.present_rows[0]])


def _stages(report: "IngestReport") -> list[tuple[str, object]]:
    """How busy each stage of the way through a GPU was."""
    busy = ", ".join(f"{name} {share:.0%}" for name, share in report.stages.items())
    return [("stages", f"busy {busy}: bounded by {report.bound}")] if busy else []


def _title(report: "IngestReport") -> str:
    removed = f" (and {report.removed:,} removed)" if report.removed else ""
    if report.total == report.photos:
        return f"{counted(report.photos, 'photo')} in {report.store}"
    return f"{counted(report.photos, 'new photo')} in {report.store}, {report.total:,} in all{removed}"


def _counts(report: "IngestReport") -> list[tuple[str, object]]:
    """What was done, a line for each thing that happened at all."""
    lines: list[tuple[str, object]] = [("read", f"0 files in {report.seconds:.1f} s")]
    if report.files_read:
        done = f"{counted(report.files_read, 'file')}, {sized(report.bytes_read)} in {report.seconds:.1f} s"
        rate = f"{report.files_read / report.seconds:,.0f} files/s, {sized(report.bytes_read / report.seconds)}/s"
        lines = [("read", f"{done} ({rate}, {counted(report.threads, 'thread')})")]
    back = shlex.join(["mirsearch", "remove", str(report.store), "--undo"])
    counts = [
        ("known", report.known, f"{_files(report.known)} of photos that the store has already"),
        ("replaced", report.replaced, "of them had other content, which the store has now"),
        (
            "passed over",
            report.passed_over,
            f"{_files(report.passed_over)} of removed photos; `{back}` with their ids brings them back",
        ),
        ("continued", report.resumed, f"{_files(report.resumed)} had been written when the last run was interrupted"),
        ("repeated", report.repeated, f"{_files(report.repeated)} held a photo that was there already"),
        ("ignored", report.ignored, f"{_files(report.ignored)} not named as a .dat"),
    ]
    return [*lines, *((name, f"{count:,} {what}") for name, count, what in counts if count)]


def _files(count: int) -> str:
    return "file" if count == 1 else "files"
