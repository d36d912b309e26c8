"""`dedup apply`: what was found and decided about duplicates becomes lists, or photos marked as removed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.console import say_facts, say_json, say_next, warn
from engine.cli.options import JsonOption, wrong_usage
from engine.words import counted

if TYPE_CHECKING:
    from engine.jobs.removal import Removal


def apply(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of `dedup`.", show_default=False)],
    store: Annotated[
        Path | None, typer.Option("--store", help="Folder of the store.", show_default="where it was then")
    ] = None,
    decisions: Annotated[
        list[Path] | None,
        typer.Option(
            "--decisions", help="File saved from the report; may be repeated.", show_default="DIR/decisions.json"
        ),
    ] = None,
    kinds: Annotated[
        str, typer.Option("--kinds", help="Of undecided groups, those that are thinned out: exact,copy,burst or none.")
    ] = "exact,copy",
    remove: Annotated[bool, typer.Option("--remove", help="Mark the photos as removed in the store.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write which photos of a report stay and which may go: DIR/keep.txt and DIR/drop.txt; --remove marks these gone.

    A group that was decided on keeps the photo that was chosen; another one its representative, if it is of one of
    --kinds; photos judged different stay. No picture is ever touched, and `remove --undo` brings photos back.

    Example: `mirsearch dedup apply duplicates --decisions ~/Downloads/decisions.json`
    """
    from engine.jobs.dedup_apply import ApplySpec, apply_report

    spec = ApplySpec(store=store, decisions=decisions or (), kinds=_kinds(kinds))
    found = apply_report(folder, spec)
    removal, going = found.removal, len(found.removal.drop)
    for doubt in found.doubts:
        warn(doubt)
    # Before anything is said: nobody who stops reading keeps it from being done.
    report = found.remove() if remove and going else None
    if not json_:
        facts: list[tuple[str, object]] = [
            ("decided", f"{counted(removal.decided, 'group')} by {counted(found.decisions, 'decision')}"),
            ("by kind", f"{counted(removal.by_kind, 'group')} ({kinds})"),
            *((name, f"{counted(count, 'group')} {what}") for name, count, what in _rest(removal) if count),
            ("stay", f"{len(removal.keep):,}: {found.files['keep.txt']}"),
            ("may go", f"{going:,}: {found.files['drop.txt']}"),
        ]
        say_facts(f"{counted(going, 'photo')} of {counted(found.groups, 'group')} may go from {found.store}", facts)
    if json_:
        say_json({
            "store": str(found.store), "groups": found.groups, "decisions": found.decisions,
            "decided": removal.decided, "by_kind": removal.by_kind, "left": removal.left,
            "settled": removal.settled, "unsettled": removal.unsettled, "keep": len(removal.keep), "drop": going,
            "removed": report.changed if report else 0, "photos": report.photos if report else None,
            "doubts": found.doubts,
            "files": {name: str(path) for name, path in found.files.items()},
        })  # fmt: skip
    elif report:
        say_facts(f"{counted(report.changed, 'photo')} removed, {report.photos:,} are left in {found.store}", [])
        say_next(["remove", found.store, "--undo", "--ids-file", found.undo], ["compact", found.store])
    elif going:
        again = ["--store", store] if store else []
        told = [word for path in decisions or () for word in ("--decisions", path)]
        say_next(["dedup", "apply", folder, *again, *told, "--kinds", kinds, "--remove"])


def _rest(removal: "Removal") -> list[tuple[str, int, str]]:
    """The groups that nothing is dropped from."""
    return [
        ("left", removal.left, "of other kinds, not decided"),
        ("settled", removal.settled, "with nothing left to drop"),
        ("unsettled", removal.unsettled, "without a photo to keep: run `dedup` again, or decide"),
    ]


def _kinds(text: str) -> tuple[str, ...]:
    from engine.jobs.report_data import KINDS

    named = () if text == "none" else tuple(text.split(","))
    if not set(named) <= set(KINDS):
        raise wrong_usage("kinds", f"{text!r}: expected some of {','.join(KINDS)}, or none")
    return named
