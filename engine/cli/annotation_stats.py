"""`annotations stats`: what is known about the photos of a store, beside the published million."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import Reporter, out, say_facts, say_json, say_next, say_table
from engine.cli.options import JsonOption, StoreArgument
from engine.words import counted

if TYPE_CHECKING:
    from engine.jobs.annotation_stats import Stats


def stats(
    store: StoreArgument,
    out_: Annotated[
        Path | None, typer.Option("--out", help="Folder for a page, its pictures and the numbers.", show_default="none")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many of the commonest tags, groups …")] = 20,
    json_: JsonOption = False,
) -> None:
    """Count what is known about the photos of a store, beside what is published of the million.

    Example: `mirsearch annotations stats store --out stats`
    """
    from engine.jobs.annotation_stats import annotation_stats, write_stats
    from engine.store.outside import check_outside
    from engine.store.store import Store

    if out_ is not None:
        check_outside(store, out_)
    with Reporter() as progress:
        found = annotation_stats(Store.open(store), top=top, progress=progress)
    written = write_stats(found, out_) if out_ is not None else {}
    if json_:
        say_json(found.document() | ({"files": {name: str(path) for name, path in written.items()}} if written else {}))
        return
    _say(found)
    if written:
        out.print(f"\nA page with map and dates: {written['stats.html']}")
    else:
        say_next(["annotations", "stats", store, "--out", "stats"])


def _say(found: "Stats") -> None:
    from engine.jobs.annotation_page import HEADINGS, NAMES, percent, points
    from engine.store.annotations.fields import shown_value

    say_facts(
        f"{counted(found.photos, 'photo')} in {found.store}, {found.annotated:,} with annotations",
        [
            ("not in the store", f"{counted(found.without_features, 'photo')} with annotations"),
            ("set aside", counted(found.quarantined, "file")),
            ("geo-tagged", f"{int(found.places.sum()):,} in {int((found.places > 0).sum()):,} cells of half a degree"),
            *((f"{HEADINGS[name].lower()}", f"{top.distinct:,} different") for name, top in found.tops.items()),
            ("counted", f"in {found.seconds:.1f} s"),
        ],
    )
    out.print()
    say_table(
        ("", "photos", "share", "published", "share", "points apart"),
        [
            (NAMES[one.name], f"{one.photos:,}", percent(one.share), f"{one.published:,}",
             percent(one.published_share), points(one.difference))
            for one in found.fields
        ],
    )  # fmt: skip
    for name, top in found.tops.items():
        if name != "owners" and top.most:
            most = ", ".join(f"{shown_value(entry.label)} ({entry.photos:,})" for entry in top.most)
            out.print("\n" + textwrap.fill(f"{HEADINGS[name]}: {most}", 100, subsequent_indent="  "))
