"""The figure: two files that are pictures, the same each time, with labels that do not cover each other."""

import importlib
import io
import sys
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from engine.errors import DependencyError
from engine.jobs import plot
from engine.jobs.plot import boxes_along, draw_recall_qps, nice_steps, offsets, overlap, round_numbers, within


def point(recall: float, qps: float, **more: Any) -> dict[str, Any]:
    return {
        "kind": "index", "probes": 16, "rerank": 300, "default": False, "pareto": False, "batch": 1000,
        "recall": {"10": recall}, "qps": {"median": qps, "min": qps * 0.9, "max": qps * 1.1},
    } | more  # fmt: skip


EXACT = {"kind": "exact", "probes": None, "rerank": None, "pareto": True, "batch": 64}


def document(*points: dict[str, Any]) -> dict[str, Any]:
    return {
        "spec": {"k": 10, "repeats": 3},
        "index": {"layer": "fc7", "metric": "cosine", "rows": 20000},
        "machine": {"device": "cpu", "cpu": "A Processor", "gpus": None, "cores": 2, "engine": "0.1.0", "faiss": None},
        "points": list(points),
    }


DOCUMENTS = {
    "one": document(point(1.0, 5000.0, **EXACT, default=True)),
    "grid": document(
        *(
            point(
                0.9 + 0.02 * i, 5000 - 700 * i - 90 * j, probes=2**i, rerank=100 * j, pareto=j == 1, default=i == j == 2
            )
            for i in range(5)
            for j in (1, 2, 10)
        ),
        point(1.0, 40.0, **EXACT),
    ),
    "crowd": document(*(point(0.99, 1000.0, probes=i, pareto=True) for i in range(1, 40)), point(1.0, 900.0, **EXACT)),
    "nothing found": document(point(0.0, 1e5, pareto=True, default=True), point(1.0, 1e-3, **EXACT)),
    "no exact": document(point(0.5, 10.0, default=True, pareto=True)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_both_files_are_pictures(name):
    files = draw_recall_qps(DOCUMENTS[name])
    assert sorted(files) == ["png", "svg"]
    assert files["png"].startswith(b"\x89PNG\r\n\x1a\n")
    picture = np.asarray(Image.open(io.BytesIO(files["png"])).convert("RGB"))
    assert picture.shape == (1080, 1600, 3) and (picture != 255).any(axis=2).mean() > 0.01
    assert ElementTree.fromstring(files["svg"]).tag.endswith("svg")


def test_same_document_same_bytes_and_no_date():
    one, other = (draw_recall_qps(DOCUMENTS["grid"]) for _ in range(2))
    assert one == other
    assert b"dc:date" not in one["svg"] and b"Software" not in one["png"]


def drawn(name: str) -> Any:
    agg = importlib.import_module("matplotlib.backends.backend_agg")
    figure = Figure(figsize=plot.INCHES, dpi=plot.DPI)
    agg.FigureCanvasAgg(figure)
    drawing = plot._Drawing(figure, DOCUMENTS[name])
    drawing.draw()
    figure.canvas.draw()
    return drawing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_labels_cover_neither_each_other_nor_the_edge(name):
    drawing = drawn(name)
    renderer = drawing.figure.canvas.get_renderer()
    labels = [text for axes in {drawing.axes, drawing.strip} for text in axes.texts]
    assert labels
    boxes = [tuple(text.get_window_extent(renderer).extents) for text in labels]
    shrunk = [(b[0] + 1, b[1] + 1, b[2] - 1, b[3] - 1) for b in boxes]  # positions are rounded to pixels
    assert not any(overlap(a, b) for i, a in enumerate(shrunk) for b in shrunk[:i])
    assert all(within(box, drawing.figure.bbox.extents) for box in boxes)


def test_default_and_exact_are_always_named():
    drawing = drawn("grid")
    names = {text.get_text() for axes in drawing.figure.axes for text in axes.texts}
    assert {"4 / 200", "exact, 64 in one call"} <= names and len(names) == 16
    assert drawing.apart and not drawn("crowd").apart


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        draw_recall_qps(DOCUMENTS["one"])


def test_nothing_global_is_left_behind():
    matplotlib = importlib.import_module("matplotlib")
    before = dict(matplotlib.rcParams)
    draw_recall_qps(DOCUMENTS["one"])
    assert dict(matplotlib.rcParams) == before


def test_ticks():
    assert round_numbers(90, 2500) == [100, 200, 500, 1000, 2000]
    assert round_numbers(630, 1430) == [700, 800, 900, 1000, 1100, 1200, 1300, 1400]  # past a power of ten
    for low, high in ((1e-3, 1.1e-3), (99, 101), (0.9, 5.0), (1e4, 1e7), (40, 41)):
        ticks = round_numbers(low, high)
        assert 3 <= len(ticks) <= 12 and low <= min(ticks) and max(ticks) <= high
    assert nice_steps(1, 1) == [1.0]
    assert nice_steps(0.9, 1) == pytest.approx([1.0, 0.98, 0.96, 0.94, 0.92, 0.9])
    assert nice_steps(0, 1) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_boxes():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) and not overlap((0, 0, 2, 2), (2, 0, 3, 2))
    assert within((1, 1, 2, 2), (0, 0, 2, 2)) and not within((1, 1, 3, 2), (0, 0, 2, 2))
    assert not any(overlap((dx, dy, dx + 50, dy + 10), (-7, -7, 7, 7)) for dx, dy in offsets(50, 10))
    along = boxes_along((0, 0), (100, 50))
    assert all(any(within((x, x / 2, x, x / 2), box) for box in along) for x in range(0, 95, 12))
