"""`info`, `verify`, `doctor`: what there is, whether it is intact, and whether this machine can use it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.build import describe
from engine.cli.console import Reporter, err, out, say_facts, say_json, size
from engine.cli.options import JsonOption, StoreArgument
from engine.errors import EngineError, StoreError

if TYPE_CHECKING:
    from engine.index.manifest import IndexManifest
    from engine.store.store import Store
    from engine.store.verify import VerifyReport


def info(store: StoreArgument, json_: JsonOption = False) -> None:
    """Say what a store and its indices hold.

    Example: `mirsearch info store`
    """
    from engine.index.build import BuildReport
    from engine.index.manifest import stale
    from engine.index.verify import index_folders
    from engine.store.store import Store

    opened = Store.open(store)
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
                (name, f"{layer.dim:,} × float32, {size(len(opened) * layer.dim * 4)}")
                for name, layer in manifest.layers.items()
            ),
            ("sources", ", ".join(manifest.sources)),
            ("set aside", _quarantine(store, manifest.quarantined)),
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
            lines.append(("stale", f"built from another state of the store, {change}: build it again"))
        say_facts(f"Index {name}", lines)


def _index(folder: Path) -> "IndexManifest | str":
    from engine.index.manifest import read_index_manifest

    try:
        return read_index_manifest(folder)
    except EngineError as error:
        return str(error)


def _quarantine(store: Path, count: int) -> str:
    if not count:
        return "no file"
    try:
        lines = (store / "quarantine.jsonl").read_text().splitlines()
        reasons = Counter(json.loads(line)["reason"].split(":", 1)[0].split("(", 1)[0].strip() for line in lines)
        common = "; ".join(f"{number} × {reason}" for reason, number in reasons.most_common(3))
    except (OSError, ValueError, KeyError):
        common = "quarantine.jsonl cannot be read"
    return f"{count:,} files ({common})"


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
        "sources": manifest.sources,
        "indices": {
            name: {"error": found}
            if isinstance(found, str)
            else {
                "spec": found.spec.model_dump(),
                "probes": found.probes,
                "rerank": found.rerank,
                "bytes": sum(part.bytes for part in found.parts.values()),
                "shards": len(found.shards),
                "training": found.training,
                "stale": stale(found, manifest) is not None,
            }
            for name, found in indices.items()
        },
    }


def verify(store: StoreArgument, json_: JsonOption = False) -> None:
    """Read a store and its indices again, every byte, against their checksums. Exit code 3 when anything differs.

    Example: `mirsearch verify store`
    """
    from engine.index.verify import index_folders, verify_index

    with Reporter() as progress:
        reports = [_verify_store(store, progress)]
        reports += [verify_index(folder, progress=progress) for folder in index_folders(store)]
    damage = [(report.path, item) for report in reports for item in report.damage]
    if json_:
        say_json(
            {
                "path": str(store),
                "intact": not damage,
                "checked": [{"path": str(r.path), "bytes": r.bytes_read, "seconds": r.seconds} for r in reports],
                "damage": [asdict(item) | {"path": str(path / item.file)} for path, item in damage],
            }
        )
    else:
        read, seconds = sum(r.bytes_read for r in reports), sum(r.seconds for r in reports)
        rate = f"{size(read)} in {seconds:.1f} s" + (f", {read / seconds / 1e9:.1f} GB/s" if seconds else "")
        say_facts(
            f"{store}: {'damaged' if damage else 'intact'}",
            [("read", rate), ("checked", f"the store and {len(reports) - 1} index(es)")],
        )
        for path, item in damage:
            rows = f" rows {item.rows[0]:,} to {item.rows[1] - 1:,}" if item.rows else ""
            photos = f" (photos {item.photo_ids[0]} to {item.photo_ids[1]})" if item.photo_ids else ""
            where = f"{path / item.file}:{rows}{photos} " if item.file else ""
            err.print(f"{where}{item.reason}", style="red")
    if damage:
        raise typer.Exit(3)


def _verify_store(store: Path, progress: Reporter) -> "VerifyReport":
    """The store's report; a manifest, header or id file that is damaged is damage like any other."""
    from engine.store.verify import Damage, VerifyReport, verify_store

    try:
        return verify_store(store, progress=progress)
    except StoreError as error:
        if not (store / "manifest.json").exists():
            raise
        found = Damage(file="", reason=f"{error} What lies beside it was not read.")
        return VerifyReport(path=store, bytes_read=0, seconds=0.0, damage=[found])


def doctor(
    json_: Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on standard output.")] = False,
) -> None:
    """Examine this machine and installation: Python, FAISS, CuPy, GPUs, and what `--device auto` would choose.

    Exit code 1 with the line that helps when something must be installed.

    Example: `mirsearch doctor`
    """
    from engine.jobs.doctor import examine_machine

    found = examine_machine()
    if json_:
        say_json({"facts": found.facts, "problems": found.problems})
    else:
        say_facts("This machine", list(found.facts.items()))
        for problem in found.problems:
            err.print(f"! {problem}", style="red")
        if not found.problems:
            out.print("No problems found.")
    if found.problems:
        raise typer.Exit(1)
