"""Figures that `benchmarks.dedup` makes of what its parts left."""

from typing import Any

import numpy as np

from engine.jobs.copy_metrics import FoundPairs, TruthReport, score_pairs
from engine.jobs.copy_truth import CopyTruth

Document = dict[str, Any]
ENOUGH = 0.99  # recall of a peer whose time is compared
GIB = 1 << 30


def from_threshold(found: FoundPairs, threshold: float) -> FoundPairs:
    """The pairs with at least this score, without groups."""
    good = found.scores.astype(np.float64) >= threshold
    return FoundPairs(pairs=found.pairs[good], scores=found.scores[good], copies=found.copies)


def compared(found: FoundPairs, exact: FoundPairs) -> Document:
    """How many pairs of the exhaustive join were found, and how many that it has not."""
    wanted, there = ({(a, b) for a, b in one.pairs.tolist()} for one in (exact, found))
    hits = len(wanted & there)
    recall = hits / len(wanted) if wanted else 1.0
    return {"pairs": len(wanted), "found": hits, "more": len(there - wanted), "recall": recall}


def ap_difference(ours: TruthReport, exact: FoundPairs, truth: CopyTruth) -> float:
    """Our micro-AP less that of the exhaustive join."""
    return (ours.micro_ap or 0.0) - (score_pairs(exact, truth).micro_ap or 0.0)


def search_seconds(document: Document) -> float | None:
    """Of our search alone, median; None where it was not measured."""
    part = document["parts"].get("index")
    return float(np.median(part["seconds"])) if part else None


def ours_seconds(document: Document) -> float | None:
    """Of the index and the search; None where a part is missing."""
    search, build = search_seconds(document), document["parts"].get("build")
    return search + float(build["seconds"]) if search and build else None


def peer_points(document: Document) -> list[Document]:
    """Each setting of each peer, and its seconds for all rows: of those that had fewer, by the square of the number."""
    parts = document["parts"]
    rows, points = parts.get("photos", {}).get("photos", document["photos"]), []
    for name, part in parts.items():
        if not name.startswith("peer-"):
            continue
        for setting in part["settings"]:
            taken = setting["build"] + setting["search"]
            points.append({
                "peer": name.removeprefix("peer-").rpartition("-")[0], "version": part["version"],
                "setting": setting["name"], "photos": part["photos"], "build": setting["build"], "taken": taken,
                "seconds": taken * (rows / part["photos"]) ** 2, "recall": setting["recall"],
                "pairs": setting["pairs"], "own_bytes": part["own_bytes"],
            })  # fmt: skip
    return sorted(points, key=lambda point: (str(point["peer"]), int(point["photos"])))


def fastest_peer(document: Document, peer: str | None = None) -> Document | None:
    """The setting of one peer, or of all, that takes least time of those with enough recall of the most rows it had."""
    points = [point for point in peer_points(document) if peer in (None, point["peer"])]
    largest = {point["peer"]: point["photos"] for point in points}
    good = [p for p in points if p["recall"] >= ENOUGH and p["photos"] == largest[p["peer"]]]
    best = min(good, key=lambda point: point["seconds"], default=None)
    return None if best is None else best | {"name": f"{best['peer']}, {best['setting']}"}


def scale_points(document: Document) -> list[Document]:
    """Of the whole command: photos, seconds, seconds of a photo (`each`), of the build, and memory; by photos."""
    parts = [part for name, part in document["parts"].items() if name.startswith("scale-")]
    points = []
    for part in sorted(parts, key=lambda part: int(part["photos"])):
        runs = part["runs"]
        seconds = float(np.median([run["seconds"] for run in runs]))
        points.append({
            "photos": part["photos"], "build": part["build"]["seconds"], "seconds": seconds,
            "each": seconds / part["photos"], "own_bytes": max(run["own_bytes"] for run in runs), "runs": len(runs),
            "pairs": runs[-1]["pairs"], "groups": runs[-1]["groups"],
        })  # fmt: skip
    return points
