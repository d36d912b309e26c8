"""`info` and `doctor`: what there is, and whether this machine can use it."""

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.build import describe
from engine.cli.console import Reporter, err, out, say_facts, say_json
from engine.cli.options import JsonOption, StoreArgument
from engine.cli.photo import say_photos
from engine.errors import EngineError
from engine.words import counted, sized

if TYPE_CHECKING:
    from engine.index.manifest import IndexManifest
    from engine.jobs.parity import ParityReport
    from engine.store.store import Store


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
