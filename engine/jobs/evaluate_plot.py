"""The figure of an evaluation: relevance against recall, and against queries per second, as a PNG and an SVG.

Drawn from the document of `evaluate.json` alone. Exact search is a dashed line with its interval, random ranking a
dotted one; an index is a line through its points, each with the interval of its mean.
"""

import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import DependencyError
from engine.jobs.plot import DPI, FAINT, INK, OTHER, SOFT, STYLE, round_numbers

INCHES = (10.0, 5.2)
# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
METRIC = "map"


def draw_relevance(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The figure of an evaluation's document as {"png": …, "svg": …}; DependencyError without Matplotlib."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        figures = importlib.import_module("matplotlib.figure")
        agg = importlib.import_module("matplotlib.backends.backend_agg")
    except ImportError as error:
        raise DependencyError(
            f"Matplotlib cannot be imported ({error}), so there is no figure; evaluate.json holds its numbers. "
            "Install it: pip install matplotlib"
        ) from error
    with matplotlib.rc_context(STYLE):
        figure = figures.Figure(figsize=INCHES, dpi=DPI)
        agg.FigureCanvasAgg(figure)
        _draw(figure, document)
        return {kind: _bytes(figure, kind) for kind in ("png", "svg")}


def _bytes(figure: Any, kind: str) -> bytes:
    data = io.BytesIO()
    unsaid = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
    figure.savefig(data, format=kind, dpi=DPI, metadata=unsaid[kind], facecolor="white")
    return data.getvalue()


def _draw(figure: Any, document: Mapping[str, Any]) -> None:
    spec, points = document["spec"], document["points"]
    recall_at = str(min(10, spec["depth"]))
    left, right = figure.add_axes((0.075, 0.24, 0.435, 0.58)), figure.add_axes((0.545, 0.24, 0.435, 0.58))
    names = [layer["layer"] for layer in document["layers"]]
    found = [point for point in points if point["kind"] == "index"]
    for axes in (left, right):
        _lines(axes, points, names)
    for name, colour in zip(names, _colours(names), strict=True):
        here = [point for point in found if point["layer"] == name]
        _curve(left, [(point["recall"][recall_at], point) for point in here], colour)
        _curve(right, [(point["qps"]["median"], point) for point in here], colour)
    exact = [point for point in points if point["kind"] == "exact"]
    for point, colour in zip(exact, _colours(names), strict=True):
        mark = {"marker": "D", "markersize": 6.5, "color": colour, "markeredgecolor": "white", "linestyle": "none"}
        left.plot([1], [point["metrics"][METRIC]["mean"]], **mark, zorder=5, clip_on=False)
        right.plot([point["qps"]["median"]], [point["metrics"][METRIC]["mean"]], **mark, zorder=5, clip_on=False)
    _frame(left, right, points, recall_at)
    _words(figure, document)
    _legend(figure, names)


def _colours(names: Sequence[str]) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(names))]


def _lines(axes: Any, points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Exact search of each layer with its interval, and random ranking, across the axes."""
    colours = dict(zip(names, _colours(names), strict=True))
    for point in points:
        value = point["metrics"][METRIC]
        if point["kind"] == "random":
            axes.axhline(value["mean"], color=SOFT, linewidth=1.2, linestyle=":", zorder=2)
        elif point["kind"] == "exact":
            colour = colours[point["layer"]]
            axes.axhspan(value["low"], value["high"], color=colour, alpha=0.08, linewidth=0, zorder=1)
            axes.axhline(value["mean"], color=colour, linewidth=1, linestyle="--", zorder=2)


def _curve(axes: Any, places: Sequence[tuple[float, Mapping[str, Any]]], colour: str) -> None:
    ordered = sorted(places, key=lambda place: place[0])
    if not ordered:
        return
    x, y = [at for at, _ in ordered], [point["metrics"][METRIC]["mean"] for _, point in ordered]
    axes.plot(x, y, color=colour, linewidth=1.3, alpha=0.8, zorder=3)
    for at, point in ordered:
        value = point["metrics"][METRIC]
        axes.vlines(at, value["low"], value["high"], color=colour, linewidth=1, alpha=0.35, zorder=3)
        axes.plot(
            [at], [value["mean"]], marker="o", markersize=8 if point["default"] else 5.5, color=colour,
            markeredgecolor=INK if point["default"] else "white", markeredgewidth=1.2 if point["default"] else 0.8,
            linestyle="none", zorder=4, clip_on=False,
        )  # fmt: skip


def _frame(left: Any, right: Any, points: Sequence[Mapping[str, Any]], recall_at: str) -> None:
    ticker = importlib.import_module("matplotlib.ticker")
    low = min(point["metrics"][METRIC]["low"] for point in points)
    high = max(point["metrics"][METRIC]["high"] for point in points)
    room = 0.06 * max(high - low, 0.01)
    speeds = [point["qps"]["median"] for point in points if point["qps"]]
    right.set_xscale("log")
    right.set_xlim(min(speeds) / 1.5, max(speeds) * 1.5)
    ticks = round_numbers(min(speeds) / 1.5, max(speeds) * 1.5)
    right.xaxis.set_major_locator(ticker.FixedLocator(ticks if len(ticks) <= 7 else ticks[::3]))
    right.xaxis.set_minor_locator(ticker.NullLocator())
    right.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
    worst = min([point["recall"][recall_at] for point in points if point["recall"]] or [0.9])
    left.set_xlim(worst - 0.05 * max(1 - worst, 0.01), 1 + 0.03 * max(1 - worst, 0.01))
    left.set_xlabel(f"Recall@{recall_at} (share of the true nearest that was found)", fontsize=9.5, labelpad=6)
    right.set_xlabel("Queries per second (all in one call)", fontsize=9.5, labelpad=6)
    for axes in (left, right):
        axes.set_ylim(low - room, high + room)
        axes.grid(color=FAINT, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=8.5, pad=5)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    right.tick_params(labelleft=False)


def _words(figure: Any, document: Mapping[str, Any]) -> None:
    spec, queries, machine = document["spec"], document["queries"], document["machine"]
    relevance = spec["relevance"]
    left_out = f", none of the same {' or '.join(relevance['exclude_same'])}" if relevance["exclude_same"] else ""
    title = f"Relevance by {relevance['source']}{left_out}: mAP@{spec['depth']}"
    photos = f"{document['relevance']['photos']:,} photos"
    figure.text(0.022, 0.935, title, fontsize=12.5, fontweight="bold")
    confidence = f"{spec['confidence']:.0%} intervals over queries"
    figure.text(
        0.022, 0.885,
        f"{photos} · {queries['queries']:,} queries held out, median {queries['relevant_median']:,.0f} relevant photos"
        f" · {confidence} · {machine['cpu']}, {machine['device']} · mirsearch {machine['engine']}",
        fontsize=8, color=SOFT,
    )  # fmt: skip
    figure.text(0.022, 0.53, f"mAP@{spec['depth']}", fontsize=9.5, rotation=90, va="center")


def _legend(figure: Any, names: Sequence[str]) -> None:
    lines = importlib.import_module("matplotlib.lines")
    handles = [
        lines.Line2D([], [], color=colour, marker="o", markersize=5.5, markeredgecolor="white", label=f"{name}, index")
        for name, colour in zip(names, _colours(names), strict=True)
    ]
    dot = {"marker": "o", "markersize": 8, "color": OTHER, "markeredgecolor": INK, "linestyle": "none"}
    diamond = {"marker": "D", "markersize": 6.5, "color": OTHER, "markeredgecolor": "white", "linestyle": "--"}
    handles += [
        lines.Line2D([], [], **dot, label="the index's own settings"),
        lines.Line2D([], [], **diamond, label="exact search"),
        lines.Line2D([], [], color=SOFT, linestyle=":", label="random ranking"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8.5, frameon=False)
