"""Metrics of found copies, by hand, against naive forms, and against scikit-learn's figures."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InputError
from engine.jobs.copy_metrics import (
    FoundPairs,
    group_purity,
    micro_average_precision,
    recall_at_precision,
    score_against_truth,
    score_pairs,
)
from engine.jobs.copy_truth import ALL_KINDS, CopyTruth, check_truth, read_truth
from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup

NO_COPIES = np.empty((0, 2), np.int64)


def duplicates_of(
    pairs: list[tuple[int, int]], copies: list[tuple[int, int]] = [], groups: tuple[DuplicateGroup, ...] = ()  # noqa: B006
) -> Duplicates:  # fmt: skip
    return Duplicates(
        pairs=np.array(sorted(pairs), np.int64).reshape(-1, 2), scores=np.ones(len(pairs), np.float32), groups=groups,
        copies=np.array(copies, np.int64).reshape(-1, 2), threshold=0.95, photos=100, seconds={},
        layer="fc7", metric="cosine", device="cpu",
    )  # fmt: skip


def truth_file(path: Path, *entries: tuple[str, int, int]) -> Path:
    lines = [json.dumps({"kind": k, "photo_id": p, "of": o, "strength": 0.5}) for k, p, o in entries]
    (path / "truth.jsonl").write_text("\n".join(lines) + "\n")
    return path / "truth.jsonl"


def truth_of(tmp_path: Path, *entries: tuple[str, int, int]) -> CopyTruth:
    return read_truth(truth_file(tmp_path, *entries))


def found_pairs(scored: dict[tuple[int, int], float], **more: Any) -> FoundPairs:
    pairs, scores = np.array(list(scored), np.int64).reshape(-1, 2), np.array(list(scored.values()))
    return FoundPairs(pairs=pairs, scores=scores, **{"copies": NO_COPIES, **more})


def naive_ap(scores: list[float], right: list[bool], planted: int) -> float:
    """Down the list, the worst order of equal scores: the precision at each right pair."""
    total, hits = 0.0, 0
    for place, (_, good) in enumerate(sorted(zip(scores, right, strict=True), key=lambda one: (-one[0], one[1])), 1):
        if good:
            hits += 1
            total += hits / place
    return total / planted


def test_average_precision_by_hand():
    # right, wrong, right, wrong, right; four are planted: (1/1 + 2/3 + 3/5) / 4.
    scores, right = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, False, True, False, True])
    assert micro_average_precision(scores, right, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert micro_average_precision(scores[::-1], right[::-1], 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert micro_average_precision(np.empty(0), np.empty(0, bool), 4) == 0
    assert micro_average_precision(scores, np.ones(5, bool), 5) == 1


def test_equal_scores_gain_nothing():
    right = np.array([True, False, False, False])
    assert micro_average_precision(np.ones(4), right, 1) == 1 / 4
    assert recall_at_precision(np.ones(4), right, 1) is None


def test_average_precision_is_scikit_learn_s():
    # sklearn.metrics.average_precision_score of scikit-learn 1.9.1, default_rng(3): scores without ties, all planted
    # pairs in the list. The challenge's figure is the same for those.
    rng = np.random.default_rng(3)
    right = rng.random(1000) < 0.2
    scores = rng.normal(size=1000) + right
    assert micro_average_precision(scores, right, int(right.sum())) == pytest.approx(0.5200635216566744, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40), st.integers(0, 5))
def test_average_precision_equals_the_naive_one(entries: list[tuple[int, bool]], missing: int):
    scores, right = [float(score) for score, _ in entries], [good for _, good in entries]
    planted = max(sum(right) + missing, 1)
    found = micro_average_precision(np.array(scores), np.array(right), planted)
    assert found == pytest.approx(naive_ap(scores, right, planted))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 5),
    st.sampled_from([0.5, 0.9, 1.0]),
)
def test_recall_at_precision_equals_trying_every_threshold(entries: list[tuple[int, bool]], missing: int, least: float):
    scores, right = np.array([float(score) for score, _ in entries]), np.array([good for _, good in entries])
    planted = max(int(right.sum()) + missing, 1)
    # A cut within equal scores, wrong ones first, is never better than one at their end or before them.
    best = None
    for threshold in np.unique(scores):
        taken = scores >= threshold
        if right[taken].mean() >= least and right[taken].any():
            best = max(best or 0.0, right[taken].sum() / planted)
    found = recall_at_precision(scores, right, planted, least)
    assert (found[0] if found else None) == (pytest.approx(best) if best is not None else None)
    if found:
        taken = scores >= found[1]
        assert right[taken].mean() >= least and right[taken].sum() / planted == pytest.approx(found[0])


def test_recall_at_precision_by_hand():
    right = np.array([True] * 9 + [False] + [True] * 9 + [False] * 5)
    scores = np.linspace(1, 0.5, len(right))
    recall, threshold = recall_at_precision(scores, right, 20) or (None, None)
    assert recall == 18 / 20 and threshold == pytest.approx(scores[18])


def test_truth_by_hand(tmp_path: Path):
    truth = truth_file(
        tmp_path, ("exact", 5, 1), ("exact", 9, 1), ("near-strong", 6, 2), ("near-weak", 7, 3), ("burst", 8, 4),
        ("burst", 10, 4), ("cropped", 10_000_011, 11),
    )  # fmt: skip
    # (5, 9) is true by way of photo 1; (4, 8) is a burst, (1, 2) nobody planted.
    report = score_against_truth(duplicates_of([(1, 5), (5, 9), (2, 6), (4, 8), (1, 2)]), read_truth(truth))
    counts = {kind: (entry.planted, entry.found) for kind, entry in report.kinds.items() if entry.planted}
    assert counts == {"exact": (2, 1), "near-strong": (1, 1), "near-weak": (1, 0), "burst": (2, 1), "cropped": (1, 0)}
    assert tuple(report.kinds) == ALL_KINDS
    assert report.precision == 3 / 5 and report.bursts_found == 1 and report.recall == 2 / 5
    assert report.kinds["exact"].recall == 0.5 and report.kinds["near-medium"].recall is None
    assert report.document()["kinds"]["near-strong"] == {"planted": 1, "found": 1, "recall": 1.0}
    # All score 1, so the two wrong ones stand before the two right ones; (5, 9) is not in the list.
    assert report.micro_ap == pytest.approx((1 / 3 + 2 / 4) / 5)
    assert report.recall_at_p90 is None and report.purity is None


def test_figures_of_scored_pairs(tmp_path: Path):
    truth = truth_of(tmp_path, ("exact", 2, 1), ("mirrored", 4, 3), ("overlaid", 6, 5), ("burst", 8, 7))
    found = found_pairs({(1, 2): 1.0, (3, 4): 0.95, (7, 8): 0.9, (5, 6): 0.85, (1, 9): 0.8})
    report = score_pairs(found, truth)
    assert report.micro_ap == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert (report.recall_at_p90, report.threshold_at_p90) == (2 / 3, 0.95)
    assert report.recall == 1 and report.precision == 3 / 5
    assert json.loads(json.dumps(report.document()))["micro_ap"] == report.micro_ap


def test_a_pair_by_way_of_another_is_neither_right_nor_wrong(tmp_path: Path):
    truth = truth_of(tmp_path, ("near-strong", 2, 1), ("near-strong", 3, 2))
    without = score_pairs(found_pairs({(1, 2): 0.9, (2, 3): 0.8}), truth)
    beside = score_pairs(found_pairs({(1, 3): 0.99, (1, 2): 0.9, (2, 3): 0.8}), truth)
    assert without.micro_ap == beside.micro_ap == 1 and beside.precision == 1


def test_a_pair_planted_twice_counts_once(tmp_path: Path):
    truth = truth_of(tmp_path, ("burst", 2, 1), ("near-weak", 2, 1), ("near-weak", 1, 2))
    report = score_pairs(found_pairs({(1, 2): 0.9}), truth)
    assert report.micro_ap == 1 and report.recall == 1 and report.kinds["near-weak"].found == 2


def test_truth_about_copies_that_are_in_no_pair(tmp_path: Path):
    truth = truth_file(tmp_path, ("exact", 5, 3), ("near-strong", 20, 5), ("near-strong", 21, 5))
    report = score_against_truth(duplicates_of([(1, 20), (1, 3), (1, 5)], [(3, 1), (5, 1)]), read_truth(truth))
    assert report.kinds["exact"].found == 1 and report.kinds["near-strong"].found == 1


def test_truth_with_nothing_found(tmp_path: Path):
    report = score_against_truth(duplicates_of([]), read_truth(truth_file(tmp_path, ("exact", 5, 3))))
    assert report.precision is None and report.kinds["exact"].recall == 0 and report.micro_ap == report.recall == 0


def test_a_truth_without_copies_has_no_figures(tmp_path: Path):
    report = score_pairs(found_pairs({(1, 2): 0.9}), truth_of(tmp_path, ("burst", 5, 3)))
    assert report.micro_ap is None and report.recall is None and report.recall_at_p90 is None and report.precision == 0


def test_purity_by_hand(tmp_path: Path):
    truth = truth_of(tmp_path, ("exact", 2, 1), ("cropped", 3, 2), ("exact", 5, 4), ("burst", 7, 6))
    # {1, 2, 3} is one original; of {4, 5, 6} two in three; {6, 7} are a burst, so two originals.
    assert group_purity(((1, 2, 3), (4, 5, 6), (6, 7)), truth) == (6 / 8, 1 / 3)
    assert group_purity((), truth) == (None, None)
    group = DuplicateGroup(representative=1, photo_ids=(1, 2, 9), min_score=0.9)
    report = score_against_truth(duplicates_of([(1, 2)], groups=(group,)), read_truth(tmp_path / "truth.jsonl"))
    assert report.purity == 2 / 3 and report.pure_groups == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=12))
def test_originals_are_connected_components(tmp_path_factory: pytest.TempPathFactory, edges: list[tuple[int, int]]):
    truth = truth_of(tmp_path_factory.mktemp("truth"), *(("exact", a, b) for a, b in edges))
    reached = {photo: {photo} for photo in range(13)}
    for a, b in edges * len(edges):
        reached[a] = reached[b] = reached[a] | reached[b]
        for photo in reached[a]:
            reached[photo] = reached[a]
    assert truth.original(np.arange(13)).tolist() == [min(reached[photo]) for photo in range(13)]
    every = np.array(list(combinations(range(13), 2)))
    assert truth.same(every).tolist() == [b in reached[a] for a, b in every.tolist()]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "7", '{"kind": "exact", "photo_id": 1}', '{"kind": "other", "photo_id": 1, "of": 2}',
     '{"kind": "exact", "photo_id": true, "of": 2}', '{"kind": "exact", "photo_id": "1", "of": 2}',
     '{"kind": ["exact"], "photo_id": 1, "of": 2}', '{"kind": "exact", "photo_id": 9223372036854775808, "of": 2}',
     '{"kind": "exact", "photo_id": -1, "of": 2}'],
)  # fmt: skip
def test_damaged_truth_names_the_line(tmp_path: Path, line: str):
    truth = truth_file(tmp_path, ("exact", 5, 3))
    truth.write_text(truth.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"truth\.jsonl, line 2: expected"):
        read_truth(truth)


def test_truth_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.jsonl: cannot be read"):
        read_truth(tmp_path / "absent.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_truth(tmp_path / "binary")


def test_truth_that_says_nothing_about_a_store(tmp_path: Path):
    path = truth_file(tmp_path, ("exact", 5, 3), ("burst", 8, 7))
    check_truth(read_truth(path), path, np.array([3, 5]))
    with pytest.raises(InputError, match=r"truth\.jsonl: none of its 2 planted pairs is of photos of this store"):
        check_truth(read_truth(path), path, np.array([3, 8]))
    path.write_text("\n")
    with pytest.raises(InputError, match=r"truth\.jsonl: holds no planted pair"):
        check_truth(read_truth(path), path, np.array([3, 5]))
