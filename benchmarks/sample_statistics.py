"""How the made-up features of the sample collection compare with real ones.

`python -m benchmarks.sample_statistics` prints and writes results/sample_statistics.md and .json. The
constants of engine/store/synth_model.py and the bands of engine/store/synth_copies.py rest on it.
"""

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.store.synth import synthesize
from engine.store.synth_copies import KINDS, Pair
from engine.store.synth_model import BLOCK, make_block

Rows = npt.NDArray[np.float32]
RESULTS: Final = Path(__file__).parent / "results"
SIZES: Final = (4_000, 20_000, 100_000)
VARIANCE_ROWS: Final = 10_000  # the first rows: enough for 512 axes
QUERIES: Final = 1_000  # photos whose neighbours are ranked
PAIR_QUERIES: Final = 5_000  # photos compared with all others in search of accidental duplicates
TILE: Final = 500
AXES: Final = (32, 64, 128, 256, 512)
RANKS: Final = (1, 10, 100)
THRESHOLDS: Final = (0.90, 0.95, 0.97, 0.98, 0.99)

# What is measured, in the order of the table; spans over real sets. fc7: VGG16 on video frames, AlexNet conv5
# on flowers and on 1,000 ImageNet photos, CaffeNet. fc8: class scores of EfficientNet on flowers and offices.
REAL: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "fc7": {
        "zeros": (0.56, 0.69),
        "norm p5": (49, 102),
        "norm median": (70, 166),
        "norm p95": (92, 241),
        "variance in 32 axes": (0.33, 0.65),
        "variance in 64 axes": (0.45, 0.79),
        "variance in 128 axes": (0.59, 0.87),
        "variance in 256 axes": (0.70, 0.92),
        "variance in 512 axes": (0.81, 0.96),
        "cosine to neighbour 1": (0.46, 0.97),
        "cosine to neighbour 10": (0.40, 0.90),
        "cosine to neighbour 100": (0.32, 0.57),
        "cosine of a random pair": (0.23, 0.44),
    },
    "fc8": {
        "zeros": (0, 0),
        "norm p5": (30, 36),
        "norm median": (36, 42),
        "norm p95": (46, 49),
        "variance in 32 axes": (0.69, 0.72),
        "variance in 64 axes": (0.79, 0.82),
        "variance in 128 axes": (0.88, 0.90),
        "variance in 256 axes": (0.95, 0.96),
        "variance in 512 axes": (0.99, 0.99),
        "cosine to neighbour 1": (0.82, 0.84),
        "cosine to neighbour 10": (0.73, 0.78),
        "cosine to neighbour 100": (0.58, 0.71),
        "cosine of a random pair": (0.14, 0.45),
    },
}


class Sample(NamedTuple):
    """The first photos of seed 0: fc7 (n, 4096), fc8 (n, 1000), float32, and their planted pairs."""

    layers: dict[str, Rows]
    pairs: list[Pair]


def make_sample(photos: int) -> Sample:
    layers = {"fc7": np.empty((photos, 4096), np.float32), "fc8": np.empty((photos, 1000), np.float32)}
    pairs: list[Pair] = []
    for number in range(photos // BLOCK):
        block = make_block(0, number)
        layers["fc7"][block.start : block.start + BLOCK] = block.fc7
        layers["fc8"][block.start : block.start + BLOCK] = block.fc8
        pairs += block.pairs
    return Sample(layers, pairs)


def describe_rows(rows: Rows) -> tuple[dict[str, float], Rows]:
    """Zeros, norms and variance of rows without planted copies; and the rows at unit length."""
    norms = np.linalg.norm(rows, axis=1)
    found = {"zeros": float((rows == 0).mean())}
    for name, value in zip(("p5", "median", "p95"), np.percentile(norms, (5, 50, 95)), strict=True):
        found[f"norm {name}"] = float(value)
    unit = rows / norms[:, None]
    centred = unit[:VARIANCE_ROWS] - unit[:VARIANCE_ROWS].mean(axis=0)
    eigenvalues = np.linalg.eigvalsh((centred.T @ centred).astype(np.float64))[::-1]
    share = np.cumsum(eigenvalues) / eigenvalues.sum()
    found |= {f"variance in {axes} axes": float(share[axes - 1]) for axes in AXES}
    return found, unit


def describe_neighbours(unit: Rows) -> dict[str, float]:
    """Median cosines of random photos to their neighbours, and to any photo."""
    queries = np.random.default_rng(0).choice(len(unit), QUERIES, replace=False)
    cosines = unit[queries] @ unit.T
    random_pair = float(np.median(cosines))
    cosines[np.arange(QUERIES), queries] = -2
    ranked = -np.sort(-np.partition(cosines, -max(RANKS), axis=1)[:, -max(RANKS) :], axis=1)
    found = {f"cosine to neighbour {rank}": float(np.median(ranked[:, rank - 1])) for rank in RANKS}
    return found | {"cosine of a random pair": random_pair}


def count_accidental(rows: Rows, pairs: list[Pair]) -> dict[str, float]:
    """Pairs that were not planted, copies included: the highest cosine, and how many pass each threshold.

    Counts are per 1,000 photos; all photos are compared with all where there are few, otherwise a sample.
    """
    planted = defaultdict[int, list[int]](list)
    for pair in pairs:
        planted[pair.of].append(pair.photo_id)
        planted[pair.photo_id].append(pair.of)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    queries = np.arange(len(rows))
    if len(rows) > 20_000:
        queries = np.sort(np.random.default_rng(1).choice(len(rows), PAIR_QUERIES, replace=False))
    highest, above = -1.0, dict.fromkeys(THRESHOLDS, 0)
    for first in range(0, len(queries), TILE):
        some = queries[first : first + TILE]
        cosines = unit[some] @ unit.T
        for row, photo_id in enumerate(some.tolist()):
            cosines[row, [photo_id, *planted[photo_id]]] = -2
        highest = max(highest, float(cosines.max()))
        for threshold in THRESHOLDS:
            above[threshold] += int((cosines > threshold).sum())
    per_thousand = {str(t): round(count / len(queries) * 500, 3) for t, count in above.items()}
    return {"photos compared with all": len(queries), "highest": highest, **per_thousand}


def describe_pairs(pairs: list[Pair], layer: str) -> dict[str, Any]:
    """Cosines of planted pairs by kind, and the share of them above each threshold."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        cosines = np.array([getattr(pair, f"{layer}_cosine") for pair in pairs if pair.kind == kind])
        spread = dict(
            zip(
                ("min", "p5", "median", "p95", "max"),
                np.percentile(cosines, (0, 5, 50, 95, 100)),
                strict=True,
            )
        )
        found[kind] = {name: round(float(value), 4) for name, value in spread.items()} | {
            "pairs": len(cosines),
            "above": {str(t): round(float((cosines > t).mean()), 4) for t in THRESHOLDS},
        }
    return found


def measure_speed() -> dict[str, Any]:
    """Photos a second, files written, all cores: two runs, since other work may share the machine."""
    found: dict[str, Any] = {}
    for name, photos, images in (("without pictures", 40_000, False), ("with pictures", 20_000, True)):
        with tempfile.TemporaryDirectory() as folder:
            reports = [synthesize(Path(folder), photos=photos, images=images) for _ in range(2)]
        rates = [round(photos / report.seconds) for report in reports]
        found[name] = {"photos": photos, "per second": max(rates), "runs": rates, "bytes": reports[0].bytes}
    return found


def measure(sizes: tuple[int, ...]) -> dict[str, Any]:
    """All figures, by number of photos and layer."""
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "speed": measure_speed(),
        "real": REAL,
        "made up": {},
    }
    for photos in sizes:
        print(f"{photos:,} photos ...", flush=True)
        sample = make_sample(photos)
        copies = [pair.photo_id for pair in sample.pairs]
        layers: dict[str, Any] = {}
        for layer, rows in sample.layers.items():
            statistics, unit = describe_rows(np.delete(rows, copies, axis=0))
            statistics |= describe_neighbours(unit)
            del unit
            layers[layer] = {
                "statistics": {name: round(value, 4) for name, value in statistics.items()},
                "accidental": count_accidental(rows, sample.pairs),
                "planted": describe_pairs(sample.pairs, layer),
            }
        results["made up"][str(photos)] = layers
    return results


def describe_machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


def number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def render(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    made = results["made up"]
    speed = results["speed"]
    lines = [
        "# The sample collection beside real features",
        "",
        f"`python -m benchmarks.sample_statistics` on {results['machine']}. Seed 0.",
        "",
        "Real: the span over real sets of 1,000 to 4,300 rows, so the column to hold beside it is the first; a",
        "larger collection has nearer neighbours. Zeros of fc7 are meant to be more than in those sets: of the",
        "Caffe reference network 65 to 85 % are expected. Planted copies are left out of the first table of a layer.",
        f"Variance: centred covariance of the first {VARIANCE_ROWS:,} unit rows. Neighbours: median over",
        f"{QUERIES:,} photos, all photos searched.",
        "",
        f"Written on all cores, better of two runs: {speed['without pictures']['per second']:,} photos/s without",
        f"pictures, {speed['with pictures']['per second']:,} with.",
    ]
    for layer, spans in REAL.items():
        lines += ["", f"## {layer}", "", "| | real | " + " | ".join(f"{int(n):,}" for n in made) + " |"]
        lines.append("|---|---|" + "---|" * len(made))
        for name, (low, high) in spans.items():
            values = " | ".join(number(made[n][layer]["statistics"][name]) for n in made)
            span = number(low) if low == high else f"{number(low)} – {number(high)}"
            lines.append(f"| {name} | {span} | {values} |")
        lines += render_pairs(layer, made)
    return "\n".join(lines) + "\n"


def render_pairs(layer: str, made: dict[str, Any]) -> list[str]:
    """Planted and accidental pairs of one layer."""
    largest = max(made, key=int)
    planted = made[largest][layer]["planted"]
    head = " | ".join(f"> {t}" for t in THRESHOLDS)
    lines = ["", f"Planted pairs of {int(largest):,} photos: cosine, and the share above a threshold.", ""]
    lines += [
        f"| kind | pairs | min | p5 | median | p95 | max | {head} |",
        "|---|" + "---|" * (6 + len(THRESHOLDS)),
    ]
    for kind, found in planted.items():
        spread = " | ".join(f"{found[name]:.3f}" for name in ("min", "p5", "median", "p95", "max"))
        shares = " | ".join(f"{share:.0%}" for share in found["above"].values())
        lines.append(f"| {kind} | {found['pairs']:,} | {spread} | {shares} |")
    lines += ["", "Pairs that nobody planted, per 1,000 photos of the collection.", ""]
    lines += [f"| photos | compared with all | highest | {head} |", "|---|" + "---|" * (2 + len(THRESHOLDS))]
    for photos, layers in made.items():
        found = layers[layer]["accidental"]
        counts = " | ".join(f"{found[str(t)]:,.3g}" for t in THRESHOLDS)
        compared = f"{found['photos compared with all']:,}"
        lines.append(f"| {int(photos):,} | {compared} | {found['highest']:.3f} | {counts} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=SIZES, help="sizes, multiples of 1,000")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = measure(tuple(arguments.photos))
    text = render(results)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "sample_statistics.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "sample_statistics.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
