"""What `benchmarks.dedup` found, as a page: the truth, the peers, the scale, each beside its goal."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dedup_figures import (
    GIB,
    ap_difference,
    compared,
    fastest_peer,
    from_threshold,
    ours_seconds,
    peer_points,
    scale_points,
    search_seconds,
)
from benchmarks.dedup_parts import FLOOR, Setting, saved
from benchmarks.machine import table
from engine.jobs.copy_metrics import score_pairs
from engine.jobs.copy_truth import ALL_KINDS, BURST, read_truth
from engine.store.synth_copies import ALTERED
from engine.store.synth_edits import EDITS

Document = dict[str, Any]
RUNS = {
    "index": "index, at the threshold",
    "chosen": "index, threshold chosen from the data",
    "floor": "index, from the floor on",
    "normalised": "index, normalised scores from the floor on",
    "exhaustive": "exhaustive, from the floor on",
}
ANGLES = """Edits are simulated: the collection has features and no pictures, so each copy is turned from its original
by an angle drawn for its kind, in a direction of the kind (`engine/store/synth_edits.py`). The angles are chosen, not
measured: re-compression is easy, and the hardest kinds, with text over them and cropped, lie among bursts and beyond.
DISC 2021 calibrated the strength of its edits by what its baselines could find (Douze et al., arXiv 2106.09672), and
severe crops were the hardest of them for its winners, beside pictures hidden in others (Papakipos et al., arXiv
2202.04007). We know of no table of cosines of this network's features by edit to calibrate against.

Real bursts may be nearer than those planted: of VGG16's fc7 of frames of 51 video clips, the median cosine to the
nearest other frame is 0.97 (`sample_statistics.md`, cosine to neighbour 1). No threshold tells those from copies."""


def report(setting: Setting, results: Document, missing: dict[str, str]) -> tuple[Document, str]:
    """All figures, and the page in Markdown."""
    document: Document = {
        "photos": setting.photos,
        "layer": setting.layer,
        "threshold": setting.threshold,
        "floor": FLOOR[setting.layer],
        "parts": results,
        "missing": missing,
    }
    name = f"dedup-{setting.layer}-{setting.photos}"
    lines = [f"# Duplicates: {setting.layer}, {setting.photos:,} photos and their edited copies", ""]
    lines += [f"![time of the peers, cost of a photo]({name}.png)", ""]
    if "photos" in results:
        document["kinds"] = kinds_of(setting.truth)
        document |= _against(setting, results)
        lines += _goals(document) + _truth(document)
    lines += _peers(document) + _scale(document)
    if "photos" in results:
        lines += _kinds(document, results["photos"]["photos"])
    if missing:
        lines += ["## Not measured", "", *(f"- {part}: {why}" for part, why in missing.items()), ""]
    return document, "\n".join(lines)


def kinds_of(truth: Path) -> dict[str, dict[str, float]]:
    """Of the planted pairs by kind: how many, p5, median and p95 of their cosines, how many lie where bursts do."""
    found: dict[str, dict[str, list[float]]] = {}
    for line in truth.read_text().splitlines():
        pair = json.loads(line)
        of_kind = found.setdefault(pair["kind"], {"fc7": [], "fc8": []})
        for layer, cosines in of_kind.items():
            cosines.append(pair[f"{layer}_cosine"])
    low, high = ALTERED[-1].low, ALTERED[-1].high
    figures: dict[str, dict[str, float]] = {}
    for kind in (kind for kind in ALL_KINDS if kind in found):
        layers = found[kind]
        figures[kind] = {"pairs": len(layers["fc7"])}
        for layer, cosines in layers.items():
            for name, value in zip(("p5", "median", "p95"), np.percentile(cosines, (5, 50, 95)), strict=True):
                figures[kind][f"{layer} {name}"] = round(float(value), 4)
        figures[kind]["among bursts"] = float(np.mean([low <= cosine <= high for cosine in layers["fc7"]]))
    return figures


def _against(setting: Setting, results: Document) -> Document:
    """What each run found of the truth, and how the index method compares with the exhaustive one."""
    truth = read_truth(setting.truth)
    there = {name: saved(setting.out / f"{name}.npz") for name in RUNS if name in results}
    scored = {name: score_pairs(found, truth) for name, found in there.items()}
    figures: Document = {"truth": {name: one.document() for name, one in scored.items()}, "exhaustive": {}}
    for name in ("index", "floor"):
        if name in there and "exhaustive" in there:
            exact = from_threshold(there["exhaustive"], results[name]["threshold"])
            figures["exhaustive"][name] = compared(there[name], exact) | {
                "threshold": results[name]["threshold"],
                "micro_ap": ap_difference(scored[name], exact, truth),
            }
    return figures


def _kinds(document: Document, rows: int) -> list[str]:
    angles = {edit.name: f"{edit.least:g} – {edit.most:g}" for edit in EDITS}
    lines = []
    for kind, known in document["kinds"].items():
        spread = (
            " / ".join(f"{known[f'{layer} {name}']:.3f}" for name in ("p5", "median", "p95"))
            for layer in ("fc7", "fc8")
        )
        lines.append([kind, f"{known['pairs']:,}", angles.get(kind, ""), *spread, f"{known['among bursts']:.0%}"])
    header = ["kind", "pairs", "degrees", "fc7 cosine, p5 / median / p95", "fc8 cosine", "among bursts"]
    return [f"## What is planted in {rows:,} rows", "", ANGLES, "", table(header, lines), ""]


def _goals(document: Document) -> list[str]:
    rows = []
    exact = document["truth"].get("index", {}).get("kinds", {}).get("exact")
    if exact:
        reached = f"{exact['found']:,} of {exact['planted']:,}"
        rows.append(["exact duplicates found", "100 %", reached, _yes(exact["recall"] == 1)])
    for one in document["exhaustive"].values():
        what, recall, ap = f"cosine ≥ {one['threshold']:g}", one["recall"], one["micro_ap"]
        counts = f"{recall:.6f} ({one['found']:,} of {one['pairs']:,}; {one['more']:,} more)"
        rows.append([f"pairs of the exhaustive join, {what}", "≥ 0.999", counts, _yes(recall >= 0.999)])
        what = f"micro-AP less that of the exhaustive join, {what}"
        rows.append([what, "within 0.002", f"{ap:+.6f}", _yes(abs(ap) <= 0.002)])
    fastest = fastest_peer(document)
    for what, ours in (
        ("with its index built", ours_seconds(document)),
        ("with its index there", search_seconds(document)),
    ):
        if ours and fastest:
            times = fastest["seconds"] / ours
            rows.append([f"ours {what} beside {fastest['name']}", "≥ 10 ×", f"{times:.1f} ×", _yes(times >= 10)])
    return ["## Goals", "", table(["figure", "goal", "reached", ""], rows), "", *_scale_goals(document)] if rows else []


def _scale_goals(document: Document) -> list[str]:
    points = {point["photos"]: point for point in scale_points(document)}
    if 1_000_000 not in points:
        return []
    most = points[1_000_000]
    line = f"1,000,000 photos: {most['seconds'] / 60:.1f} minutes (goal 15), {most['own_bytes'] / GIB:.2f} GiB (goal 4)"
    if 100_000 in points:
        line += f"; a photo costs {most['each'] / points[100_000]['each']:.2f} of what it does at 100,000 (goal 1.3)"
    return [line + ".", ""]


def _yes(good: bool) -> str:  # noqa: FBT001 - the answer to one question
    return "yes" if good else "no"


def _truth(document: Document) -> list[str]:
    """A line for each run."""
    kinds, rows, by_kind = list(document["kinds"]), [], []
    for name, one in document["truth"].items():
        part = document["parts"][name]
        figures = ("micro_ap", "recall_at_p90", "recall", "precision", "purity", "pure_groups")
        counts = f"{part['threshold']:.4g}", f"{part['pairs']:,}"
        rows.append([RUNS[name], *counts, *(_figure(one[figure]) for figure in figures)])
        by_kind.append([RUNS[name], *(_figure(one["kinds"][kind]["recall"]) for kind in kinds)])
    header = [
        "",
        "score ≥",
        "pairs",
        "micro-AP",
        "recall at precision 0.9",
        "recall",
        "precision",
        "purity",
        "pure groups",
    ]
    names = [f"{kind} (none is right)" if kind == BURST else kind for kind in kinds]
    lines = [
        "## Against the truth",
        "",
        table(header, rows),
        "",
        "Recall by kind:",
        "",
        table(["", *names], by_kind),
        "",
    ]
    return [*lines, "Definitions: `engine/jobs/copy_metrics.py`.", ""]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _peers(document: Document) -> list[str]:
    points, ours, parts = peer_points(document), ours_seconds(document), document["parts"]
    if not points or not ours:
        return []
    build, index, rows = parts["build"], parts["index"], parts["photos"]["photos"]
    recall = _figure(document["exhaustive"].get("index", {}).get("recall"))
    memory = max(build["own_bytes"], index["own_bytes"]) / GIB
    seconds = f"{build['seconds']:.1f}", f"{ours:.1f}", f"{ours:.1f}"
    lines = [["mirsearch", "index and search", f"{rows:,}", *seconds, recall, "1", f"{memory:.2f}"]]
    for point in points:
        about = "≈ " if point["photos"] < rows else ""
        lines.append([
            f"{point['peer']} {point['version']}", point["setting"], f"{point['photos']:,}", f"{point['build']:.1f}",
            f"{point['taken']:.1f}", f"{about}{point['seconds']:,.1f}", f"{point['recall']:.4f}",
            f"{point['seconds'] / ours:,.1f}", f"{point['own_bytes'] / GIB:.2f}",
        ])  # fmt: skip
    header = ["", "setting", "rows", "build s", "in all s", "for all rows s", "recall", "times ours", "own GiB"]
    phases = ", ".join(f"{name} {taken:.1f}" for name, taken in index["phases"].items())
    text = f"""Pairs with a cosine of at least {document["threshold"]:g}; recall of those that the exhaustive join has.
With an index that is there already ours takes {search_seconds(document):.1f} s (of the last run, in seconds: {phases}).
Ours is the median of {len(index["seconds"])} runs, a peer ran once, its rows in memory when the clock started. ≈:
extrapolated by the square of the number of rows, since all rows are compared with all."""
    return ["## Beside the peers", "", text, "", table(header, lines), ""]


def _scale(document: Document) -> list[str]:
    points = scale_points(document)
    lines = [
        [f"{p['photos']:,}", p["runs"], f"{p['seconds'] / 60:.2f}", f"{1e6 * p['each']:,.0f}",
         f"{p['each'] / points[0]['each']:.2f}", f"{p['own_bytes'] / GIB:.2f}", f"{p['pairs']:,}", f"{p['groups']:,}",
         f"{p['build'] / 60:.2f}"]
        for p in points
    ]  # fmt: skip
    header = ["photos", "runs", "minutes", "µs a photo", "of the first", "own memory GiB", "pairs", "groups"]
    text = """`mirsearch dedup STORE --out DIR` without options, report included, on collections without edited copies.
Own memory: the most that was held beyond maps of files (RssAnon). Goals: 1,000,000 photos in 15 minutes and 4 GiB, the
cost of a photo within 30 % of that at 100,000."""
    return ["## Scale", "", text, "", table([*header, "index, minutes"], lines), ""] if points else []


def draw(document: Document, path: Path) -> None:
    """Time of ours and of the peers, and the cost of a photo by their number."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (times, cost) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    bars: dict[str, tuple[float, float]] = {}
    if ours := ours_seconds(document):
        bars["mirsearch"] = ours, document["exhaustive"].get("index", {}).get("recall") or float("nan")
    for name in dict.fromkeys(point["peer"] for point in peer_points(document)):
        best = fastest_peer(document, name)
        if best:
            bars[name] = best["seconds"], best["recall"]
    colors = ["#d62728" if name == "mirsearch" else "#1f77b4" for name in bars]
    times.barh(list(bars), [seconds for seconds, _ in bars.values()], color=colors)
    for place, (seconds, recall) in enumerate(bars.values()):
        times.text(seconds, place, f" {seconds:,.0f} s, recall {recall:.3f}", va="center", fontsize=8)
    title = f"All duplicates of {document['photos']:,} photos and edited copies, index included"
    times.set(xscale="log", xlabel="seconds", title=title)
    times.invert_yaxis()
    times.margins(x=0.4)
    points = scale_points(document)
    cost.plot([p["photos"] for p in points], [1e6 * p["each"] for p in points], "o-", color="#d62728")
    cost.set(xlabel="photos", ylabel="microseconds", title="Cost of a photo, the whole command", ylim=(0, None))
    if points:
        cost.set_xscale("log")
    cost.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
