"""`synth` and `ingest`: photo collections and the stores made from them."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next, warn
from engine.cli.options import DeviceOption, JsonOption, device_facts, settle
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.store.ingest import IngestReport


def synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.", show_default=False)],
    photos: Annotated[int, typer.Option("--photos", "-n", help="How many photos.")] = 20_000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same collection.")] = 0,
    images: Annotated[bool, typer.Option("--images", help="Draw a small picture of each photo too.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a made-up photo collection, laid out as the publisher's, with planted duplicates.

    Example: `mirsearch synth sample --photos 20000 --images`
    """
    from engine.store.synth import synthesize

    with Reporter() as progress:
        report = synthesize(directory, photos=photos, seed=seed, images=images, progress=progress)
    if json_:
        say_json(asdict(report))
        return
    pairs = ", ".join(f"{count:,} {kind}" for kind, count in report.pairs.items())
    say_facts(
        f"Wrote {counted(report.photos, 'photo')}",
        [
            ("features", directory / "features"),
            *([("pictures", directory / "images")] if images else []),
            ("planted pairs", pairs or "none"),
            ("truth", report.truth),
            ("written", f"{sized(report.bytes)} in {report.seconds:.1f} s"),
        ],
    )
    say_next(["ingest", directory / "features", "--store", "store"])


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

    Example: `mirsearch ingest sample/features --store store`
    """
    from engine.store.ingest import ingest as ingest_files

    settled = settle(device, needs_faiss=False)
    with Reporter() as progress:
        report = ingest_files(
            sources, store, device=settled, strict=strict, replace=replace, threads=threads, progress=progress
        )
    if json_:
        say_json(asdict(report) | {"quarantine": store / "quarantine.jsonl"})
    else:
        say_facts(_title(report), [*_counts(report), device_facts(settled)])
    if report.refused:
        aside = "file was" if report.refused == 1 else "files were"
        warn(f"{report.refused:,} {aside} set aside; {store / 'quarantine.jsonl'} says why.")
    if not json_:
        # Beside indices that are there, `info` says of each what brings it up to date: often less than building it.
        there = any((store / "indices").glob("*/index.json"))
        say_next(*([["info", store]] if there else [["build", store, "--layer", "all"], ["info", store]]))
    if report.refused:
        raise typer.Exit(3)


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
