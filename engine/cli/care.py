"""`info`, `verify`, `doctor`: what there is, whether it is intact, and whether this machine can use it."""

import json
import shlex
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.build import describe
from engine.cli.console import Reporter, err, out, say_facts, say_json, say_next, warn
from engine.cli.options import DeviceOption, JsonOption, StoreArgument, settle
from engine.cli.photo import say_photos
from engine.errors import EngineError, StoreError
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.index.manifest import IndexManifest
    from engine.jobs.parity import ParityReport
    from engine.store.repair import RepairReport
    from engine.store.store import Store
    from engine.store.verify import Damage, VerifyReport


def info(
    store: StoreArgument,
    photo: Annotated[
        list[int] | None,
        typer.Option("--photo", min=0, max=(1 << 63) - 1, help="All of this photo; repeatable.", show_default=False),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say what a store and its indices hold, or all that is known of a photo.

    Example: `mirsearch info store`
    """
    from engine.index.build import BuildReport
    from engine.index.manifest import build_words, grown, stale
    from engine.index.verify import index_folders
    from engine.jobs.query_notice import imported_queries, unused_queries
    from engine.store.store import Store

    opened = Store.open(store)
    if photo:
        say_photos(opened, photo, as_json=json_)
        return
    indices = {folder.name: _index(folder) for folder in index_folders(store)}
    if json_:
        say_json(_document(opened, indices))
        return
    ids = opened.photo_ids[opened.present_rows]
    manifest = opened.manifest
    say_facts(
        f"Store {store}: {opened.photos:,} photos",
        [
            ("photo ids", f"{ids.min()} to {ids.max()}" if len(ids) else "none"),
            *([("removed", f"{manifest.removed.count:,} more, whose rows are kept")] if manifest.removed else []),
            *(
                (name, f"{layer.dim:,} × float32, {sized(len(opened) * layer.dim * 4)}")
                for name, layer in manifest.layers.items()
            ),
            *(("queries", imported_queries(manifest, name)) for name in manifest.query_sets),
            ("sources", ", ".join(manifest.sources)),
            ("set aside", _quarantine(store, manifest.quarantined)),
            *_annotations(opened),
            ("written by", f"mirsearch {manifest.engine_version}, format {manifest.version}"),
        ],
    )
    for name, found in indices.items():
        if isinstance(found, str):
            out.print(f"Index {name}", style="bold")
            out.print(f"  unusable: {found}")
            continue
        report = BuildReport(path=store / "indices" / name, manifest=found, seconds=0)
        lines = [
            ("layer", found.spec.layer),
            *describe(report),
            ("size", f"{report.bytes_per_photo:,.0f} bytes a photo"),
        ]
        if change := stale(found, manifest):
            words = build_words(store / "indices" / name, found.spec, update=grown(found, manifest, opened.photo_ids))
            again = shlex.join(["mirsearch", *words])
            lines.append(("stale", f"built from another state of the store, {change}: {again}"))
        if why := unused_queries(manifest, found.spec.layer, found.spec.metric):
            lines.append(("queries", why))
        say_facts(f"Index {name}", lines)


def _index(folder: Path) -> "IndexManifest | str":
    from engine.index.manifest import read_index_manifest

    try:
        return read_index_manifest(folder)
    except EngineError as error:
        return str(error)


def _annotations(store: "Store") -> list[tuple[str, str]]:
    """A line on the annotations, if there are any."""
    from engine.store.annotations.schema import FILE, QUARANTINE

    if not any((store.path / name).exists() for name in (FILE, QUARANTINE)):
        return []
    from engine.store.annotations.table import Annotations

    try:
        facts = Annotations.open(store).facts
    except EngineError as error:
        return [("annotations", f"unusable: {error}")]
    aside = f", {counted(facts.quarantined, 'file')} set aside" if facts.quarantined else ""
    return [("annotations", f"of {counted(facts.annotated, 'photo')}{aside}")]


def _quarantine(store: Path, count: int) -> str:
    if not count:
        return "no file"
    try:
        lines = (store / "quarantine.jsonl").read_text().splitlines()
        reasons = Counter(json.loads(line)["reason"].split(":", 1)[0].split("(", 1)[0].strip() for line in lines)
        common = "; ".join(f"{number} × {reason}" for reason, number in reasons.most_common(3))
    except (OSError, ValueError, KeyError):
        common = "quarantine.jsonl cannot be read"
    return f"{counted(count, 'file')} ({common})"


def _document(store: "Store", indices: "dict[str, IndexManifest | str]") -> dict[str, Any]:
    from engine.index.manifest import stale

    manifest, ids = store.manifest, store.photo_ids[store.present_rows]
    return {
        "path": str(store.path),
        "photos": store.photos,
        "rows": len(store),
        "format_version": manifest.version,
        "engine_version": manifest.engine_version,
        "layers": {
            name: {"dim": layer.dim, "bytes": len(store) * layer.dim * 4} for name, layer in manifest.layers.items()
        },
        "photo_ids": {"min": int(ids.min()), "max": int(ids.max())} if len(ids) else None,
        "quarantined": manifest.quarantined,
        "annotations": dict(_annotations(store)).get("annotations"),
        "sources": manifest.sources,
        "indices": {
            name: {"error": found}
            if isinstance(found, str)
            else {
                "spec": found.spec.model_dump(),
                "probes": found.probes,
                "rerank": found.rerank,
                "tuned": found.tuned.default.model_dump(mode="json") | {"rows": found.tuned.rows}
                if found.tuned
                else None,
                "bytes": sum(part.bytes for part in found.parts.values()),
                "shards": len(found.shards),
                "training": found.training,
                "stale": stale(found, manifest) is not None,
            }
            for name, found in indices.items()
        },
    }


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


def doctor(
    parity: Annotated[
        bool, typer.Option("--parity", help="Build small indices and compare the answers of all devices.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on standard output.")] = False,
) -> None:
    """Examine this machine and installation: Python, FAISS, CuPy, GPUs, and what `--device auto` would choose.

    Exit code 1 with the line that helps when something must be installed. With --parity small indices are built on
    every device and the answers of CPU and GPU compared, ties treated fairly; exit code 3 when they differ by more
    than the tolerance that is printed.

    Example: `mirsearch doctor`
    """
    from engine.jobs.doctor import examine_machine

    found = examine_machine()
    report = _parity() if parity and not found.problems else None
    if json_:
        document = {"facts": found.facts, "problems": found.problems}
        say_json(document | ({"parity": report.to_dict()} if report else {}))
    else:
        say_facts("This machine", list(found.facts.items()))
        for problem in found.problems:
            err.print(f"! {problem}", style="red")
        if not found.problems:
            out.print("No problems found.")
        if report:
            _say_parity(report)
    if found.problems:
        raise typer.Exit(1)
    if report and not report.agrees:
        raise typer.Exit(3)


def _parity() -> "ParityReport":
    from engine.jobs.parity import check_parity

    with Reporter() as progress:
        return check_parity(progress=progress)


def _say_parity(report: "ParityReport") -> None:
    from engine.jobs.parity import ANSWERS_ALLOWED, SCORE_TOLERANCE

    say_facts(
        f"Parity: {'the devices agree' if report.agrees else 'the devices differ'}",
        [
            ("compared", f"{', '.join(report.devices)}; {report.rows:,} rows of fc7 and fc8, {report.seconds:.0f} s"),
            *([("note", report.note)] if report.note else []),
            ("checks", f"{len(report.checks)}, of which {len(report.differing)} failed"),
            (
                "tolerance",
                f"an answer may score {SCORE_TOLERANCE:g} less than the other's last; {ANSWERS_ALLOWED:.1%} of an "
                "index's answers may differ, of exact search none",
            ),
        ],
    )
    for check in report.differing:
        err.print(
            f"! {check.what}: {check.device} differs from {check.against} in {check.differing:,} of "
            f"{check.compared:,} values, by up to {check.worst:.3g} (tolerance {check.tolerance:g})",
            style="red",
        )
