"""The page of a report: one file of HTML, style, script and data that asks nobody for anything."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.jobs.decisions import Decisions
from engine.jobs.dedup import Duplicates
from engine.jobs.report_data import LISTED_IN_A_GROUP, Listing
from engine.jobs.report_figures import figures, page_file, page_text, score_section, short, truth_table
from engine.jobs.thumbnails import thumbnails
from engine.version import VERSION

# Pictures inside the page; those of the other groups are read from the folder of pictures when they are looked at.
PICTURED_GROUPS, PICTURED_PHOTOS, PICTURED_BYTES = 300, 2_000, 14_000_000
# Earlier decisions that the page saves again together with the new ones.
EARLIER_BYTES = 4_000_000
_SCRIPTS = ("report_groups.js", "report_review.js", "report_page.js")


@dataclass(frozen=True, kw_only=True)
class PageSpec:
    """What a page is made from beside the duplicates.

    folder: where the page will lie. images: folder of pictures. credits_by_photo: owner, licence, licence_url, url,
    each if known. earlier: decisions that were taken into account.
    """

    folder: Path
    images: Path | None = None
    credits_by_photo: Mapping[int, Mapping[str, str]]
    earlier: Decisions | None = None


def page(duplicates: Duplicates, listing: Listing, summary: dict[str, Any], spec: PageSpec) -> str:
    """The whole page. The data come last: nothing in them can be taken for a placeholder."""
    pictured, pictures = _pictures(listing, spec)
    columns = listing.columns(spec.credits_by_photo)
    earlier = _earlier(spec.earlier)
    data = {
        "report": summary["report"], "store": summary["store"], **columns, "pictures": pictures,
        "images": spec.images is not None, "folder": _relative(spec), "earlier": earlier or [],
    }  # fmt: skip
    script = "(() => {\n" + '"use strict";\n' + "".join(map(page_file, _SCRIPTS)) + "})();\n"
    pieces = {
        "STYLE": page_file("page.css") + page_file("report.css"),
        "SCRIPT_HASH": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "PICTURES": "'self' file:" if spec.images else "",
        "TITLE": page_text(f"Duplicates in {Path(summary['store']).name or summary['store']}"),
        "SUBTITLE": page_text(
            f"{summary['layer']}, cosine of at least {short(duplicates.threshold)}; "
            f"found through a {summary['metric']} index on {summary['device']}; mirsearch {VERSION}"
        ),
        "FIGURES": figures(summary),
        "TRUTH": truth_table(summary["truth"]) if summary["truth"] else "",
        "HISTOGRAM": score_section(duplicates),
        "ABOUT": page_text(" ".join(_about(duplicates, listing, spec, left_out=earlier is None, pictured=pictured))),
    }
    text = page_file("report.html")
    for name, piece in pieces.items():
        text = text.replace("{{" + name + "}}", piece)
    text = text.replace("{{SCRIPT}}", script)
    # Inside a script element only the text "</" could do harm, and in JSON < may always be written like this.
    written = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("{{DATA}}", written.replace("<", "\\u003c"))


def _pictures(listing: Listing, spec: PageSpec) -> tuple[int, dict[str, str]]:
    """How many of the first groups have their pictures in the page, and those."""
    if spec.images is None:
        return 0, {}
    groups, photos = listing.first_groups(PICTURED_GROUPS, PICTURED_PHOTOS)
    return groups, thumbnails(spec.images, photos, PICTURED_BYTES)


def _relative(spec: PageSpec) -> str | None:
    """The folder of pictures as the page refers to it: so both may be moved together."""
    if spec.images is None:
        return None
    return quote(os.path.relpath(spec.images.absolute(), spec.folder.absolute()), errors="surrogateescape") + "/"


def _earlier(decisions: Decisions | None) -> list[dict[str, Any]] | None:
    """Earlier decisions as the page carries them along, photo ids as texts; None where they are too many for it."""
    if decisions is None:
        return []
    entries = [
        {"photo_ids": list(map(str, one["photo_ids"])), "verdict": one["verdict"], "at": str(one.get("at", ""))}
        for one in decisions.entries
    ]
    return entries if len(json.dumps(entries)) <= EARLIER_BYTES else None


def _about(
    duplicates: Duplicates, listing: Listing, spec: PageSpec, *, left_out: bool, pictured: int
) -> list[str]:  # fmt: skip
    """What the page shows, and what it does not, in sentences."""
    said = ["The score is the cosine with the first photo of a group, its representative."]
    if len(listing.groups) < len(duplicates.groups):
        said.append(
            f"This page lists the {len(listing.groups):,} largest of {len(duplicates.groups):,} groups; "
            "groups.jsonl beside it holds all."
        )
    if any(len(group.photo_ids) > LISTED_IN_A_GROUP for group in listing.groups):
        said.append(f"At most {LISTED_IN_A_GROUP} photos of a group are listed.")
    if spec.images is not None and pictured < len(listing.groups):
        said.append(
            f"Pictures of the first {pictured:,} groups are in this page; the others are read from the folder of "
            "pictures as they are looked at."
        )
    if left_out:
        said.append("The decisions given with --decisions are too many for this page: keep their file and give both.")
    return said
