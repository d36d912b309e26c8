"""`annotations`: what Flickr's users said of the photos, read into a store, looked at and counted."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.annotation_stats import stats
from engine.cli.console import Reporter, out, say_facts, say_json, say_next, say_table, warn
from engine.cli.options import JsonOption
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.store.annotations.report import AnnotationsReport

_NAMED = 10  # paths of a map that a line names
SourcesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="SOURCE...", help="Folders of .json files, archives of them, or single files.", show_default=False
    ),
]
MapOption = Annotated[
    Path | None,
    typer.Option("--map", help="JSON file of fields and the paths where they stand.", show_default=False),
]


def annotations() -> None:
    """Titles, tags, places, comments: read JSON files of Flickr's API into a store, and see what is known.

    Example: `mirsearch annotations ingest sample/annotations --store store`
    """


def ingest(
    sources: SourcesArgument,
    store: Annotated[Path, typer.Option("--store", help="Folder of the store.", show_default=False)],
    map_: MapOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that read.", show_default="all cores")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where photos lose what the table that is there says of them.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Read annotation files below SOURCE into `annotations.parquet` of a store: a row for each of its rows.

    Folders, .tar, .tar.gz, .tar.bz2, .tar.zst and .zip; `10/103169.json` belongs to photo 103169. MIRFLICKR's own
    `tags` and `exif` text files are read too. The table is made anew each time, so name all sources: one by which a
    photo would lose a field is refused without --replace. A file that is no JSON object is set aside in
    `annotations-quarantine.jsonl` with the reason; the exit code is then 3. Interrupted, the same command continues.

    Example: `mirsearch annotations ingest sample/annotations --store store`
    """
    from engine.store.annotations.ingest import ingest_annotations

    with Reporter() as progress:
        report = ingest_annotations(
            store, sources, mapping=map_, workers=workers, replace=replace, progress=progress
        )  # fmt: skip
    if json_:
        say_json(asdict(report))
    else:
        say_facts(f"{counted(report.annotated, 'annotated photo')} in {store}", _counts(report))
    if report.refused:
        aside = "file was" if report.refused == 1 else "files were"
        warn(f"{report.refused:,} {aside} set aside; {store / 'annotations-quarantine.jsonl'} says why.")
    if report.not_understood:
        warn(
            f"In {counted(report.not_understood, 'file')} nothing was understood: `mirsearch annotations inspect` says "
            "what they hold, --map says where fields stand."
        )
    _warn_of_the_map(report.absent_paths)
    _warn_of_losses(report)
    if not json_:
        say_next(["annotations", "stats", store], ["info", store])
    if report.refused:
        raise typer.Exit(3)


def _counts(report: "AnnotationsReport") -> list[tuple[str, object]]:
    seconds = max(report.seconds, 1e-9)
    lines: list[tuple[str, object]] = [
        (
            "read",
            f"{counted(report.files_read, 'file')}, {sized(report.bytes_read)} in {report.seconds:.1f} s "
            f"({report.files_read / seconds:,.0f} files/s, {counted(report.workers, 'process', 'processes')})",
        ),
        *(
            [("before", counted(report.annotated_before, "annotated photo"))]
            if report.annotated_before is not None
            else []
        ),
        ("without annotations", _without(report)),
        ("without features", f"{counted(report.without_features, 'photo')} that the store does not have"),
    ]
    more = [
        ("continued", report.resumed, "had been read by a run before that came to no end"),
        ("repeated", report.repeated, "of photos that had one before; what they say is one row"),
        ("failures", report.failed, "hold nothing but an error of the API"),
        ("ignored", report.ignored, "are no annotation files"),
    ]
    if report.dropped:
        said = ", ".join(f"{name} in {counted(count, 'file')}" for name, count in report.dropped.items())
        lines.append(("not readable", f"and so left out: {said}"))
    return [*lines, *((name, f"{count:,} {what}") for name, count, what in more if count)]


def _warn_of_losses(report: "AnnotationsReport") -> None:
    """Say what the table that was there said and the new one does not."""
    from engine.store.annotations.loss import described

    if report.unreadable:
        warn(f"Nobody knows what the table before it said, since it could not be read: {report.unreadable}")
    if report.lost:
        warn(
            f"{counted(report.lost, 'photo')} lost what these sources do not say: {described(report.lost_fields)}. "
            f"{counted(report.annotated_before or 0, 'photo')} had annotations, now {report.annotated:,}. To have all "
            "back, name all sources in one command."
        )


def _warn_of_the_map(absent: Sequence[str]) -> None:
    """Say which paths of the user's map led nowhere."""
    if absent:
        more = f" and {len(absent) - _NAMED:,} more" if len(absent) > _NAMED else ""
        warn(f"Of --map, in no file: {_shown('; '.join(absent[:_NAMED]))}{more}.")


def _without(report: "AnnotationsReport") -> str:
    text = f"{report.without_annotations:,} of {counted(report.photos, 'photo')}"
    return text + (f"; the files of {report.said_nothing:,} of them say nothing" if report.said_nothing else "")


def inspect(
    sources: SourcesArgument,
    map_: MapOption = None,
    files: Annotated[int, typer.Option("--files", min=1, help="How many files to look at.")] = 1000,
    json_: JsonOption = False,
) -> None:
    """Show the key paths in annotation files, how often each stands there, an example, and what is read from it.

    A path with nothing beside it is not used; --map FILE can name it for a field:
    `{"title": "meta.headline", "tags": "keywords[].name"}`.

    Example: `mirsearch annotations inspect sample/annotations --files 200`
    """
    from engine.store.annotations.inspect import inspect_annotations

    with Reporter() as progress:
        found = inspect_annotations(sources, files=files, mapping=map_, progress=progress)
    if json_:
        document = asdict(found)
        for path, understood in zip(document["paths"], (path.understood for path in found.paths), strict=True):
            del path["tries"]
            path["understood"] = understood
        say_json(document)
    else:
        cells = [
            [
                _shown(path.path),
                f"{path.files:,}",
                f"{path.values:,}",
                ", ".join(path.fields) or ("?" if path.understood is None else "-"),
                _shown(path.example),
            ]
            for path in found.paths
        ]
        say_table(["path", "files", "values", "read as", "example"], cells, texts=("read as", "example"))
        known, untried = (sum(path.understood is one for path in found.paths) for one in (True, None))
        out.print(
            f"\n{counted(found.files, 'file')} looked at: {counted(len(found.paths), 'path')}, {known:,} of them read."
        )
        if untried:
            out.print(
                f"{counted(untried, 'path')}, marked ?, could not be tried: to try one is to read its file again, "
                "and the files hold too many."
            )
        if found.left_out:
            out.print(f"{found.left_out:,} further paths are not listed.")
    _warn_of_the_map(found.absent_paths)
    for reason in found.reasons:
        warn(_shown(reason))
    if found.refused:
        raise typer.Exit(3)


def _shown(text: str) -> str:
    """A text that cannot do anything to a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


SUBVERBS = {"": annotations, "ingest": ingest, "inspect": inspect, "stats": stats}
