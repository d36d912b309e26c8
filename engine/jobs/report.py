"""What a search for duplicates leaves behind: groups, pairs, a summary, lists to keep and to drop, and a page."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from engine.errors import InputError
from engine.jobs.copy_metrics import TruthReport
from engine.jobs.decisions import Decisions
from engine.jobs.dedup import Duplicates
from engine.jobs.dedup_context import credits_of
from engine.jobs.groups import DuplicateGroup
from engine.jobs.needed import need
from engine.jobs.removal import Removal, plan_removal
from engine.jobs.report_data import KINDS, Listing
from engine.jobs.report_figures import short
from engine.jobs.report_page import PageSpec, page
from engine.jobs.store_mark import mark_of
from engine.store.durable import disk_errors, flush_folder, part_of, publish
from engine.store.store import Store
from engine.version import VERSION

# The page is written last: where it is, the other files are whole and belong to it.
FILES = ("groups.jsonl", "pairs.parquet", "summary.json", "keep.txt", "drop.txt", "report.html")


@dataclass(frozen=True, kw_only=True)
class ReportSpec:
    """What a report holds beside the duplicates.

    images: folder with `10/103169.jpg` (or .jpeg, .png). truth: how they compare with what was planted. decisions:
    those that were taken into account. keep: the rule that chose the representatives.
    """

    images: Path | None = None
    truth: TruthReport | None = None
    decisions: Decisions | None = None
    keep: str | None = None


def check_outputs(out: Path | str, images: Path | str | None = None) -> None:
    """Make the folder `out`, and raise whatever would keep `write_duplicates` from writing: worth an early call."""
    out = Path(out)
    if images is not None and not Path(images).is_dir():
        raise InputError(f"--images {images}: not a folder, expected the folder that holds 0/123.jpg")
    if not next(path for path in (out, *out.absolute().parents) if path.exists()).is_dir():
        raise InputError(f"--out {out}: is or lies below a file, expected a folder. Give another folder.")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (out / name).is_dir():
            raise InputError(
                f"{out / name}: is a folder, and a file of that name is to be written. Give another --out."
            )
    need("pyarrow.parquet", "pyarrow")
    if images is not None:
        need("PIL.Image", "pillow")


def write_duplicates(
    duplicates: Duplicates, store: Store, out: Path | str, spec: ReportSpec | None = None
) -> dict[str, Path]:
    """Write the files of FILES into `out`; their paths by name.

    Each is written aside; all are renamed when all are whole, the page last. Files of these names are replaced, nothing
    else in `out` is touched. InputError when `out` is a file, EngineError when it cannot be written, StoreError when
    the annotations of the store are damaged, DependencyError without pyarrow.
    """
    spec, out = spec or ReportSpec(), Path(out)
    check_outputs(out, spec.images)
    removal = plan_removal(duplicates.groups, spec.decisions)
    lines = list(map(_group_line, duplicates.groups))
    summary = _summary(duplicates, store, spec, removal) | {"report": _report_id(store, lines)}
    writers: dict[str, Callable[[BinaryIO], None]] = {
        "groups.jsonl": lambda file: file.writelines(lines),
        "pairs.parquet": lambda file: _write_pairs(duplicates, file),
        "summary.json": lambda file: _write_text(file, json.dumps(summary, indent=1) + "\n"),
        "keep.txt": lambda file: write_ids(file, removal.keep),
        "drop.txt": lambda file: write_ids(file, removal.drop),
        "report.html": lambda file: _write_text(file, _page(duplicates, store, out, spec, summary)),
    }
    return write_together(out, writers)


def write_together(out: Path, writers: Mapping[str, Callable[[BinaryIO], None]]) -> dict[str, Path]:
    """Write files into a folder aside, and give them their names when all are whole, the last one last.

    An old file of the last name is taken away first: it belongs to the old ones.
    """
    paths = {name: out / name for name in writers}
    with disk_errors(out):
        try:
            for name, path in paths.items():
                with part_of(path).open("wb") as file:
                    writers[name](file)
            paths[list(paths)[-1]].unlink(missing_ok=True)
            for path in paths.values():
                publish(path)
            flush_folder(out)
        finally:
            for path in paths.values():
                with suppress(OSError):
                    part_of(path).unlink(missing_ok=True)
    return paths


def write_ids(file: BinaryIO, photo_ids: Iterable[int]) -> None:
    """Write photo ids as text, one a line."""
    file.writelines(b"%d\n" % photo_id for photo_id in photo_ids)


def _page(duplicates: Duplicates, store: Store, out: Path, spec: ReportSpec, summary: dict[str, Any]) -> str:
    listing = Listing.of(duplicates)
    known = credits_of(store, np.unique(listing.photos))
    made = PageSpec(folder=out, images=spec.images, credits_by_photo=known, earlier=spec.decisions)
    return page(duplicates, listing, summary, made)


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode(errors="replace"))  # the name of a folder may hold bytes that are no text


def _group_line(group: DuplicateGroup) -> bytes:
    entry = {
        "representative": group.representative,
        "photo_ids": group.photo_ids,
        "min_score": short(group.min_score),
        "kind": group.kind,
    }
    return (json.dumps(entry) + "\n").encode()


def _write_pairs(duplicates: Duplicates, file: BinaryIO) -> None:
    parquet = need("pyarrow.parquet", "pyarrow")
    columns = {
        "photo_id_a": np.ascontiguousarray(duplicates.pairs[:, 0]),
        "photo_id_b": np.ascontiguousarray(duplicates.pairs[:, 1]),
        "score": duplicates.scores,
        "burst": np.zeros(len(duplicates.pairs), np.bool_) if duplicates.bursts is None else duplicates.bursts,
    }
    parquet.write_table(need("pyarrow", "pyarrow").table(columns), file)


def _report_id(store: Store, lines: Iterable[bytes]) -> str:
    """What the page remembers decisions under: another report of the same groups of the same store knows them too."""
    summed = xxhash.xxh3_128(os.fsencode(store.path))
    for line in lines:
        summed.update(line)
    return summed.hexdigest()


def _summary(duplicates: Duplicates, store: Store, spec: ReportSpec, removal: Removal) -> dict[str, Any]:
    kinds, choice = Counter(group.kind for group in duplicates.groups), duplicates.threshold_choice
    return {
        "store": str(store.path),
        "layer": duplicates.layer,
        "metric": duplicates.metric,
        "device": duplicates.device,
        "method": duplicates.method,
        "grouping": duplicates.grouping,
        "normalised": duplicates.normalised,
        "threshold": duplicates.threshold,
        "threshold_choice": choice.document() if choice else None,
        "photos": duplicates.photos,
        "pairs": len(duplicates.pairs),
        "groups": len(duplicates.groups),
        "groups_by_kind": {kind: kinds[kind] for kind in KINDS},
        "photos_in_groups": duplicates.grouped,
        "photos_identical_to_another": len(duplicates.copies),
        "keep": spec.keep,
        "pairs_judged_different": duplicates.judged,
        "decisions": len(spec.decisions) if spec.decisions else 0,
        "photos_to_keep": len(removal.keep),
        "photos_to_drop": len(removal.drop),
        "seconds": {name: round(seconds, 3) for name, seconds in duplicates.seconds.items()},
        "engine_version": VERSION,
        "made_of": mark_of(store.manifest, duplicates.layer),
        "truth": spec.truth.document() if spec.truth else None,
    }
