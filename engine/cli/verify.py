"""`verify`: whether a store and its indices are intact, and mending what is not."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.console import Reporter, err, out, say_facts, say_json, say_next, warn
from engine.cli.options import DeviceOption, JsonOption, StoreArgument, settle
from engine.errors import StoreError
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.store.repair import RepairReport
    from engine.store.verify import Damage, VerifyReport


def verify(
    store: StoreArgument,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SOURCE]...", help="What --repair reads: folders, archives.", show_default=False),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is damaged, rows from SOURCE.")] = False,
    forget_removed: Annotated[
        bool, typer.Option("--forget-removed", help="With --repair: if removed.npy is lost, its photos are back.")
    ] = False,
    device: DeviceOption = "auto",
    json_: JsonOption = False,
) -> None:
    """Read a store and its indices again, every byte, against their checksums. Exit code 3 when anything differs.

    With --repair the photos of damaged rows are read again from SOURCE, and taken where they match the checksums.
    Headers and lengths need no SOURCE. The exit code is 3 when any damage is left. An index of another state of the
    store is no damage, and is named.

    Example: `mirsearch verify store sample/features --repair`
    """
    from engine.index.verify import index_folders, verify_index

    if sources and not repair:
        raise typer.BadParameter("is read with --repair alone", param_hint="SOURCE")
    if forget_removed and not repair:
        raise typer.BadParameter("goes with --repair alone", param_hint="--forget-removed")
    with Reporter() as progress:
        mended: RepairReport | None = None
        if repair:
            mended, of_store = _repair(store, sources or [], device, forget_removed, progress)
        else:
            of_store = _verify_store(store, progress)
        of_store = _with_annotations(of_store, progress)
        reports = [of_store, *(verify_index(folder, progress=progress) for folder in index_folders(store))]
    if json_:
        say_json(_verified(store, reports, mended))
    else:
        _say_verified(store, reports, mended)
        if commands := _remedies(store, reports, repaired=repair):
            say_next(*commands)
    if any(report.damage for report in reports):
        raise typer.Exit(3)


def _verified(store: Path, reports: "list[VerifyReport]", mended: "RepairReport | None") -> dict[str, Any]:
    damage = [(report.path, item) for report in reports for item in report.damage]
    repaired = mended.repaired if mended else []
    return {
        "path": str(store),
        "intact": not damage,
        "checked": [{"path": str(r.path), "bytes": r.bytes_read, "seconds": r.seconds} for r in reports],
        "damage": [asdict(item) | {"path": str(path / item.file)} for path, item in damage],
        "repaired": [asdict(item) | {"path": str(store / item.file)} for item in repaired],
        "lost": mended.lost if mended else {},
        "stale_indices": {report.path.name: report.stale for report in reports if report.stale},
        "notes": reports[0].notes,
    }


def _say_verified(store: Path, reports: "list[VerifyReport]", mended: "RepairReport | None") -> None:
    read, seconds = sum(r.bytes_read for r in reports), sum(r.seconds for r in reports)
    rate = f"{sized(read)} in {seconds:.1f} s" + (f", {sized(read / seconds)}/s" if seconds else "")
    damaged = any(report.damage for report in reports)
    checked = f"the store and {counted(len(reports) - 1, 'index', 'indices')}"
    say_facts(f"{store}: {'damaged' if damaged else 'intact'}", [("read", rate), ("checked", checked)])
    for note in reports[0].notes:
        out.print(note)
    for item in mended.repaired if mended else []:
        out.print(f"{_where(store, item)}: mended")
    for line in mended.lost.values() if mended else []:
        warn(line)
    for report in reports:
        for item in report.damage:
            err.print(f"{_where(report.path, item)}: {item.reason}", style="red")
        if report.stale:
            warn(report.stale)


def _where(path: Path, item: "Damage") -> str:
    rows = f": rows {item.rows[0]:,} to {item.rows[1] - 1:,}" if item.rows else ""
    photos = f" (photos {item.photo_ids[0]} to {item.photo_ids[1]})" if item.photo_ids else ""
    return f"{path / item.file}{rows}{photos}"


def _remedies(store: Path, reports: "list[VerifyReport]", *, repaired: bool) -> list[list[object]]:
    """The commands that help against the damage that was found, as far as there are any."""
    from engine.index.verify import remake
    from engine.store.dat import LAYERS
    from engine.store.manifest import read_manifest

    commands: list[list[object]] = []
    files = {item.file for item in reports[0].damage} - {"annotations.parquet"}  # which no repair mends
    if files and not repaired and "manifest.json" not in files:
        layers = read_manifest(store).layers
        from_sources = layers.keys() == LAYERS.keys() and files & {"photo_ids.npy", *(x.file for x in layers.values())}
        commands.append(["verify", store, *(["SOURCE..."] if from_sources else []), "--repair"])
    if "manifest.json" not in files:
        commands += [[*remake(report.path)] for report in reports[1:] if report.damage]
    return commands


def _repair(
    store: Path, sources: list[Path], device: str, forget_removed: bool, progress: Reporter
) -> "tuple[RepairReport | None, VerifyReport]":
    """What was mended, and what a verification then finds."""
    from engine.store.repair import repair_store
    from engine.store.verify import VerifyReport

    settled = settle(device, needs_faiss=False)
    try:
        report = repair_store(store, sources, device=settled, forget_removed=forget_removed, progress=progress)
    except StoreError as error:
        return None, _beyond(store, error)
    left = VerifyReport(path=store, bytes_read=report.bytes_read, seconds=report.seconds, damage=report.left)
    return report, left


def _with_annotations(of_store: "VerifyReport", progress: Reporter) -> "VerifyReport":
    """The report of a store, and of its annotations if it has any."""
    from engine.store.annotations.schema import FILE, QUARANTINE

    if not any((of_store.path / name).exists() for name in (FILE, QUARANTINE)):
        return of_store
    from engine.store.annotations.verify import verify_annotations

    more = verify_annotations(of_store.path, progress=progress)
    return of_store if more is None else replace(
        of_store, damage=[*of_store.damage, *more.damage], notes=[*of_store.notes, *more.notes],
        bytes_read=of_store.bytes_read + more.bytes_read, seconds=of_store.seconds + more.seconds,
    )  # fmt: skip


def _verify_store(store: Path, progress: Reporter) -> "VerifyReport":
    """The store's report; a damaged manifest is damage like any other."""
    from engine.store.verify import verify_store

    try:
        return verify_store(store, progress=progress)
    except StoreError as error:
        return _beyond(store, error)


def _beyond(store: Path, error: StoreError) -> "VerifyReport":
    """The report of a store whose manifest is damaged. Any other error stays one: no store, or another is writing."""
    from engine.store.manifest import read_manifest
    from engine.store.verify import Damage, VerifyReport

    if (store / "manifest.json").exists():
        try:
            read_manifest(store)
        except StoreError:
            reason = str(error).removeprefix(f"{store / 'manifest.json'}: ")
            found = Damage(file="manifest.json", reason=f"{reason} What lies beside it was not read.")
            return VerifyReport(path=store, bytes_read=0, seconds=0.0, damage=[found])
    raise error
