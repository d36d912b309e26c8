"""The page of a store's annotations: one file of HTML that asks no other host for anything."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.jobs.report_figures import page_file, page_text
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.jobs.annotation_stats import Field, Stats, Top

NAMES = {
    "title": "Title", "description": "Description", "tags": "Tags", "exif": "EXIF data", "geo": "Geo information",
    "albums": "Albums", "comments": "Comments", "notes": "Notes", "groups": "Groups",
}  # fmt: skip
HEADINGS = {
    "tags": "Tags", "groups": "Groups", "cameras": "Cameras", "licences": "Licences", "owners": "Owners",
}  # fmt: skip


def page(stats: "Stats", pictures: Mapping[str, bytes]) -> str:
    """The whole page, the pictures map.png and dates.png in it; nothing in the data can be taken for markup."""
    text = page_file("annotation_stats.html")
    counted = f"counted in {stats.seconds:.1f} s; mirsearch {VERSION}"
    pieces = {
        "STYLE": page_file("page.css"),
        "TITLE": page_text(f"Annotations of {stats.store.name or stats.store}"),
        "SUBTITLE": page_text(f"What people wrote about {stats.photos:,} photos; {counted}"),
        "FIGURES": _figures(stats),
        "ROWS": "\n".join(map(_row, stats.fields)),
        "MAP": _picture(pictures["map.png"], "Map of the geo-tagged photos: a grid of longitude and latitude"),
        "DATES": _picture(pictures["dates.png"], "Photos by month of being taken and posted"),
        "TOPS": "\n".join(_top(name, top) for name, top in stats.tops.items()),
    }
    for name, piece in pieces.items():
        text = text.replace("{{" + name + "}}", piece)
    return text


def _figures(stats: "Stats") -> str:
    tags, groups, owners = (stats.tops[name] for name in ("tags", "groups", "owners"))
    geo = int(stats.places.sum())
    figures = [
        ("Photos", f"{stats.photos:,}", f"{stats.annotated:,} with annotations"),
        ("Tags", f"{tags.entries:,}", f"{tags.distinct:,} different, {_each(tags)} a tagged photo"),
        ("Groups", f"{groups.distinct:,}", f"{_each(groups)} a photo that is in any"),
        ("Owners", f"{owners.distinct:,}", f"{_each(owners, stats.photos)} photos each"),
        ("Geo-tagged", f"{geo:,}", f"in {int((stats.places > 0).sum()):,} cells of half a degree"),
        ("Not in the store", f"{stats.without_features:,}", f"annotated; {stats.quarantined:,} files set aside"),
    ]
    return "\n".join(
        f"<div><dt>{page_text(name)}</dt><dd>{page_text(value)}</dd><dd class=note>{page_text(note)}</dd></div>"
        for name, value, note in figures
    )


def _each(top: "Top", photos: int = 0) -> str:
    """Entries on a photo that has any; or, of all photos, how many share an entry."""
    above, below = (top.entries, top.distinct) if photos else (top.entries, top.photos)
    return f"{above / below:.1f}" if below else "–"


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "–" if share is None else f"{100 * share:.1f} %"


def points(difference: float | None) -> str:
    """A difference of two shares, in percentage points."""
    if difference is None:
        return "–"
    text = f"{difference:+.2f}"
    return text.replace("-", "−") if float(text) else "0.00"


def _row(field: "Field") -> str:
    share = 100 * (field.share or 0)
    return (
        f"<tr><th scope=row>{NAMES[field.name]}</th><td>{field.photos:,}</td><td>{percent(field.share)}</td>"
        f"<td>{field.published:,}</td><td>{percent(field.published_share)}</td><td>{points(field.difference)}</td>"
        f"<td class=meter><i style='width:{share:.1f}%'></i>"
        f"<b style='left:{100 * field.published_share:.1f}%'></b></td></tr>"
    )


def _picture(data: bytes, says: str) -> str:
    return f"<img alt='{page_text(says)}' src='data:image/png;base64,{base64.b64encode(data).decode()}'>"


def _top(name: str, top: "Top") -> str:
    if not top.most:
        return f"<section><h2>{HEADINGS[name]}</h2><p class=note>None.</p></section>"
    most = top.most[0].photos
    rows = "\n".join(
        f"<tr><th scope=row>{page_text(entry.label)}</th><td>{entry.photos:,}</td>"
        f"<td class=meter><i style='width:{100 * entry.photos / most:.1f}%'></i></td></tr>"
        for entry in top.most
    )
    about = f"{top.photos:,} photos have any; {top.distinct:,} different"
    return f"<section><h2>{HEADINGS[name]}</h2><p class=note>{about}</p><table><tbody>{rows}</tbody></table></section>"
