"""The pictures of a store's annotations, as PNGs: where its photos were taken, and when.

The same counts give the same bytes with the same Matplotlib. No pyplot: nothing global is opened or left behind. The
map is a plain grid of longitude and latitude; no coasts or borders, which would be somebody's data.
"""

import importlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import DependencyError
from engine.jobs.annotation_counts import CELL
from engine.jobs.plot import DEFAULT, FAINT, FRONT, SOFT, STYLE
from engine.words import counted

if TYPE_CHECKING:
    from engine.jobs.annotation_stats import Stats

DPI: Final = 150
MAP_INCHES, DATES_INCHES = (10.0, 5.3), (10.0, 3.8)
# Sequential, from light to dark, told apart by readers with any colour vision; the lightest is still seen on white.
DENSITY: Final = ("#9ecae1", "#4292c6", "#2171b5", "#08519c", "#08306b")
TAILS: Final = 0.005  # of the photos at either end of time are left out of the histogram: clocks that were never set


def draw_map(stats: "Stats") -> bytes:
    """A PNG: the world as a grid of longitude and latitude, a dot for each half degree that has photos."""
    colors = _matplotlib("colors")
    rows, columns = np.nonzero(stats.places)
    counts = stats.places[rows, columns]
    order = np.argsort(counts, kind="stable")  # the fullest on top
    figure, axes = _figure(MAP_INCHES, (0.06, 0.065, 0.83, 0.785))
    axes.set_xlim(-180, 180)
    axes.set_ylim(-90, 90)
    axes.set_aspect("equal", anchor="W")
    meridians, parallels = range(-150, 151, 30), range(-60, 61, 30)
    axes.set_xticks(meridians, [_degrees(value, "W", "E") for value in meridians])
    axes.set_yticks(parallels, [_degrees(value, "S", "N") for value in parallels])
    axes.grid(color=FAINT, linewidth=0.7)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set(visible=True, color=FAINT)
    if len(order):
        rows, columns, counts = rows[order], columns[order], counts[order]
        most = max(int(counts.max()), 2)
        dots = axes.scatter(
            (columns + 0.5) * CELL - 180, (rows + 0.5) * CELL - 90, c=counts, s=_sizes(counts),
            cmap=colors.LinearSegmentedColormap.from_list("density", DENSITY), norm=colors.LogNorm(1, most),
            linewidths=0, alpha=0.85, zorder=3,
        )  # fmt: skip
        box = axes.get_position()
        bar = figure.colorbar(dots, cax=figure.add_axes((0.915, box.y0, 0.014, box.height)))
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=8, labelcolor=SOFT)
        ticks = [10**power for power in range(7) if 10**power <= most]
        bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
        bar.ax.minorticks_off()
    else:
        axes.text(0, 12, "No photo of this store is geo-tagged.", ha="center", color=SOFT)
    located = int(stats.places.sum())
    tagged = f"{located:,} of {stats.photos:,} photos are geo-tagged"
    note = f"{tagged}; a dot for each cell of half a degree, its colour the photos there"
    return _finished(figure, "Where the photos were taken", note)


def draw_dates(stats: "Stats") -> bytes:
    """A PNG: photos by month of being taken (bars) and posted (a line)."""
    figure, axes = _figure(DATES_INCHES, (0.075, 0.12, 0.905, 0.68))
    shown = [_within(stats.months[name]) for name in ("taken", "posted")]
    spans = [span for span in shown if span is not None]
    if not spans:
        axes.text(0.5, 0.5, "No photo of this store has a date.", ha="center", color=SOFT, transform=axes.transAxes)
        return _finished(figure, "When the photos were taken", "")
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    months = np.arange(low, high + 1)
    for name, colour in (("taken", FRONT), ("posted", DEFAULT)):
        heights = [stats.months[name].get(str(month), 0) for month in months]
        if name == "taken":
            axes.bar(range(len(months)), heights, width=0.86, color=colour, alpha=0.75, label="taken", linewidth=0)
        else:
            axes.plot(range(len(months)), heights, color=colour, linewidth=1.6, label="posted")
    years = [i for i, month in enumerate(months) if str(month).endswith("-01")]
    step = max(1, len(years) // 12)
    axes.set_xticks(years[::step], [str(months[i])[:4] for i in years[::step]])
    axes.set_xlim(-0.8, len(months) - 0.2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_matplotlib("ticker").FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.legend(loc="upper left", fontsize=8.5, frameon=False)
    outside = sum(
        count for name in ("taken", "posted") for month, count in stats.months[name].items()
        if not low <= np.datetime64(month, "M") <= high
    )  # fmt: skip
    left_out = f"; not shown: {counted(outside, 'date')} outside of this" if outside else ""
    return _finished(figure, "When the photos were taken and posted", f"Photos by month, {low} to {high}{left_out}")


def _within(months: Mapping[str, int]) -> tuple[Any, Any] | None:
    """The first and the last month between which all but the tails lie; None where there are no dates."""
    if not months:
        return None
    names = sorted(months)
    shares = np.cumsum([months[name] for name in names]) / sum(months.values())
    first, last = np.searchsorted(shares, [TAILS, 1 - TAILS], "right")
    return np.datetime64(names[first], "M"), np.datetime64(names[min(int(last), len(names) - 1)], "M")


def _sizes(counts: Any) -> Any:
    return 5 + 9 * np.log10(counts)


def _degrees(value: int, below: str, above: str) -> str:
    return "0°" if value == 0 else f"{abs(value)}° {below if value < 0 else above}"


def _matplotlib(part: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{part}")
    except ImportError as error:
        raise DependencyError(
            f"Matplotlib cannot be imported ({error}), so there are no pictures; stats.json holds the numbers. "
            "Install it: pip install matplotlib"
        ) from error


def _figure(inches: tuple[float, float], place: tuple[float, float, float, float]) -> tuple[Any, Any]:
    """A figure and its axes, in the style of all figures here."""
    figures, agg = _matplotlib("figure"), _matplotlib("backends.backend_agg")
    with importlib.import_module("matplotlib").rc_context(STYLE):
        figure = figures.Figure(figsize=inches, dpi=DPI)
        agg.FigureCanvasAgg(figure)
        axes = figure.add_axes(place)
        axes.tick_params(length=0, labelsize=8.5, pad=5)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    return figure, axes


def _finished(figure: Any, title: str, note: str) -> bytes:
    data = io.BytesIO()
    with importlib.import_module("matplotlib").rc_context(STYLE):
        figure.text(0.022, 0.945, title, fontsize=12.5, fontweight="bold", va="center")
        figure.text(0.022, 0.945 - 0.26 / figure.get_figheight(), note, fontsize=8.5, color=SOFT, va="center")
        figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white")
    return data.getvalue()
