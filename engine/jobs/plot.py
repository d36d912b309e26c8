"""The figure of a benchmark: recall against throughput, as a PNG and an SVG.

Drawn from the document of `bench.json` alone, so it can be drawn again without measuring again. The same document
gives the same bytes with the same Matplotlib. No pyplot: nothing global is opened or left behind.
"""

import importlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from engine.errors import DependencyError

INCHES, DPI = (8.0, 5.4), 200
LEFT, WIDTH = 0.1, 0.872  # of the axes, as shares of the figure
INK, SOFT, FAINT = "#22272e", "#6b7280", "#e3e6ea"
# Okabe and Ito's colours, told apart by readers with any colour vision.
FRONT, DEFAULT, OTHER = "#0072b2", "#d55e00", "#a3aab5"
Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
STYLE = {
    "svg.hashsalt": "mirsearch",
    "font.family": "DejaVu Sans",  # the one font that comes with Matplotlib
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": OTHER,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}


def draw_recall_qps(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The figure of a benchmark's document as {"png": …, "svg": …}; DependencyError without Matplotlib."""
    return figure_bytes(INCHES, lambda figure: _Drawing(figure, document).draw(), numbers="bench.json")


def figure_bytes(inches: tuple[float, float], draw: Callable[[Any], None], *, numbers: str) -> dict[str, bytes]:
    """A figure of this size in the style of all figures here, drawn upon, as {"png": …, "svg": …}.

    numbers: the file that holds what is drawn, which DependencyError names without Matplotlib.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
        agg = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise DependencyError(
            f"Matplotlib cannot be imported ({error}), so there is no figure; {numbers} holds its numbers. "
            "Install it: pip install matplotlib"
        ) from error
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=inches, dpi=DPI)
        agg.FigureCanvasAgg(figure)
        draw(figure)
        return {kind: _bytes(figure, kind) for kind in ("png", "svg")}


def _bytes(figure: Any, kind: str) -> bytes:
    data = io.BytesIO()
    unsaid = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    figure.savefig(data, format=kind, dpi=DPI, metadata=unsaid[kind], facecolor="white")
    return data.getvalue()


class _Drawing:
    """One figure being drawn. Exact search, where it is far slower, gets a strip of its own under a broken axis."""

    def __init__(self, figure: Any, document: Mapping[str, Any]) -> None:
        self.figure, self.document = figure, document
        self.k = str(document["spec"]["k"])
        self.points: list[dict[str, Any]] = sorted(document["points"], key=lambda point: point["qps"]["median"])
        self.exact = [point for point in self.points if point["kind"] == "exact"]
        self.others = [point for point in self.points if point["kind"] != "exact"]
        self.apart = bool(self.others and self.exact) and 3 * highest(self.exact) < lowest(self.others)
        bottom = 0.235 if self.apart else 0.115
        self.axes = figure.add_axes((LEFT, bottom, WIDTH, 0.85 - bottom))
        self.strip = figure.add_axes((LEFT, 0.115, WIDTH, 0.09)) if self.apart else self.axes

    def draw(self) -> None:
        self._frame(self.axes, self.others if self.apart else self.points)
        if self.apart:
            self._frame(self.strip, self.exact)
            self._break()
        self._titles()
        front = sorted(self._place(point) for point in self.others if point["pareto"])
        if front:
            self.axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.4, alpha=0.75, zorder=3)
        for point in self.points:
            self._mark(point)
        self._label(self._legend())

    def _frame(self, axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
        room = 1.9 if axes is self.strip and self.apart else 1.3
        low, high = lowest(points) / room, highest(points) * room
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        worst = min(point["recall"][self.k] for point in self.points)
        span = max(1 - worst, 0.005)
        axes.set_xlim(max(worst - 0.09 * span, -0.02), 1 + 0.12 * span)
        ticker = importlib.import_module("matplotlib.ticker")
        ticks = round_numbers(low, high)
        axes.yaxis.set_major_locator(ticker.FixedLocator(ticks[len(ticks) // 2 :][:1] if room > 1.5 else ticks))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_major_locator(ticker.FixedLocator(nice_steps(max(worst, 0), 1)))
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=8.5, pad=5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)

    def _break(self) -> None:
        self.axes.tick_params(labelbottom=False)
        self.axes.spines["bottom"].set_visible(False)
        lines = importlib.import_module("matplotlib.lines")
        for y in (0.214, 0.226):
            stroke = lines.Line2D((LEFT - 0.008, LEFT + 0.008), (y - 0.006, y + 0.006), color=SOFT, linewidth=1)
            self.figure.add_artist(stroke)

    def _titles(self) -> None:
        index, machine, spec = (self.document[key] for key in ("index", "machine", "spec"))
        metric = {"cosine": "cosine", "ip": "inner product", "l2": "squared L2 distance"}[index["metric"]]
        photos = index.get("photos", index["rows"])  # documents of version 0.1 know rows alone
        title = f"{index['layer']}, {metric}, {photos:,} photo{'s'[: photos != 1]}, {machine['device']}"
        self.figure.text(0.022, 0.945, f"Recall and throughput: {title}", fontsize=12.5, fontweight="bold")
        self.figure.text(0.022, 0.9, machine_line(machine, spec["repeats"]), fontsize=8, color=SOFT)
        self.strip.set_xlabel(
            f"Recall@{self.k} (share of the true {self.k} nearest that was found)", fontsize=9.5, labelpad=7
        )
        batch = max(point["batch"] for point in self.points)
        self.figure.text(
            0.022, 0.48, f"Queries per second ({batch:,} in one call)", fontsize=9.5, rotation=90, va="center"
        )  # fmt: skip

    def _place(self, point: Mapping[str, Any]) -> tuple[float, float]:
        return point["recall"][self.k], point["qps"]["median"]

    def _pixels(self, point: Mapping[str, Any], qps: str = "median") -> tuple[float, float]:
        x, y = self._axes(point).transData.transform((point["recall"][self.k], point["qps"][qps]))
        return float(x), float(y)

    def _axes(self, point: Mapping[str, Any]) -> Any:
        return self.strip if point["kind"] == "exact" else self.axes

    def _mark(self, point: Mapping[str, Any]) -> None:
        x, y = self._place(point)
        colour, marker, size, order = look(point)
        axes = self._axes(point)
        if has_bar(point):
            axes.vlines(x, point["qps"]["min"], point["qps"]["max"], color=colour, linewidth=1, alpha=0.5, zorder=4)
        axes.plot(
            [x], [y], marker=marker, markersize=size, color=colour, markeredgecolor="white", markeredgewidth=0.9,
            linestyle="none", zorder=order, clip_on=False,
        )  # fmt: skip

    def _legend(self) -> Any:
        lines = importlib.import_module("matplotlib.lines")
        kinds = (
            ({"kind": "index", "pareto": True, "default": False}, "Pareto front"),
            ({"kind": "index", "pareto": False, "default": False}, "other settings"),
            ({"kind": "index", "pareto": True, "default": True}, "default setting"),
            ({"kind": "exact", "pareto": True, "default": False}, "exact search"),
        )
        used = {look(point)[:2] for point in self.points}
        handles = [
            lines.Line2D(
                [], [], marker=look(kind)[1], markersize=look(kind)[2], color=look(kind)[0], markeredgecolor="white",
                linestyle="-" if name == "Pareto front" else "none", linewidth=1.4, label=name,
            )
            for kind, name in kinds
            if look(kind)[:2] in used
        ]  # fmt: skip
        title = "Labels: probes / candidates re-ranked" if len(self.points) > 1 else None
        legend = self.axes.legend(
            handles=handles, loc="lower left", fontsize=8.5, title=title, title_fontsize=8, frameon=True, framealpha=1,
            edgecolor="none", alignment="left", borderaxespad=0.8,
        )  # fmt: skip
        legend.set_zorder(2)
        return legend

    def _label(self, legend: Any) -> None:
        """Name the points, the important ones first; where no free place is left, a beaten one stays without."""
        self.figure.canvas.draw()
        taken: list[Box] = [tuple(legend.get_window_extent(self.figure.canvas.get_renderer()).extents)]
        for point in self.points:
            x, y = self._pixels(point)
            taken.append((x - 7, y - 7, x + 7, y + 7))
            if has_bar(point):
                taken.append((x - 2, self._pixels(point, "min")[1], x + 2, self._pixels(point, "max")[1]))
        front = sorted(self._pixels(point) for point in self.others if point["pareto"])
        for start, stop in pairwise(front):
            taken += boxes_along(start, stop)
        for point in sorted(self.points, key=lambda p: (not p["default"], p["kind"] != "exact", not p["pareto"])):
            self._label_one(point, taken)

    def _label_one(self, point: Mapping[str, Any], taken: list[Box]) -> None:
        axes = self._axes(point)
        colour = look(point)[0] if has_bar(point) else SOFT
        text = axes.annotate(
            name_of(point), self._place(point), xytext=(0, 0), textcoords="offset points", fontsize=7, color=colour,
            fontweight="bold" if point["default"] else "normal", zorder=7, ha="left", va="bottom",
        )  # fmt: skip
        size = text.get_window_extent(self.figure.canvas.get_renderer())
        at, inside = self._pixels(point), tuple(axes.get_window_extent().extents)
        for dx, dy in offsets(size.width, size.height):
            box = (at[0] + dx, at[1] + dy, at[0] + dx + size.width, at[1] + dy + size.height)
            if within(box, inside) and not any(overlap(box, other) for other in taken):
                text.set_position((dx * 72 / DPI, dy * 72 / DPI))  # points: the SVG's pixels are of another size
                taken.append(box)
                return
        text.remove()


def look(point: Mapping[str, Any]) -> tuple[str, str, float, int]:
    """Colour, marker, size in points and drawing order of a point."""
    if point["default"]:
        return DEFAULT, "D" if point["kind"] == "exact" else "o", 8.5, 6
    if point["kind"] == "exact":
        return INK, "D", 6.5, 5
    return (FRONT, "o", 6.5, 5) if point["pareto"] else (OTHER, "o", 5.0, 4)


def has_bar(point: Mapping[str, Any]) -> bool:
    """Whether the spread of a point's repeats is drawn: for all points it would hide them."""
    return bool(point["pareto"] or point["default"] or point["kind"] == "exact")


def lowest(points: Sequence[Mapping[str, Any]]) -> float:
    """The least QPS of any repeat."""
    return float(min(point["qps"]["min"] for point in points))


def highest(points: Sequence[Mapping[str, Any]]) -> float:
    """The greatest QPS of any repeat."""
    return float(max(point["qps"]["max"] for point in points))


def name_of(point: Mapping[str, Any]) -> str:
    """`probes / candidates`, or what was compared exactly."""
    if point["kind"] == "exact":
        return f"exact, {point['batch']:,} in one call"
    return f"{point['probes']} / {point['rerank']:,}"


def machine_line(machine: Mapping[str, Any], repeats: int) -> str:
    """The machine and the versions in one line."""
    faiss = f", FAISS {machine['faiss']['version']}" if machine["faiss"] else ""
    cores = f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}"
    processor = machine["gpus"] or machine["cpu"]
    runs = f"median of {repeats} runs, bars from least to greatest" if repeats > 1 else "one run"
    return f"{processor}, {cores} · mirsearch {machine['engine']}{faiss} · {runs}"


def nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that it goes into a span 4 to 8 times or nearly so."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(size * power for size in (1, 2, 5, 10) if span / (size * power) <= 8)


def nice_steps(low: float, high: float) -> list[float]:
    """Ticks from high down, as long as they are not below low."""
    step = nice_step(max(high - low, 0.005))
    return [round(high - i * step, 10) for i in range(math.floor((high - low) / step + 1e-9) + 1)]


def round_numbers(low: float, high: float) -> list[float]:
    """Ticks between two positive numbers on a log axis: 1, 2 and 5 times powers of ten, or even steps if few fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) >= 3:
        return ticks
    step = nice_step(high - low)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Places for a label of this size about a point, best first, as the offset of its lower left corner in pixels."""
    places: list[tuple[float, float]] = []
    for gap in (12.0, 20.0, 30.0, 42.0):
        near = gap * 0.7
        places += [
            (near, near), (gap, -height / 2), (near, -near - height), (-near - width, near),
            (-gap - width, -height / 2), (-near - width, -near - height), (-width / 2, gap),
            (-width / 2, -gap - height),
        ]  # fmt: skip
    return places


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes (left, bottom, right, top) share any area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def within(box: Box, frame: Sequence[float]) -> bool:
    """Whether a box lies in a frame."""
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def boxes_along(start: Sequence[float], stop: Sequence[float]) -> list[Box]:
    """Small boxes over a line, in pixels, so that no label is written across it."""
    steps = max(int(math.dist(start, stop) / 6), 1)
    at = [
        (start[0] + (stop[0] - start[0]) * i / steps, start[1] + (stop[1] - start[1]) * i / steps) for i in range(steps)
    ]
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
