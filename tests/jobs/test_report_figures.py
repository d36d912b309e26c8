"""The figures of a report: the histogram with its threshold, how that was chosen, and hostile words in it."""

import re

import numpy as np

from engine.jobs.dedup_threshold import ThresholdChoice
from engine.jobs.report_figures import histogram, page_text, percent, score_section
from tests.jobs.found import duplicates

PAIRS = [(1, 2, 0.96), (3, 4, 0.98)]
CHOICE = ThresholdChoice(
    threshold=0.93, how="valley", reason="a valley <between> 0.92 and 0.94", default=0.95, false_pairs=0.001, floor=0.9,
    expected=2.5e-5, knee=0.93, sampled=2000, edges=[0.7, 0.8, 0.9, 0.95, 1.0], counts=[400, 1600, 0, 9],
)  # fmt: skip


def test_the_threshold_stands_in_the_histogram_and_in_words() -> None:
    text = score_section(duplicates(PAIRS, threshold_choice=CHOICE))
    assert "Nearest neighbours and the threshold" in text and "threshold 0.93</text>" in text
    assert "A valley &lt;between&gt; 0.92 and 0.94. The nearest neighbour of 2,000 photos" in text
    assert re.findall(r"<td>([\d.e-]+)</td>", text) == ["0.9300", "0.9", "0.93", "2.5e-05"]
    assert re.findall(r": ([\d,]+) photos</title>", text) == ["400", "1,600", "9"]
    # Bars above the threshold stand out, and heights are square roots.
    assert [bool(over) for over in re.findall(r"<rect( class=over)?", text)] == [False, False, True]
    heights = [float(height) for height in re.findall(r" height=([\d.]+)>", text)]
    assert np.allclose(heights, [85, 170, 170 * 3 / 40], atol=0.1)


def test_a_threshold_that_was_given_needs_no_histogram() -> None:
    given = ThresholdChoice(threshold=0.9, how="given", reason="as given", default=0.95, false_pairs=0.001)
    text = score_section(duplicates(PAIRS, threshold_choice=given))
    assert "Scores of the pairs" in text and "As given." in text and "Floor" not in text
    assert len(re.findall("<rect", text)) == 2
    assert "class=alone" in score_section(duplicates(PAIRS))


def test_a_mark_outside_is_not_drawn() -> None:
    counts, edges = np.array([1, 2]), np.array([0.5, 0.75, 1.0])
    assert "mark" not in histogram(counts, edges, "photos", "h", threshold=0.4)
    assert "text-anchor=start>threshold 0.6<" in histogram(counts, edges, "photos", "h", threshold=0.6)
    assert "class=quiet" not in histogram(counts, edges, "photos", "h")


def test_words() -> None:
    assert page_text("<a>{{DATA}}'\"") == "&lt;a&gt;&#123;&#123;DATA}}&#x27;&quot;"
    assert percent(None) == "–" and percent(0.5) == "50.0 %"
