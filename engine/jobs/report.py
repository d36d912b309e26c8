"""What a search for duplicates leaves behind: groups, pairs, a summary, lists to keep and to drop, and a page."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from engine.jobs.copy_metrics import TruthReport
from engine.jobs.decisions import Decisions
from engine.jobs.dedup import Duplicates
from engine.jobs.dedup_context import credits_of
from engine.jobs.dedup_out import check_outputs, write_text, write_together
from engine.jobs.groups import DuplicateGroup
from engine.jobs.needed import need
from engine.jobs.removal import Removal, plan_removal
from engine.jobs.report_data import KINDS, Listing
from engine.jobs.report_figures import short
from engine.jobs.report_page import PageSpec, page
from engine.jobs.store_mark import mark_of
from engine.store.manifest import digest
from engine.store.store import Store
from engine.version import VERSION


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


def write_duplicates(
    duplicates: Duplicates, store: Store, out: Path | str, spec: ReportSpec | None = None
) -> dict[str, Path]:
    """Write the files of a report (`dedup_out.FILES`) into `out`; their paths by name.

    Each is written aside; all are renamed when all are whole, the page last. Files of these names are replaced, nothing
    else in `out` is touched. InputError when `out` is a file or holds what `--query-store` wrote, EngineError when it
    cannot be written, StoreError when the annotations of the store are damaged, DependencyError without pyarrow.
    """
    spec, out = spec or ReportSpec(), Path(out)
    check_outputs(out, spec.images)
    removal = plan_removal(duplicates.groups, spec.decisions)
    lines = list(map(_group_line, duplicates.groups))
    report = _report_id(store, lines)
    summary = _summary(duplicates, store, spec, removal) | {"report": report, "groups_xxh3": digest(b"".join(lines))}
    writers: dict[str, Callable[[BinaryIO], None]] = {
        "groups.jsonl": lambda file: file.writelines(lines),
        "pairs.parquet": lambda file: _write_pairs(duplicates, report, file),
        "summary.json": lambda file: write_text(file, json.dumps(summary, indent=1) + "\n"),
        "keep.txt": lambda file: write_ids(file, removal.keep),
        "drop.txt": lambda file: write_ids(file, removal.drop),
        "report.html": lambda file: write_text(file, _page(duplicates, store, out, spec, summary)),
    }
    return write_together(out, writers)


def write_ids(file: BinaryIO, photo_ids: Iterable[int]) -> None:
    """Write photo ids as text, one a line."""
    file.writelines(b"%d\n" % photo_id for photo_id in photo_ids)


def _page(duplicates: Duplicates, store: Store, out: Path, spec: ReportSpec, summary: dict[str, Any]) -> str:
    listing = Listing.of(duplicates)
    known = credits_of(store, np.unique(listing.photos))
    made = PageSpec(folder=out, images=spec.images, credits_by_photo=known, earlier=spec.decisions)
    return page(duplicates, listing, summary, made)


def _group_line(group: DuplicateGroup) -> bytes:
    entry = {
        "representative": group.representative,
        "photo_ids": group.photo_ids,
        "min_score": short(group.min_score),
        "kind": group.kind,
    }
    return (json.dumps(entry) + "\n").encode()


def _write_pairs(duplicates: Duplicates, report: str, file: BinaryIO) -> None:
    parquet = need("pyarrow.parquet", "pyarrow")
    columns = {
        "photo_id_a": np.ascontiguousarray(duplicates.pairs[:, 0]),
        "photo_id_b": np.ascontiguousarray(duplicates.pairs[:, 1]),
        "score": duplicates.scores,
        "burst": np.zeros(len(duplicates.pairs), np.bool_) if duplicates.bursts is None else duplicates.bursts,
    }
    table = need("pyarrow", "pyarrow").table(columns).replace_schema_metadata({"report": report})
    parquet.write_table(table, file)


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
        "photos_in_pairs_alone": duplicates.ungrouped,
        "photos_identical_to_another": len(duplicates.copies),
        "keep": spec.keep,
        "pairs_judged_different": len(duplicates.judged),
        "decisions": len(spec.decisions) if spec.decisions else 0,
        "photos_to_keep": len(removal.keep),
        "photos_to_drop": len(removal.drop),
        "seconds": {name: round(seconds, 3) for name, seconds in duplicates.seconds.items()},
        "engine_version": VERSION,
        "made_of": mark_of(store.manifest, duplicates.layer),
        "truth": spec.truth.document() if spec.truth else None,
    }
