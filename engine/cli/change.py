"""`remove` and `compact`: photos marked as gone, and the store written anew without them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.console import Reporter, say_facts, say_json, say_next
from engine.cli.options import JsonOption, StoreArgument
from engine.errors import InputError
from engine.words import counted, sized


def remove(
    store: StoreArgument,
    photos: Annotated[list[int] | None, typer.Option("--photo", "-p", help="Photo id; may be repeated.")] = None,
    ids_file: Annotated[
        Path | None, typer.Option("--ids-file", help="Photo ids: text, one a line, or .npy.", show_default=False)
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring them back instead.")] = False,
    json_: JsonOption = False,
) -> None:
    """Mark photos as gone: no query, benchmark or list of duplicates shows them any more. Indices stay as they are.

    Their rows stay too until `compact`, so that --undo can bring them back. With an id that the store does not know
    nothing is changed at all.

    Example: `mirsearch remove store --photo 103169 --photo 4711`

    Back again: `mirsearch remove store --photo 4711 --undo`
    """
    from engine.store.change import read_id_list
    from engine.store.change import remove as remove_photos

    ids = [*(photos or []), *(read_id_list(ids_file).tolist() if ids_file else [])]
    if not ids:
        raise InputError("which photos? Expected --photo ID or --ids-file FILE with at least one.")
    if not all(0 <= photo_id < 1 << 63 for photo_id in ids):
        raise InputError(f"photo {next(i for i in ids if not 0 <= i < 1 << 63)}: not in {store}. Nothing was changed.")
    report = remove_photos(store, ids, undo=undo)
    if json_:
        say_json(asdict(report) | {"undo": undo})
        return
    done = "brought back" if undo else "removed"
    there = "is" if report.photos == 1 else "are"
    facts: list[tuple[str, object]] = []
    if report.already:
        were = "was" if report.already == 1 else "were"
        facts.append(("unchanged", f"{report.already:,} {were} {'not removed' if undo else 'removed already'}"))
    if report.removed:
        facts.append(("marked", f"{counted(report.removed, 'photo')} in all; the rows stay until `mirsearch compact`"))
    say_facts(f"{counted(report.changed, 'photo')} {done}, {report.photos:,} {there} in {store}", facts)
    if report.removed:
        say_next(["compact", store])


def compact(store: StoreArgument, json_: JsonOption = False) -> None:
    """Write the store anew without the rows of removed photos, and free their disk space.

    `remove --undo` cannot bring them back then. While it runs, the disk must hold the rows that stay a second time.
    Indices must be built again afterwards. Interrupted, it leaves the store as it was.

    Example: `mirsearch compact store`
    """
    from engine.index.verify import index_folders
    from engine.store.compact import compact_store

    with Reporter() as progress:
        report = compact_store(store, progress=progress)
    stale = [folder.name for folder in index_folders(store)] if report.dropped else []
    if json_:
        say_json(asdict(report) | {"stale_indices": stale})
        return
    if not report.dropped:
        say_facts(f"{counted(report.photos, 'photo')} in {store}", [("removed", "none: there is nothing to do")])
        return
    lines: list[tuple[str, object]] = [("dropped", f"{counted(report.dropped, 'removed photo')}")]
    lines.append(("freed", sized(report.freed)))
    if stale:
        lines.append(("indices", f"{', '.join(stale)}: of the store as it was; build again"))
    say_facts(f"{counted(report.photos, 'photo')} in {store}", lines)
    if stale:
        say_next(["build", store, "--layer", "all"])
