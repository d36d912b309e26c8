"""The figures of a report as HTML: numbers in a row, a histogram, and how what was found compares with the truth."""

import html
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jobs.dedup import Duplicates
from engine.jobs.dedup_threshold import ThresholdChoice

BARS = 40


def page_text(text: object) -> str:
    """Text for HTML that holds neither markup nor placeholders."""
    return html.escape(str(text)).replace("{", "&#123;")


def page_file(name: str) -> str:
    """The text of one of the files that pages are made of: `page.css` has the style that all share."""
    return resources.files("engine.jobs").joinpath(name).read_text(encoding="utf-8")


def short(score: float) -> float:
    """A float32 score with the few digits that tell it from its neighbours."""
    return float(str(np.float32(score)))


def percent(share: float | None) -> str:
    """A share for people; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f} %"


def figures(summary: dict[str, Any]) -> str:
    """The numbers at the top of the page."""
    seconds = sum(summary["seconds"].values())
    rate = f"{summary['photos'] / seconds:,.0f} photos/s" if seconds > 0 else ""
    share = f"{summary['photos_in_groups']:,} photos in them"
    shown = [
        ("Photos", f"{summary['photos']:,}", ""),
        ("Groups", f"{summary['groups']:,}", share),
        ("Pairs", f"{summary['pairs']:,}", f"{summary['photos_identical_to_another']:,} photos equal another exactly"),
        ("Threshold", f"{short(summary['threshold'])}", f"cosine of raw {summary['layer']}"),
        ("Time", f"{seconds:,.1f} s", rate),
        ("Device", summary["device"], f"{summary['metric']} index"),
    ]
    return "\n".join(
        f"<div><dt>{page_text(name)}</dt><dd>{page_text(value)}</dd><dd class=note>{page_text(note)}</dd></div>"
        for name, value, note in shown
    )


def truth_table(truth: dict[str, Any]) -> str:
    """How many of the planted pairs were found, by kind."""
    rows = "\n".join(
        f"<tr><th scope=row>{page_text(kind)}</th><td>{entry['planted']:,}</td><td>{entry['found']:,}</td>"
        f"<td>{percent(entry['recall'])}</td>"
        f"<td class=meter><i style='width:{100 * (entry['recall'] or 0):.1f}%'></i></td></tr>"
        for kind, entry in truth["kinds"].items()
        if entry["planted"]
    )
    return (
        "<section aria-labelledby=truth><h2 id=truth>Against the truth</h2><table><thead><tr><th scope=col>Kind of pair"
        "</th><th scope=col>Planted</th><th scope=col>Found</th><th scope=col>Share</th><td></td></tr></thead><tbody>"
        f"{rows}</tbody></table><p class=note>Precision {percent(truth['precision'])}: found pairs whose photos are "
        "copies of the same original. Photos of a burst are alike but no duplicates; the fewer found the better.</p>"
        "</section>"
    )


def pair_histogram(duplicates: Duplicates) -> str:
    """The scores below 1 of the pairs that were found; a bar of exact duplicates would dwarf the others."""
    below = duplicates.scores[duplicates.scores < 1].astype(np.float64)
    ones = len(duplicates.scores) - len(below)
    equal = f"Not drawn: {ones:,} with a score of 1." if ones else ""
    if not len(below):
        return f"<p class=note>No pair scores between the threshold and 1. {equal}</p>"
    counts, edges = np.histogram(np.maximum(below, duplicates.threshold), bins=BARS, range=(duplicates.threshold, 1))
    drawing = histogram(counts, edges, "pairs", f"Histogram of the scores of {len(below):,} pairs")
    return f"{drawing}<p class=note>Pairs by cosine. {equal}</p>"


def histogram(
    counts: npt.NDArray[Any], edges: npt.NDArray[Any], noun: str, label: str, *, threshold: float | None = None
) -> str:
    """Bars of inline SVG: counts (b,) between edges (b + 1,), and a line at the threshold; bars above it stand out.

    Heights are square roots, so that the few duplicates can be seen beside the many photos that have none, if there is
    a threshold; else they are the counts.
    """
    low, high, width, height = float(edges[0]), float(edges[-1]), 600.0, 170.0
    heights = np.sqrt(counts) if threshold is not None else counts.astype(np.float64)
    heights = height * heights / max(heights.max(initial=0), 1e-9)
    at = width * (np.asarray(edges, np.float64) - low) / (high - low)
    bars = "".join(
        f"<rect{' class=over' if threshold is not None and edges[i + 1] > threshold else ''} x={at[i] + 0.5:.1f} "
        f"y={height - heights[i]:.1f} width={max(at[i + 1] - at[i] - 1, 0.5):.1f} height={heights[i]:.1f}>"
        f"<title>{edges[i]:.4f} to {edges[i + 1]:.4f}: {count:,} {noun}</title></rect>"
        for i, count in enumerate(counts.tolist())
        if count
    )
    ticks = "".join(
        f"<text x={width * i / 4:.0f} y={height + 20} text-anchor={anchor}>{low + (high - low) * i / 4:.3f}</text>"
        for i, anchor in enumerate(("start", "middle", "middle", "middle", "end"))
    )
    mark = ""
    if threshold is not None and low <= threshold <= high:
        x = width * (threshold - low) / (high - low)
        side = ("end", -6) if x > width / 2 else ("start", 6)
        mark = (
            f"<path class=mark d='M{x:.1f} -12V{height}'/><text class=mark x={x + side[1]:.1f} y=-2 "
            f"text-anchor={side[0]}>threshold {short(threshold)}</text>"
        )
    frame = f"-52 -18 {width + 62} {height + 46}"
    return (
        f"<svg{' class=quiet' if threshold is not None else ''} viewBox='{frame}' role=img aria-label='{label}, from "
        f"{low:.3f} to {high:.3f}'><path class=grid d='M0 0H{width}M0 {height / 2}H{width}'/>{bars}"
        f"<path class=axis d='M0 {height}H{width}'/>{ticks}<text x=-8 y=4 text-anchor=end>"
        f"{int(counts.max(initial=0)):,}</text><text x=-8 y={height} text-anchor=end>0</text>{mark}</svg>"
    )


def score_section(duplicates: Duplicates) -> str:
    """The histogram that the threshold was chosen from, and how it was; or else that of the pairs that were found."""
    choice = duplicates.threshold_choice
    if choice is None or not sum(choice.counts):
        drawing, title, said = pair_histogram(duplicates), "Scores of the pairs", ""
        if choice is not None:
            said = f"<div>{_chosen(choice)}</div>"
    else:
        title, said = "Nearest neighbours and the threshold", f"<div>{_chosen(choice)}</div>"
        label = f"Histogram of the nearest scores of {choice.sampled:,} photos"
        drawing = histogram(
            np.array(choice.counts), np.array(choice.edges), "photos", label, threshold=choice.threshold
        )  # fmt: skip
        drawing += "<p class=note>Heights are square roots: so a few can be seen beside many.</p>"
    return (
        f"<section aria-labelledby=scores><h2 id=scores>{title}</h2><div class={'scores' if said else 'alone'}>"
        f"<div>{drawing}</div>{said}</div></section>"
    )


def _chosen(choice: ThresholdChoice) -> str:
    """How the threshold came about, in words and numbers."""
    facts = [
        ("Threshold", f"{choice.threshold:.4f}", choice.how),
        ("Floor", choice.floor, f"unrelated pairs are rarer than {choice.false_pairs:g} a photo above it"),
        ("Valley", choice.knee, "between copies and what is merely alike"),
        ("Unrelated pairs", choice.expected, "expected for each photo at the threshold"),
    ]
    rows = "".join(
        f"<tr><th scope=row>{page_text(name)}</th><td>{page_text(value if isinstance(value, str) else f'{value:.4g}')}"
        f"</td></tr><tr><td colspan=2 class=note>{page_text(note)}</td></tr>"
        for name, value, note in facts
        if value is not None
    )
    reason = choice.reason[:1].upper() + choice.reason[1:]
    sampled = f" The nearest neighbour of {choice.sampled:,} photos was looked at; exact copies are left out."
    return f"<p>{page_text(reason)}.{sampled if choice.sampled else ''}</p><table class=facts>{rows}</table>"
