"""What a search for duplicates leaves behind: groups, pairs, a summary, and a page to look at."""

import base64
import html
import importlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from engine.errors import DependencyError, InputError
from engine.jobs.copy_metrics import TruthReport
from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup
from engine.store.dat import relative_path
from engine.store.durable import disk_errors, flush_folder, part_of, publish
from engine.store.store import Store
from engine.version import VERSION
from kernels.device import cpu_threads

# The page is written last: where it is, the other files are whole and belong to it.
FILES = ("groups.jsonl", "pairs.parquet", "summary.json", "report.html")
THUMBNAIL_SIDE, THUMBNAIL_QUALITY = 160, 72
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_PIXELS = 80_000_000  # a picture that claims more is not opened: its pixels alone would take 240 MB
# What keeps the page below 20 MB, and quick. The files beside it always hold everything.
PICTURED_GROUPS, PICTURED_PHOTOS, PICTURED_BYTES = 300, 2_000, 14_000_000
LISTED_GROUPS, LISTED_PHOTOS, LISTED_IN_A_GROUP = 20_000, 200_000, 500
BARS = 40


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
    _need("pyarrow.parquet", "pyarrow")
    if images is not None:
        _need("PIL.Image", "pillow")


def write_duplicates(
    duplicates: Duplicates,
    store: Store,
    out: Path | str,
    *,
    images: Path | str | None = None,
    truth: TruthReport | None = None,
) -> dict[str, Path]:
    """Write groups.jsonl, pairs.parquet, summary.json and report.html into `out`; their paths by name.

    images: folder with `10/103169.jpg` (or .jpeg, .png), shown in the page. Each file is written aside; all are renamed
    when all are whole, the page last. Files of these names are replaced, nothing else in `out` is touched. InputError
    when `out` is a file, EngineError when it cannot be written, DependencyError without pyarrow.
    """
    check_outputs(out, images)
    out = Path(out)
    summary = _summary(duplicates, store, truth)
    writers: dict[str, Callable[[BinaryIO], None]] = {
        "groups.jsonl": lambda file: file.writelines(map(_group_line, duplicates.groups)),
        "pairs.parquet": lambda file: _write_pairs(duplicates, file),
        "summary.json": lambda file: _write_text(file, json.dumps(summary, indent=1) + "\n"),
        "report.html": lambda file: _write_text(file, _page(duplicates, summary, Path(images) if images else None)),
    }
    paths = {name: out / name for name in FILES}
    with disk_errors(out):
        try:
            for name, path in paths.items():
                with part_of(path).open("wb") as file:
                    writers[name](file)
            paths["report.html"].unlink(missing_ok=True)
            for path in paths.values():
                publish(path)
            flush_folder(out)
        finally:
            for path in paths.values():
                part_of(path).unlink(missing_ok=True)
    return paths


def _need(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(f"{package} cannot be imported ({error}). Install it: pip install {package}") from error


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def _short(score: float) -> float:
    """A float32 score with the few digits that tell it from its neighbours."""
    return float(str(np.float32(score)))


def _group_line(group: DuplicateGroup) -> bytes:
    entry = {
        "representative": group.representative,
        "photo_ids": group.photo_ids,
        "min_score": _short(group.min_score),
    }
    return (json.dumps(entry) + "\n").encode()


def _write_pairs(duplicates: Duplicates, file: BinaryIO) -> None:
    parquet = _need("pyarrow.parquet", "pyarrow")
    columns = {
        "photo_id_a": np.ascontiguousarray(duplicates.pairs[:, 0]),
        "photo_id_b": np.ascontiguousarray(duplicates.pairs[:, 1]),
        "score": duplicates.scores,
    }
    parquet.write_table(_need("pyarrow", "pyarrow").table(columns), file)


def _summary(duplicates: Duplicates, store: Store, truth: TruthReport | None) -> dict[str, Any]:
    return {
        "store": str(store.path),
        "layer": duplicates.layer,
        "metric": duplicates.metric,
        "device": duplicates.device,
        "threshold": duplicates.threshold,
        "photos": duplicates.photos,
        "pairs": len(duplicates.pairs),
        "groups": len(duplicates.groups),
        "photos_in_groups": duplicates.grouped,
        "photos_identical_to_another": len(duplicates.copies),
        "photos_searched_again": duplicates.searched_again,
        "seconds": {name: round(seconds, 3) for name, seconds in duplicates.seconds.items()},
        "engine_version": VERSION,
        "truth": truth.document() if truth else None,
    }


def _page(duplicates: Duplicates, summary: dict[str, Any], images: Path | None) -> str:
    """The whole page. The data come last: nothing in them can be taken for a placeholder."""
    listed = _listed(duplicates)
    pictured, thumbnails = _thumbnails(listed, images) if images else (0, {})
    data = {"groups": listed, "pictures": thumbnails, "pictured": pictured, "images": images is not None}
    page = resources.files("engine.jobs").joinpath("report.html").read_text(encoding="utf-8")
    pieces = {
        "TITLE": _text(f"Duplicates in {Path(summary['store']).name or summary['store']}"),
        "SUBTITLE": _text(
            f"{summary['layer']}, cosine of at least {_short(duplicates.threshold)}; "
            f"found through a {summary['metric']} index on {summary['device']}; mirsearch {VERSION}"
        ),
        "FIGURES": _figures(summary),
        "TRUTH": _truth_table(summary["truth"]) if summary["truth"] else "",
        "HISTOGRAM": _histogram(duplicates),
        "LEFT_OUT": _left_out(duplicates, listed, pictured if images else None),
    }
    for name, piece in pieces.items():
        page = page.replace("{{" + name + "}}", piece)
    # Inside a script element only the text "</" could do harm, and in JSON < may always be written like this.
    return page.replace("{{DATA}}", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def _text(text: object) -> str:
    """Text for HTML that holds neither markup nor placeholders."""
    return html.escape(str(text)).replace("{", "&#123;")


def _listed(duplicates: Duplicates) -> list[dict[str, Any]]:
    """The groups that the page shows: size `n`, least score `m`, photos `p` as [id, score], the representative first.

    The other photos of a group follow by score descending, then by id.
    """
    listed, photos = [], 0
    score_of = _Scores(duplicates)
    for group in duplicates.groups[:LISTED_GROUPS]:
        members = [photo for photo in group.photo_ids if photo != group.representative][: LISTED_IN_A_GROUP - 1]
        photos += 1 + len(members)
        if photos > LISTED_PHOTOS:
            break
        scored = [[photo, score_of(group.representative, photo)] for photo in members]
        scored.sort(key=lambda entry: (-entry[1], entry[0]))
        head: list[Any] = [group.representative, None]
        listed.append({"n": len(group.photo_ids), "m": _short(group.min_score), "p": [head, *scored]})
    return listed


class _Scores:
    """The score of a pair that was found, looked up in the ordered pairs."""

    def __init__(self, duplicates: Duplicates) -> None:
        self._pairs, self._scores = duplicates.pairs, duplicates.scores
        self._first = np.ascontiguousarray(duplicates.pairs[:, 0])

    def __call__(self, a: int, b: int) -> float:
        a, b = min(a, b), max(a, b)
        start, stop = np.searchsorted(self._first, [a, a + 1])
        return _short(self._scores[start + np.searchsorted(self._pairs[start:stop, 1], b)])


def _thumbnails(listed: list[dict[str, Any]], images: Path) -> tuple[int, dict[str, str]]:
    """How many of the first groups show pictures, and their JPEG thumbnails in base64 by photo id."""
    wanted: list[int] = []
    count = 0
    for group in listed[:PICTURED_GROUPS]:
        if len(wanted) + len(group["p"]) > PICTURED_PHOTOS and count:
            break
        wanted += [photo for photo, _ in group["p"]]
        count += 1
    wanted = wanted[:PICTURED_PHOTOS]
    found: dict[str, str] = {}
    room = PICTURED_BYTES
    with ThreadPoolExecutor(cpu_threads(), thread_name_prefix="thumbnails") as pool:
        for photo, picture in zip(wanted, pool.map(lambda photo: thumbnail(images, photo), wanted), strict=True):
            text = base64.b64encode(picture or b"").decode()
            room -= len(text)
            if text and room >= 0:
                found[str(photo)] = text
    return count, found


def thumbnail(images: Path, photo_id: int) -> bytes | None:
    """A JPEG of at most 160 pixels a side of `IMAGES/10/103169.jpg` (.jpeg, .png); None where none can be read."""
    image, operations = _need("PIL.Image", "pillow"), _need("PIL.ImageOps", "pillow")
    for suffix in PICTURE_SUFFIXES:
        path = images / relative_path(photo_id, suffix)
        try:
            with path.open("rb") as file, image.open(file) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    continue
                picture.draft("RGB", (2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
                small = operations.exif_transpose(picture).convert("RGB")
                small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
                out = io.BytesIO()
                small.save(out, "JPEG", quality=THUMBNAIL_QUALITY)
                return out.getvalue()
        except Exception:  # a damaged picture may fail in any way inside its decoder; the page shows a placeholder
            continue
    return None


def _figures(summary: dict[str, Any]) -> str:
    seconds = sum(summary["seconds"].values())
    rate = f"{summary['photos'] / seconds:,.0f} photos/s" if seconds > 0 else ""
    share = f"{summary['photos_in_groups']:,} photos in them"
    figures = [
        ("Photos", f"{summary['photos']:,}", ""),
        ("Groups", f"{summary['groups']:,}", share),
        ("Pairs", f"{summary['pairs']:,}", f"{summary['photos_identical_to_another']:,} photos equal another exactly"),
        ("Threshold", f"{_short(summary['threshold'])}", f"cosine of raw {summary['layer']}"),
        ("Time", f"{seconds:,.1f} s", rate),
        ("Device", summary["device"], f"{summary['metric']} index"),
    ]
    return "\n".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd><dd class=note>{_text(note)}</dd></div>"
        for name, value, note in figures
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _truth_table(truth: dict[str, Any]) -> str:
    rows = "\n".join(
        f"<tr><th scope=row>{_text(kind)}</th><td>{entry['planted']:,}</td><td>{entry['found']:,}</td>"
        f"<td>{_percent(entry['recall'])}</td>"
        f"<td class=meter><i style='width:{100 * (entry['recall'] or 0):.1f}%'></i></td></tr>"
        for kind, entry in truth["kinds"].items()
    )
    return (
        "<section aria-labelledby=truth><h2 id=truth>Against the truth</h2><table><thead><tr><th scope=col>Kind of pair"
        "</th><th scope=col>Planted</th><th scope=col>Found</th><th scope=col>Share</th><td></td></tr></thead><tbody>"
        f"{rows}</tbody></table><p class=note>Precision {_percent(truth['precision'])}: found pairs whose photos are "
        "copies of the same original. Photos of a burst are alike but no duplicates; the fewer found the better.</p>"
        "</section>"
    )


def _histogram(duplicates: Duplicates) -> str:
    """The scores below 1 as bars of inline SVG; a bar of exact duplicates would dwarf the others."""
    below = duplicates.scores[duplicates.scores < 1].astype(np.float64)
    ones = len(duplicates.scores) - len(below)
    equal = f"Not drawn: {ones:,} with a score of 1." if ones else ""
    if not len(below):
        return f"<p class=note>No pair scores between the threshold and 1. {equal}</p>"
    low, width, height = duplicates.threshold, 600, 170
    counts, _ = np.histogram(np.maximum(below, low), bins=BARS, range=(low, 1))
    step = width / BARS
    bars = "".join(
        f"<rect x={i * step + 1:.1f} y={height - height * count / counts.max():.1f} width={step - 2:.1f} "
        f"height={height * count / counts.max():.1f}><title>{low + i * (1 - low) / BARS:.4f} to "
        f"{low + (i + 1) * (1 - low) / BARS:.4f}: {count:,} pairs</title></rect>"
        for i, count in enumerate(counts.tolist())
        if count
    )
    ticks = "".join(
        f"<text x={width * i / 4:.0f} y={height + 20} text-anchor={anchor}>{low + (1 - low) * i / 4:.3f}</text>"
        for i, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    return (
        f"<svg viewBox='-46 -14 {width + 56} {height + 42}' role=img aria-label='Histogram of the scores of "
        f"{len(below):,} pairs, from {low:.3f} to 1'><path class=grid d='M0 0H{width}M0 {height / 2}H{width}'/>"
        f"{bars}<path class=axis d='M0 {height}H{width}'/>{ticks}<text x=-8 y=4 text-anchor=end>{counts.max():,}</text>"
        f"<text x=-8 y={height} text-anchor=end>0</text></svg><p class=note>Pairs by cosine. {equal}</p>"
    )


def _left_out(duplicates: Duplicates, listed: list[dict[str, Any]], pictured: int | None) -> str:
    """What the page does not show, in a sentence or two."""
    said = []
    if len(listed) < len(duplicates.groups):
        said.append(
            f"This page lists the {len(listed):,} largest of {len(duplicates.groups):,} groups; "
            "groups.jsonl beside it holds all."
        )
    if any(group["n"] > len(group["p"]) for group in listed):
        said.append(f"At most {LISTED_IN_A_GROUP} photos of a group are listed.")
    if pictured is not None and pictured < len(listed):
        said.append(f"Pictures are included for the first {pictured:,} groups, to keep the page small.")
    return _text(" ".join(said))
