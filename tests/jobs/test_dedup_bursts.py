"""Bursts: several shots of one owner within minutes, where annotations say so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.index.build import build_index
from engine.index.search import Index
from engine.index.spec import IndexSpec
from engine.jobs import dedup_bursts
from engine.jobs.dedup import DedupSpec, find_duplicates
from engine.jobs.dedup_bursts import burst_pairs
from engine.store.store import Store
from engine.store.synth_facts import draw_facts
from engine.store.synth_model import make_block
from tests.builders import CPU, make_store

NOON = datetime(2010, 5, 1, 12)


def row(owner: str | None, minutes: float | None = None, given: float | None = None) -> dict[str, Any]:
    at = [None if part is None else NOON + timedelta(minutes=part) for part in (minutes, given)]
    return {"owner": owner, "exif_taken": at[0], "taken": at[1]}


@pytest.fixture
def annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, dict[int, dict[str, Any]]]:
    """Photos 0–7: 0, 1 and 2 near each other, 3 a copy of 0 in its bytes, 4 and 5 near each other, 6 and 7 alone."""
    rows = np.eye(8, 16, dtype=np.float32)
    rows[[1, 2]] = rows[0] + rows[[6, 7]] * np.float32(0.1)
    rows[3], rows[5] = rows[0], rows[4] + rows[7] * np.float32(0.1)
    store = make_store(tmp_path / "store", {"x": rows}, np.arange(8))
    told = {photo: row(None) for photo in range(8)}
    monkeypatch.setattr(dedup_bursts, "annotations_of", lambda _, ids, __: [told[photo] for photo in ids.tolist()])
    return store, told


def test_which_pairs_are_bursts(annotated: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, told = annotated
    told |= {
        0: row("a", 0, 900), 1: row("a", 10), 2: row("a", 10.1), 3: row("b", 0), 4: row("a", None, 902), 5: row("a"),
        6: row(None, 0),
    }  # fmt: skip
    pairs = np.array([[0, 1], [0, 2], [1, 2], [0, 3], [0, 4], [1, 4], [0, 5], [0, 6], [6, 7]])
    expected = [True, False, True, False, True, False, False, False, False]
    assert burst_pairs(store, pairs, np.full(9, 0.99), 0.95).tolist() == expected
    assert burst_pairs(store, np.empty((0, 2), np.int64), np.empty(0), 0.95).tolist() == []


def test_of_one_second_and_as_alike_as_copies_is_one_shot(annotated: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, told = annotated
    night = -12 * 60  # midnight
    told |= {
        0: row("a", 1), 1: row("a", 1), 2: row("a", 1 + 1 / 60), 3: row("a", 1, 900), 4: row("a", None, 900),
        5: row("a", night), 6: row("a", night),
    }  # fmt: skip
    pairs = np.array([[0, 1], [0, 2], [3, 4], [5, 6]])
    assert burst_pairs(store, pairs, np.full(4, 0.95), 0.95).tolist() == [False, True, False, True]
    assert burst_pairs(store, pairs, np.full(4, 0.949), 0.95).all()  # alike, no more


def test_planted_copies_of_their_owners_are_copies_and_planted_bursts_are_bursts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = [draw_facts(0, number) for number in range(3)]
    planted = [pair for number in range(3) for pair in make_block(0, number).pairs if pair.fc7_cosine >= 0.8]
    owner, taken, gone = (np.concatenate([getattr(one, name) for one in facts]) for name in ("owner", "taken", "gone"))
    clock = [datetime.fromtimestamp(int(time), UTC).replace(tzinfo=None) for time in taken]
    monkeypatch.setattr(dedup_bursts, "annotations_of", lambda _, ids, __: [
        {"owner": None if gone[photo] else int(owner[photo]) + 1, "exif_taken": None, "taken": clock[photo]}
        for photo in ids.tolist()
    ])  # fmt: skip
    pairs = np.array([[pair.of, pair.photo_id] for pair in planted])
    scores, kinds = np.array([pair.fc7_cosine for pair in planted]), np.array([pair.kind for pair in planted])
    known = ~gone[pairs].any(axis=1)
    found = burst_pairs(None, pairs, scores, 0.93)  # type: ignore[arg-type]
    assert found[known & (kinds == "burst")].all() and (kinds == "burst").sum() > 20
    own = known & (owner[pairs[:, 0]] == owner[pairs[:, 1]]) & (kinds != "burst") & (scores >= 0.93)
    assert own.sum() > 40 and not found[own].any()


def test_bursts_are_apart_from_copies(annotated: tuple[Store, dict[int, dict[str, Any]]]) -> None:
    store, told = annotated
    told |= {0: row("a", 0), 2: row("a", 2), 3: row("a", 1), 4: row("c", 0), 5: row("c", 1)}
    index = Index.open(build_index(store, IndexSpec(layer="x"), device=CPU).path, device=CPU)
    found = find_duplicates(index, DedupSpec(threshold=0.9))
    groups = {group.photo_ids: group.kind for group in found.groups}
    # 1 is somebody else's near copy of 0; 2 is of the burst of 0 and 3, and near 1.
    assert groups == {(0, 1, 2, 3): "copy", (4, 5): "burst"}
    assert found.bursts is not None
    labels = dict(zip(map(tuple, found.pairs.tolist()), found.bursts.tolist(), strict=True))
    assert labels[0, 2] and labels[2, 3] and labels[4, 5]
    assert not labels[0, 3] and not labels[0, 1] and not labels[1, 2]  # the very same bytes are copies


def test_without_annotations_nothing_is_a_burst(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {"x": np.eye(3, dtype=np.float32)}, np.arange(3))
    assert burst_pairs(store, np.array([[0, 1]]), np.ones(1), 0.95).tolist() == [False]
