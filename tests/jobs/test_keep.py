"""Which photo of a group is kept: every rule, ties, what is not known, and what a representative must be."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import InputError
from engine.jobs import keep
from engine.jobs.dedup import Duplicates
from engine.jobs.groups import DuplicateGroup, group_photos
from engine.jobs.identical import expand
from engine.jobs.keep import KEEP_RULES, check_keep, choose_kept
from engine.jobs.pair_scores import PairScores
from engine.store.store import Store
from tests.builders import make_store
from tests.jobs.found import duplicates

IDS = [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", {"fc7": np.ones((9, 2), np.float32)}, IDS)


def kept(found: Duplicates) -> list[int]:
    return [group.representative for group in found.groups]


def annotated(monkeypatch: pytest.MonkeyPatch, **columns: dict[int, Any]) -> None:
    def rows(store: Store, photo_ids: Any, names: Any) -> list[dict[str, Any]]:
        return [{name: columns.get(name, {}).get(photo) for name in names} for photo in photo_ids.tolist()]

    monkeypatch.setattr(keep, "annotations_of", rows)


TRIANGLES = [(4, 5, 0.96), (4, 6, 0.97), (5, 6, 0.98), (7, 8, 0.99), (1, 2, 1.0)]


def test_first_is_the_lowest_id(store: Store) -> None:
    found = duplicates(TRIANGLES)
    turned = replace(found, groups=tuple(replace(g, representative=max(g.photo_ids)) for g in found.groups))
    assert kept(turned) == [6, 2, 8]
    assert kept(choose_kept(turned, store, "first")) == [4, 1, 7]


def test_min_score_is_that_of_the_new_representative(store: Store) -> None:
    group = choose_kept(duplicates(TRIANGLES), store, "first").groups[0]
    assert group.representative == 4 and group.min_score == pytest.approx(0.96)


def test_only_a_duplicate_of_all_is_chosen(store: Store) -> None:
    """3 and 4 are both alike to 9, but not to each other: neither may stand for the other."""
    star = duplicates([(3, 9, 0.96), (4, 9, 0.97), (5, 9, 0.97)])
    assert star.groups[0].photo_ids == (3, 4, 5, 9)
    assert kept(choose_kept(star, store, "first")) == [9]


def test_of_a_chain_any_may_be_chosen(store: Store) -> None:
    chain = duplicates([(1, 2, 0.96), (2, 3, 0.97), (3, 4, 0.98)])
    group = DuplicateGroup(representative=2, photo_ids=(1, 2, 3, 4), min_score=0.96)
    chosen = choose_kept(replace(chain, groups=(group,)), store, "first")
    assert kept(chosen) == [1] and chosen.groups[0].min_score == 0.96


def test_copies_of_a_large_class_stand_for_each_other(store: Store) -> None:
    """In the pairs are only those with the lowest id of the class; yet each is a duplicate of every other."""
    copies = np.array([[photo, 1] for photo in range(2, 60)])
    near = np.array([[1, 100]]), np.array([0.97], np.float32)
    pairs, scores = expand(*near, copies)
    found = replace(duplicates([]), pairs=pairs, scores=scores, copies=copies, groups=group_photos(*near, copies))
    assert found.groups[0].photo_ids == (*range(1, 60), 100)
    lookup = PairScores(found)
    assert lookup.of(np.array([50, 50, 50]), np.array([51, 100, 1])).tolist() == [1, pytest.approx(0.97), 1]
    turned = replace(found, groups=(replace(found.groups[0], representative=100),))
    assert kept(choose_kept(turned, store, "first")) == [1]


def test_scores_are_looked_up_either_way_round() -> None:
    lookup = PairScores(duplicates([(1, 2, 0.5), (2, 9, 0.75)]))
    found = lookup.of(np.array([1, 2, 9, 1, 1, 0]), np.array([2, 1, 2, 9, 10, 99]))
    assert found[:3].tolist() == [0.5, 0.5, 0.75] and np.isnan(found[3:]).all()
    assert np.isnan(PairScores(duplicates([])).of(np.array([1]), np.array([2]))).all()


def test_largest_by_pixels_then_bytes(tmp_path: Path, store: Store) -> None:
    images = tmp_path / "images"
    (images / "0").mkdir(parents=True)
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 255, (20, 20, 3), np.uint8))
    for photo, side in {4: 20, 5: 30, 6: 25}.items():
        Image.new("RGB", (side, side)).save(images / "0" / f"{photo}.jpg")
    noise.resize((20, 20)).save(images / "0" / "8.png")
    Image.new("RGB", (20, 20)).save(images / "0" / "7.jpeg")
    (images / "0" / "1.jpg").write_bytes(b"no picture at all")
    found = duplicates(TRIANGLES)
    assert kept(choose_kept(found, store, "largest", images)) == [5, 1, 8]  # of 1 and 2 nothing is known
    with pytest.raises(InputError, match="--images DIR"):
        choose_kept(found, store, "largest")
    with pytest.raises(InputError, match="none of the 7 pictures"):
        choose_kept(found, store, "largest", tmp_path)


def test_oldest_by_the_date_taken_else_posted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    annotated(
        monkeypatch,
        taken={4: datetime(2007, 1, 1), 5: datetime(2006, 5, 1), 7: datetime(2008, 1, 1), 8: datetime(2008, 1, 1)},
        posted={6: datetime(2006, 6, 1, tzinfo=UTC), 8: datetime(2008, 3, 1, tzinfo=UTC)},
    )
    assert kept(choose_kept(duplicates(TRIANGLES), store, "oldest")) == [5, 1, 8]


def test_most_favoured_by_favourites_then_views(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    annotated(monkeypatch, favorites={5: 3, 6: 4, 7: 1, 8: 1}, views={4: 900, 7: 10, 8: 11, 2: 0})
    assert kept(choose_kept(duplicates(TRIANGLES), store, "most-favoured")) == [6, 2, 8]


@pytest.mark.parametrize("rule", ["oldest", "most-favoured"])
def test_without_annotations_it_says_so(store: Store, rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"--keep {rule}: goes by the annotations.*has none"):
        check_keep(rule, store, None)
    annotated(monkeypatch)
    with pytest.raises(InputError, match=f"--keep {rule}: the annotations have no .* of any of these 7 photos"):
        choose_kept(duplicates(TRIANGLES), store, rule)


def test_rules_are_checked_by_name(store: Store) -> None:
    with pytest.raises(InputError, match=r"--keep newest: expected one of largest, oldest, most-favoured, first"):
        check_keep("newest", store, None)
    check_keep(None, store, None)
    assert KEEP_RULES[-1] == "first"


def test_nothing_to_choose_from(store: Store) -> None:
    empty = duplicates([])
    assert choose_kept(empty, store, "first") is empty
