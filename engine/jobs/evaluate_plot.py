"""The figure of an evaluation: relevance against recall and queries per second, as a PNG and an SVG.

Drawn from the document of `evaluate.json` alone. Above, the mean average precision: an index is a line through its
points, exact search a dashed line, random ranking a dotted one. Below, how much less than exact search of its layer
each point is, with the interval of that difference: of the same queries, it is far narrower than those of the means.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from engine.jobs.plot import FAINT, INK, OTHER, SOFT, figure_bytes, nice_steps, round_numbers

INCHES = (10.0, 7.6)
LEFT, RIGHT, TOP, BOTTOM = (
    (0.095, 0.42),
    (0.555, 0.42),
    (0.52, 0.34),
    (0.165, 0.29),
)  # starts and lengths, of the figure
# Okabe and Ito's colours, told apart by readers with any colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
METRIC = "map"
Point = Mapping[str, Any]


def draw_relevance(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The figure of an evaluation's document as {"png": …, "svg": …}; DependencyError without Matplotlib."""
    return figure_bytes(INCHES, lambda figure: _Drawing(figure, document).draw(), numbers="evaluate.json")


class _Drawing:
    """One figure being drawn: four axes, by relevance or its difference, and by recall or speed."""

    def __init__(self, figure: Any, document: Mapping[str, Any]) -> None:
        self.figure, self.document = figure, document
        self.points: list[Point] = document["points"]
        names = [layer["layer"] for layer in document["layers"]]
        self.colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
        self.recall_at = str(min(10, document["spec"]["depth"]))
        self.axes = {
            (value, by): figure.add_axes((column[0], row[0], column[1], row[1]))
            for value, row in (("map", TOP), ("less", BOTTOM))
            for by, column in (("recall", LEFT), ("qps", RIGHT))
        }

    def draw(self) -> None:
        """All of it."""
        for by in ("recall", "qps"):
            self._levels(self.axes["map", by])
            self.axes["less", by].axhline(0, color=SOFT, linewidth=1, linestyle="--", zorder=2)
            for name, colour in self.colours.items():
                here = [point for point in self.points if point["layer"] == name and point["kind"] == "index"]
                here.sort(key=lambda point: self._along(point, by))
                self._curve(self.axes["map", by], here, by, "metrics", colour)
                self._curve(self.axes["less", by], here, by, "minus_exact", colour)
        for point in self.points:
            if point["kind"] == "exact":
                self._exact(point)
        self._frames()
        self._words()
        self._legend()

    def _along(self, point: Point, by: str) -> float:
        if by == "qps":
            return float(point["qps"]["median"])
        return float(point["recall"][self.recall_at]) if point["recall"] else 1.0

    def _levels(self, axes: Any) -> None:
        """Exact search of each layer and random ranking, across the axes."""
        for point in self.points:
            value = point["metrics"][METRIC]["mean"]
            if point["kind"] == "random":
                axes.axhline(value, color=SOFT, linewidth=1.2, linestyle=":", zorder=2)
            elif point["kind"] == "exact":
                axes.axhline(value, color=self.colours[point["layer"]], linewidth=1, linestyle="--", zorder=2)

    def _curve(self, axes: Any, points: Sequence[Point], by: str, values: str, colour: str) -> None:
        x, y = [self._along(point, by) for point in points], [point[values][METRIC] for point in points]
        if by == "recall":
            axes.plot(x, [value["mean"] for value in y], color=colour, linewidth=1.3, alpha=0.7, zorder=3)
        for at, value, point in zip(x, y, points, strict=True):
            own = point["default"]
            axes.vlines(at, value["low"], value["high"], color=colour, linewidth=1.2, alpha=0.45, zorder=3)
            axes.plot(
                [at], [value["mean"]], marker="o", markersize=8 if own else 5.5, color=colour, linestyle="none",
                markeredgecolor=INK if own else "white", markeredgewidth=1.2 if own else 0.8, zorder=4, clip_on=False,
            )  # fmt: skip

    def _exact(self, point: Point) -> None:
        look = {
            "marker": "D", "markersize": 6.5, "color": self.colours[point["layer"]], "markeredgecolor": "white",
            "linestyle": "none", "zorder": 5, "clip_on": False,
        }  # fmt: skip
        for by in ("recall", "qps"):
            self.axes["map", by].plot([self._along(point, by)], [point["metrics"][METRIC]["mean"]], **look)
        self.axes["less", "qps"].plot([self._along(point, "qps")], [0], **look)

    def _frames(self) -> None:
        ticker = importlib.import_module("matplotlib.ticker")
        searched = [point for point in self.points if point["qps"]]
        slow, fast = (pick(self._along(point, "qps") for point in searched) for pick in (min, max))
        worst = min(self._along(point, "recall") for point in searched)
        ticks = round_numbers(slow / 1.5, fast * 1.5)
        for value, values in (("map", "metrics"), ("less", "minus_exact")):
            shown = [point[values][METRIC] for point in (self.points if value == "map" else searched) if point[values]]
            low = min([interval["low"] for interval in shown] + [0.0])
            high = max([interval["high"] for interval in shown] + [0.0005])
            for by in ("recall", "qps"):
                axes = self.axes[value, by]
                axes.set_ylim(low - 0.07 * (high - low), high + 0.07 * (high - low))
                axes.grid(color=FAINT, linewidth=0.7)
                axes.set_axisbelow(True)
                axes.tick_params(length=0, labelsize=8.5, pad=5, labelbottom=value == "less", labelleft=by == "recall")
                for side in ("top", "right", "left"):
                    axes.spines[side].set_visible(False)
            recall, span = self.axes[value, "recall"], max(1 - worst, 0.005)
            recall.set_xlim(1 - 1.06 * span, 1 + 0.03 * span)
            recall.xaxis.set_major_locator(ticker.FixedLocator(nice_steps(worst, 1)))
            recall.xaxis.set_major_formatter(ticker.FuncFormatter(lambda number, _: f"{number:.10g}"))
            speed = self.axes[value, "qps"]
            speed.set_xscale("log")
            speed.set_xlim(slow / 1.5, fast * 1.5)
            speed.xaxis.set_major_locator(ticker.FixedLocator(ticks if len(ticks) <= 7 else ticks[::3]))
            speed.xaxis.set_minor_locator(ticker.NullLocator())
            speed.xaxis.set_major_formatter(ticker.FuncFormatter(lambda number, _: f"{number:,.10g}"))
        signed = ticker.FuncFormatter(lambda number, _: f"{number:+.10g}" if abs(number) > 1e-12 else "0")
        self.axes["less", "recall"].yaxis.set_major_formatter(signed)

    def _words(self) -> None:
        spec, queries, machine = (self.document[key] for key in ("spec", "queries", "machine"))
        relevance, depth = spec["relevance"], spec["depth"]
        without = f", none of the same {' or '.join(relevance['exclude_same'])}" if relevance["exclude_same"] else ""
        self.figure.text(
            0.02, 0.955, f"Relevance by {relevance['source']}{without}: mAP@{depth}", fontsize=12.5, fontweight="bold"
        )
        self.figure.text(
            0.02, 0.92,
            f"{self.document['relevance']['photos']:,} photos · {queries['queries']:,} queries held out, median "
            f"{queries['relevant_median']:,.0f} relevant photos · {spec['confidence']:.0%} intervals over queries · "
            f"{machine['cpu']}, {machine['device']} · mirsearch {machine['engine']}",
            fontsize=8, color=SOFT,
        )  # fmt: skip
        for text, row in ((f"mAP@{depth}", TOP), ("less exact search, paired", BOTTOM)):
            self.figure.text(0.02, row[0] + row[1] / 2, text, fontsize=9.5, rotation=90, va="center")
        below = {
            "recall": f"Recall@{self.recall_at} (share of the true nearest that was found)",
            "qps": f"Queries per second ({queries['queries']:,} in one call, {depth:,} neighbours)",
        }
        for by, text in below.items():
            self.axes["less", by].set_xlabel(text, fontsize=9.5, labelpad=6)

    def _legend(self) -> None:
        line = importlib.import_module("matplotlib.lines").Line2D
        handles = [
            line([], [], color=colour, marker="o", markersize=5.5, markeredgecolor="white", label=f"{name}, index")
            for name, colour in self.colours.items()
        ]
        dot = {"marker": "o", "markersize": 8, "color": OTHER, "markeredgecolor": INK, "linestyle": "none"}
        diamond = {"marker": "D", "markersize": 6.5, "color": OTHER, "markeredgecolor": "white", "linestyle": "--"}
        handles += [
            line([], [], **dot, label="the index's own settings"),
            line([], [], **diamond, label="exact search"),
            line([], [], color=SOFT, linestyle=":", label="random ranking"),
        ]
        self.figure.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.015), ncols=6, fontsize=8.5, frameon=False
        )
